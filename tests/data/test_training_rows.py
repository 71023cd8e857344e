"""Training rows and triples, and batches of them."""

import gzip
import json
import pickle

import pytest
from datasets import Dataset

from hf_xlir.data import (
    RANKED_EXAMPLE_FEATURES,
    TRAINING_ROW_FEATURES,
    TRIPLE_FEATURES,
    RetrieverCollator,
    load_passages,
    load_queries,
    load_training_rows,
    load_triples,
)
from hf_xlir.data.reading import RowErrors
from hf_xlir.data.training_rows import _read_id_triples
from hf_xlir.models.processing_colbert_xlmr import ColBERTXLMRProcessor


FULL = {
    "id": "q1",
    "lang": "fi",
    "query": "NA",
    "teacher_query": "null",
    "positive": {"title": "T", "text": "a\tb", "id": "p1"},
    "negatives": ["c\r", {"title": None, "text": "d"}, {"text": "e"}],
    "teacher_scores": [3, 2.5, -1e3, 0],
    "fact": {"more": 1},
}

RECORD = {
    "id": "q1",
    "lang": "fi",
    "query": "NA",
    "teacher_query": "null",
    "positive": {"title": "T", "text": "a\tb"},
    "negatives": [{"title": "", "text": "c\r"}, {"title": "", "text": "d"}, {"title": "", "text": "e"}],
    "teacher_scores": [3.0, 2.5, -1000.0, 0.0],
}

SHORT = {"query": "q", "positive": "p", "negatives": ["n", "m"]}


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


class TestRows:
    @pytest.mark.parametrize("layout", ["jsonl", "json", "json.gz"])
    def test_all_columns(self, write, layout):
        content = lines(FULL, FULL) if layout == "jsonl" else json.dumps([FULL, FULL])
        path = write(f"rows.{layout}", gzip.compress(content.encode()) if layout.endswith("gz") else content)
        assert load_training_rows(path).to_list() == [RECORD, RECORD]
        assert load_training_rows(path).features == TRAINING_ROW_FEATURES
        assert list(load_training_rows(path, streaming=True)) == [RECORD, RECORD]

    def test_only_columns_of_the_file(self, write):
        path = write(
            "rows.jsonl", lines(SHORT, {**SHORT, "lang": None}, {"query": "q", "positive": "p", "negatives": []})
        )
        with pytest.raises(ValueError, match=r"line 3: it has 0 negative\(s\) instead of 2, .*`num_negatives` keeps"):
            load_training_rows(path)
        loaded = load_training_rows(path, on_error="skip")
        assert loaded.column_names == ["query", "positive", "negatives"]
        assert loaded[1] == {
            "query": "q",
            "positive": {"title": "", "text": "p"},
            "negatives": [{"title": "", "text": "n"}, {"title": "", "text": "m"}],
        }
        assert load_training_rows(write("none.jsonl", lines({"query": "q", "positive": "p"})))[0]["negatives"] == []

    def test_the_first_negatives(self, write):
        path = write(
            "rows.jsonl", lines(FULL, {**FULL, "negatives": ["x", "y"], "teacher_scores": [1, 2, 3], "id": 7})
        )
        loaded = load_training_rows(path, num_negatives=2)
        assert loaded["teacher_scores"][:] == [[3.0, 2.5, -1000.0], [1.0, 2.0, 3.0]]
        assert [len(negatives) for negatives in loaded["negatives"]] == [2, 2]
        assert loaded["id"][:] == ["q1", "7"]
        with pytest.raises(ValueError, match=r"line 2: it has 2 negative\(s\) instead of 3"):
            load_training_rows(path, num_negatives=3)
        with pytest.raises(ValueError, match="`num_negatives` must be a positive integer, got 0"):
            load_training_rows(path, num_negatives=0)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"query": None}, "it has no `query`"),
            ({"query": " "}, "`query` is not text: ' '"),
            ({"lang": None}, "it has no `lang`, unlike the first row"),
            ({"lang": 3}, "`lang` is not text: 3"),
            ({"teacher_query": ["q"]}, "`teacher_query` is not text"),
            ({"positive": None}, "its positive is neither a text nor an object with a `text`: None"),
            ({"positive": {"title": "T"}}, "its positive is neither a text"),
            ({"positive": {"title": 1, "text": "t"}}, "the title of its positive is not text: 1"),
            ({"negatives": "n"}, "`negatives` is not a list of documents"),
            ({"negatives": ["n", "", "m"]}, "its negative is neither a text"),
            (
                {"teacher_scores": [1, 2, 3]},
                r"`teacher_scores` must be a list of 4 numbers, one per document, got \[1, 2, 3\]",
            ),
            ({"teacher_scores": [1, 2, 3, True]}, "`teacher_scores` must be a list of 4 numbers"),
            ({"teacher_scores": [1, 2, 3, float("inf")]}, "`teacher_scores` must be a list of 4 numbers"),
            ({"teacher_scores": [1, 2, 3, 10**400]}, "too large"),
        ],
    )
    def test_a_bad_row(self, write, change, reason):
        path = write("rows.jsonl", lines(FULL, {**FULL, **change}, FULL))
        with pytest.raises(ValueError, match=f"line 2: .*{reason}"):
            load_training_rows(path)
        assert load_training_rows(path, on_error="skip").to_list() == [RECORD, RECORD]

    def test_a_column_that_the_first_row_lacks(self, write):
        path = write("rows.jsonl", lines(SHORT, {**SHORT, "teacher_scores": [1, 2, 3]}))
        with pytest.raises(ValueError, match="line 2: it has `teacher_scores`, unlike the first row"):
            load_training_rows(path)
        with pytest.raises(FileNotFoundError, match="There is no file"):
            load_training_rows(path + "x")

    def test_what_datasets_writes_is_read_and_batched(self, write, tmp_path):
        rows = Dataset.from_list([RECORD, {**RECORD, "query": "r"}])
        rows.to_json(tmp_path / "rows.jsonl")
        loaded = load_training_rows(tmp_path / "rows.jsonl")
        assert loaded.to_list() == rows.to_list()

        class Processor:
            def process_queries(self, texts, warn):
                return {"texts": texts}

            def process_documents(self, texts, titles):
                return {"texts": list(texts), "titles": list(titles)}

        batch = RetrieverCollator(Processor())(list(loaded))
        assert batch["queries"]["texts"] == ["NA", "r"]
        assert batch["documents"] == {"texts": ["a\tb", "c\r", "d", "e"] * 2, "titles": ["T", "", "", ""] * 2}
        assert batch["teacher_scores"].tolist() == [[3.0, 2.5, -1000.0, 0.0]] * 2


QUERIES = Dataset.from_dict({"id": ["-1", "q"], "question": ["Who?", "What?"], "lang": ["ko", "ja"]})

PASSAGES = Dataset.from_dict(
    {"text": ["It is.", "She did.", "Rain."], "id": ["0", "1", "NA"], "title": ["", "Telephone", "null"], "x": [0] * 3}
)

SHE_DID = {"id": "1", "title": "Telephone", "text": "She did."}

RAIN = {"id": "NA", "title": "null", "text": "Rain."}

IT_IS = {"id": "0", "title": "", "text": "It is."}

ID_FILES = {
    "lines": ("-1\t1\tNA\nq\tNA\t0\n", [None, None]),
    "lists": ('[-1, 1, "NA"]\n["q", "NA", "0"]', [None, None]),
    "scores": ('[-1, [1, 12.5], ["NA", -3]]\n["q", ["NA", 0.1], [0, 1e-9]]', [[12.5, -3.0], [0.1, 1e-9]]),
}


class TestTriples:
    def test_quotes_are_text_unless_asked_otherwise(self, write):
        path = write("triples.tsv.gz", gzip.compress('q\t"p ""x"""\t"n\r\nNA\tnull\tn\u2028n'.encode()))
        raw = [
            {"query": "q", "positive": '"p ""x"""', "negative": '"n'},
            {"query": "NA", "positive": "null", "negative": "n\u2028n"},
        ]
        assert load_triples(path).to_list() == raw
        assert list(load_triples(path, streaming=True)) == raw
        assert load_triples(path, quoting="csv").to_list() == [{**raw[0], "positive": 'p "x"'}, raw[1]]
        with pytest.raises(ValueError, match="`quoting` must be one of .csv., .raw., got .auto."):
            load_triples(path, quoting="auto")

    def test_empty_texts(self, write):
        with pytest.raises(ValueError, match="triples.tsv`, line 2: it has no positive"):
            load_triples(write("triples.tsv", "q\tp\tn\nq\t \tn\n"))

    def test_columns_may_be_named(self, write, tmp_path):
        expected = [{"query": "q", "positive": "p", "negative": "n"}]
        assert load_triples(write("a.tsv", "negative\tquery\tpositive\nn\tq\tp\n")).to_list() == expected
        assert load_triples(write("a.jsonl", json.dumps(expected[0]))).to_list() == expected
        triples = load_triples(write("a.json", json.dumps(expected)))
        assert triples.to_list() == expected
        assert triples.features == TRIPLE_FEATURES

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize(("content", "scores"), ID_FILES.values(), ids=ID_FILES)
    def test_ids_are_looked_up(self, write, content, scores, streaming):
        path = write("triples", gzip.compress(content.encode()))
        examples = load_triples(path, QUERIES, PASSAGES, streaming=streaming)
        assert examples.features == RANKED_EXAMPLE_FEATURES
        assert list(examples) == [
            {"query": "Who?", "positive": SHE_DID, "negatives": [RAIN], "teacher_scores": scores[0]},
            {"query": "What?", "positive": RAIN, "negatives": [IT_IS], "teacher_scores": scores[1]},
        ]
        if streaming:  # as for the workers of a data loader
            assert list(pickle.loads(pickle.dumps(examples))) == list(examples)

    def test_queries_and_passages_may_be_files(self, write):
        queries = write("queries.tsv", "qid\tquery\n-1\tWho?\n")
        passages = write("collection.tsv", "0\tIt is.\n1\tShe did.\nNA\tRain.\n")
        path = write("triples.tsv", "-1\t1\tNA\n")
        expected = [
            {
                "query": "Who?",
                "positive": {**SHE_DID, "title": ""},
                "negatives": [{**RAIN, "title": ""}],
                "teacher_scores": None,
            }
        ]
        assert load_triples(path, queries, passages).to_list() == expected
        without_titles = load_passages(passages).remove_columns("title")
        assert load_triples(path, load_queries(queries), without_titles).to_list() == expected

    def test_number_of_negatives(self, write):
        path = write("nway.jsonl", '[-1, [1, 3], [0, 2], ["NA", 1]]\n[-1, [0, 3], [1, 2]]\n')
        with pytest.raises(ValueError, match=r"nway.jsonl`, line 2: expected 2 negative\(s\), got 1"):
            load_triples(path, QUERIES, PASSAGES)
        first, second = load_triples(path, QUERIES, PASSAGES, num_negatives=1)
        assert (first["negatives"], first["teacher_scores"]) == ([IT_IS], [3.0, 2.0])
        assert (second["negatives"], second["teacher_scores"]) == ([SHE_DID], [3.0, 2.0])
        with pytest.raises(ValueError, match=r"line 1: expected 3 negative\(s\), got 2"):
            load_triples(path, QUERIES, PASSAGES, num_negatives=3)
        with pytest.raises(ValueError, match="`num_negatives` must be a positive integer, got 0"):
            load_triples(path, QUERIES, PASSAGES, num_negatives=0)
        with pytest.raises(ValueError, match="`num_negatives` applies to files of ids"):
            load_triples(path, num_negatives=1)

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("[8, [1, 3], [0, 2]]", "no query has the id `8`"),
            ("[-1, [8, 3], [0, 2]]", "no passage has the id `8`"),
            ("[-1, [1, 3]]", "it has no negative"),
            ("[]", "expected an id, got None"),
            ("[null, [1, 3], [0, 2]]", "expected an id, got None"),
            ("[true, [1, 3], [0, 2]]", "expected an id, got True"),
            ("[-1, [1.0, 3], [0, 2]]", "expected an id, got 1.0"),
            ('[-1, ["", 3], [0, 2]]', "expected an id, got ''"),
            ("[-1, [1, 3], 0]", "expected a passage's id and its score, got 0"),
            ("[-1, [1, 3], [0, 2, 1]]", r"expected a passage's id and its score, got \[0, 2, 1\]"),
            ('[-1, [1, "3"], [0, 2]]', "the score '3' is not a number"),
            ("[-1, [1, NaN], [0, 2]]", "the score nan is not a number"),
            ("[-1, [1, true], [0, 2]]", "the score True is not a number"),
            ("[-1, [1, 3], [1, 2]]", "it has a passage twice"),
            ("[-1, 1, 0]", "it has no scores, unlike the first row"),
        ],
    )
    def test_bad_rows_of_ids(self, write, row, reason):
        path = write("nway.jsonl", f"[-1, [1, 3], [0, 2]]\n{row}\n[-1, [0, 5], [1, 4]]\n")
        with pytest.raises(ValueError, match=f"nway.jsonl`, line 2: {reason}"):
            load_triples(path, QUERIES, PASSAGES)
        assert load_triples(path, QUERIES, PASSAGES, on_error="skip")["teacher_scores"][:] == [[3.0, 2.0], [5.0, 4.0]]

    def test_scores_where_the_first_row_has_none(self, write):
        with pytest.raises(ValueError, match="line 2: it has scores, unlike the first row"):
            load_triples(write("nway.jsonl", "[-1, 1, 0]\n[-1, [1, 3], [0, 2]]\n"), QUERIES, PASSAGES)

    @pytest.mark.parametrize("content", ["7\t-1\t12\n", "[7, [1, 0.5], [2, 0.1]]\n", "[7, 1, 2]\n"])
    def test_ids_need_queries_and_passages(self, write, content):
        path = write("triples.tsv", content)
        with pytest.raises(ValueError, match="triples.tsv` has ids .* Pass `queries` and `passages`"):
            load_triples(path)
        with pytest.raises(ValueError, match="`passages` is missing"):
            load_triples(path, queries=QUERIES)
        with pytest.raises(ValueError, match="`queries` is missing"):
            load_triples(path, passages=PASSAGES)

    def test_unsuitable_queries_and_passages(self, write):
        path = write("triples.tsv", "-1\t1\t0\n")
        with pytest.raises(TypeError, match="`queries` is a list. Pass a path, or a `datasets.Dataset`"):
            load_triples(path, [{"id": "-1"}], PASSAGES)
        with pytest.raises(ValueError, match="`passages` has the columns id, and no text"):
            load_triples(path, QUERIES, PASSAGES.select_columns("id"))
        with pytest.raises(ValueError, match="column `id` of `queries` is of type int64"):
            load_triples(path, Dataset.from_dict({"id": [-1], "question": ["Who?"]}), PASSAGES)
        with pytest.raises(ValueError, match="Two records have the id `1`"):
            load_triples(path, QUERIES, PASSAGES.select([0, 1, 1]))

    def test_other_records_make_another_dataset(self, write):
        path = write("triples.tsv", "-1\t1\t0\n")
        first = load_triples(path, QUERIES, PASSAGES)
        assert load_triples(path, QUERIES, PASSAGES).cache_files == first.cache_files
        louder = PASSAGES.map(lambda passage: {"text": passage["text"].upper()})
        assert load_triples(path, QUERIES, louder)[0]["positive"]["text"] == "SHE DID."
        assert first[0]["positive"]["text"] == "She did."

    def test_the_collator_takes_both_kinds_of_rows(self, write, tiny_tokenizer):
        collator = RetrieverCollator(ColBERTXLMRProcessor(tiny_tokenizer))
        texts = load_triples(write("texts.tsv", "q\tp\tn\nr\tP\tN\n"))
        batch = collator(list(texts))
        assert batch["documents"]["input_ids"].shape[0] == 4
        assert "teacher_scores" not in batch
        as_lists = [
            {"query": row["query"], "positive": row["positive"], "negatives": [row["negative"]]} for row in texts
        ]
        assert batch["document_keys"].tolist() == collator(as_lists)["document_keys"].tolist()
        batch = collator(list(load_triples(write("nway.jsonl", ID_FILES["scores"][0]), QUERIES, PASSAGES)))
        assert batch["documents"]["input_ids"].shape[0] == 4
        assert batch["teacher_scores"].flatten().tolist() == pytest.approx([12.5, -3.0, 0.1, 1e-9])

    def test_memory_does_not_grow_with_the_file(self, write, peak_memory):
        passages = Dataset.from_dict(
            {"id": [str(i) for i in range(100)], "text": [f"word {i} " * 50 for i in range(100)]}
        )

        def peak(num_rows):
            path = write("triples.tsv", "".join(f"q\t{row % 99}\t99\n" for row in range(num_rows)))
            return peak_memory(
                lambda: _read_id_triples([path], [path], RowErrors(), None, queries=QUERIES, passages=passages)
            )

        peak(100)
        assert peak(20_000) < 1.2 * peak(5_000)

    def test_the_published_samples(self, shared_data, write):
        folder = shared_data / "primeqa_samples"
        triples = load_triples(folder / "ColBERT.C3_3_20_biased200_triples_text_head_100.tsv", quoting="csv")
        assert len(triples) == 100
        assert triples[0]["query"] == "where is gifford pinchot state park in pennsylvania"
        assert triples[0]["positive"].startswith(
            '"Conewago Mountains" | "Conewago Mountains The Conewago Mountains or'
        )
        korean = load_triples(folder / "xorqa.train_ir_negs_5_poss_1_001pct_at_0pct.tsv")
        english = load_triples(folder / "xorqa.train_ir_negs_5_poss_1_001pct_at_0pct_en.tsv")
        assert len(korean) == len(english) == 5
        assert english[0]["query"] == "Who maintained the throne for the longest time in China?"
        assert korean["positive"][:] == english["positive"][:]
        # The same triples as ids: ColBERT's texts are the title and the passage
        stem = str(folder / "xorqa.train_ir_001pct_at_0_pct_")
        ids = write("ids.tsv", "".join(f"-7239279093922981232\t1\t{negative}\n" for negative in range(2, 7)))
        examples = load_triples(ids, f"{stem}queries_fornum_en.tsv", f"{stem}collection_fornum.tsv")
        assert examples["query"][:] == english["query"][:]
        texts = load_triples(folder / "xorqa.train_ir_negs_5_poss_1_001pct_at_0pct_en.tsv", quoting="csv")
        for example, text in zip(examples, texts, strict=True):
            assert f"{example['positive']['title']} {example['positive']['text']}" == text["positive"]
