"""Passages, queries and questions."""

import csv
import gzip
import io
import json
import pickle

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xlir.data import PASSAGE_FEATURES, QUERY_FEATURES, load_passages, load_queries, load_questions
from hf_xlir.data.collection import PASSAGES as LAYOUT
from hf_xlir.data.reading import RowErrors
from hf_xlir.data.tables import read_table


# Rows that loaders built on pandas or on raw quoting get wrong
PASSAGES = [
    {"id": "1", "title": "NA", "text": "null"},
    {"id": "2", "title": 'The "Big" One', "text": '"Quoted as a whole"'},
    {"id": "3", "title": "", "text": 'A "stray quote, \r and \u2028 and a comma'},
    {"id": "nan", "title": "None", "text": "0012"},
    {"id": "5", "title": "中国", "text": 'ends with a quote"'},
]


def dpr_file(rows):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(["id", "text", "title"])
    writer.writerows([row["id"], row["text"], row["title"]] for row in rows)
    return buffer.getvalue()


class TestPassages:
    @pytest.mark.parametrize("name", ["psgs.tsv", "psgs.tsv.gz", "psgs"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_dpr_file(self, write, name, streaming):
        rows = [*PASSAGES, {"id": "6", "title": "a\ttab", "text": "another\ttab"}]
        content = dpr_file(rows).encode()
        passages = load_passages(write(name, gzip.compress(content) if "gz" in name else content), streaming=streaming)
        assert list(passages) == rows
        assert passages.features == PASSAGE_FEATURES
        assert isinstance(passages, datasets.IterableDataset if streaming else datasets.Dataset)

    @pytest.mark.parametrize("header", [None, "pid\tpassage\ttitle", "title\tid\ttext"])
    def test_colbert_collection(self, write, header):
        order = ["title", "id", "text"] if header and header.startswith("title") else ["id", "text", "title"]
        lines = ["\t".join(row[column] for column in order) for row in PASSAGES]
        path = write("collection.tsv", "\r\n".join([*([header] if header else []), *lines]))
        assert load_passages(path, quoting="raw").to_list() == PASSAGES
        if header is None:
            assert load_passages(path).to_list() == PASSAGES

    def test_colbert_collection_without_titles(self, write):
        expected = [{"id": "0", "title": "", "text": '"a"'}, {"id": "1", "title": "", "text": '"b'}]
        assert load_passages(write("a.tsv", '0\t"a"\n1\t"b\n')).to_list() == expected
        assert load_passages(write("b.tsv", 'pid\tpassage\n0\t"a"\n1\t"b\n')).to_list() == expected

    def test_quotes_around_a_tab_are_text_where_quotes_are(self, write):
        path = write("collection.tsv", '0\t"a\tb"\n1\tc\td\n')
        assert load_passages(path).to_list() == [
            {"id": "0", "title": 'b"', "text": '"a'},
            {"id": "1", "title": "d", "text": "c"},
        ]

    def test_a_stray_quote_swallows_nothing(self, write):
        path = write("psgs.tsv", 'id\ttext\ttitle\n1\t"open\tT\n2\tb\tT"\n3\t"c\tT"\n4\t"d ""e"""\tT\n')
        assert load_passages(path).to_list() == [
            {"id": "1", "title": "T", "text": '"open'},
            {"id": "2", "title": 'T"', "text": "b"},
            {"id": "3", "title": 'T"', "text": '"c'},
            {"id": "4", "title": "T", "text": 'd "e"'},
        ]

    @pytest.mark.parametrize("as_array", [False, True])
    def test_json(self, write, as_array):
        rows = [
            {"id": 1, "title": None, "text": "null", "more": [1]},
            {"_id": "NA", "title": "T", "text": "a\ttab\n"},
            {"docid": "3", "contents": "A title\ta text\twith a tab"},
            {"id": "4", "contents": "only a text"},
            {"id": "5", "title": "Own", "contents": "A title\ta text"},
            {"id": "6", "text": "own", "contents": "A title\ta text"},
        ]
        content = json.dumps(rows) if as_array else "\n".join(map(json.dumps, rows))
        assert load_passages(write("passages.jsonl", content)).to_list() == [
            {"id": "1", "title": "", "text": "null"},
            {"id": "NA", "title": "T", "text": "a\ttab\n"},
            {"id": "3", "title": "A title", "text": "a text\twith a tab"},
            {"id": "4", "title": "", "text": "only a text"},
            {"id": "5", "title": "Own", "text": "a text"},
            {"id": "6", "title": "", "text": "own"},
        ]

    def test_parquet(self, tmp_path):
        table = pa.table({"text": ["a", "b", None], "id": [1, 2, 3], "title": ["NA", None, "T"], "x": [0, 0, 0]})
        path = tmp_path / "passages.parquet"
        pq.write_table(table, path)
        with pytest.raises(ValueError, match="passages.parquet`, line 3: it has no text"):
            load_passages(path)
        expected = [{"id": "1", "title": "NA", "text": "a"}, {"id": "2", "title": "", "text": "b"}]
        assert load_passages(path, on_error="skip").to_list() == expected
        pq.write_table(table.rename_columns(["body", "id", "title", "x"]), path)
        with pytest.raises(ValueError, match=r"has the columns body, id, title, x. Expected .*, `text` \(or passage"):
            load_passages(path)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ValueError, match="not a complete parquet file"):
            load_passages(path)

    def test_bad_rows_of_parquet(self, tmp_path):
        raw = pa.array([b"a", b"b \xff", b"NA", b"d"])
        text = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])  # as careless writers leave it
        path = tmp_path / "passages.parquet"
        pq.write_table(pa.table({"id": ["1", "2", "3", "1"], "text": text}), path)
        with pytest.raises(ValueError, match="passages.parquet`, line 2: byte 0xff is not UTF-8"):
            load_passages(path)
        passages = load_passages(path, on_error="skip")
        assert passages["text"][:] == ["a", "NA"]
        assert "line 4: the id `1` has occurred before" in passages.info.description

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (b"\ta\tT", "it has no id"),
            (b"9\t \tT", "it has no text"),
        ],
    )
    def test_rows_without_id_or_text(self, write, row, reason):
        path = write("psgs.tsv", b"id\ttext\ttitle\n1\ta\tT\n" + row + b"\n2\tb\tT\n")
        with pytest.raises(ValueError, match=f"psgs.tsv`, line 3: {reason}"):
            list(load_passages(path, streaming=True))
        passages = load_passages(path, on_error="skip", streaming=True)
        assert [passage["text"] for passage in passages] == ["a", "b"]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"text": "a"}, "it has no id"),
            ({"id": "9"}, "it has no text"),
            ({"id": "9", "text": 7}, "the text is a int, not text"),
            ({"id": True, "text": "a"}, "the id is a bool, not text"),
            ({"id": "1", "text": "a"}, "the id `1` has occurred before"),
        ],
    )
    def test_bad_json_rows_are_named(self, write, row, reason):
        path = write("a.jsonl", json.dumps({"id": 1, "text": "a"}) + "\n" + json.dumps(row))
        with pytest.raises(ValueError, match=f"a.jsonl`, line 2: {reason}"):
            load_passages(path)

    def test_files_that_are_not_collections(self, write, tmp_path):
        with pytest.raises(ValueError, match=r"line 1: expected `id` \(or _id.*optionally `title`.*got 1 column"):
            load_passages(write("a.txt", "just a text\n"))
        with pytest.raises(ValueError, match="empty.tsv` has no rows to load"):
            load_passages(write("empty.tsv", ""))
        with pytest.raises(ValueError, match="header.tsv` has no rows to load"):
            load_passages(write("header.tsv", "id\ttext\ttitle\n"))
        with pytest.raises(ValueError, match="the header id, body names no text. Expected `id`"):
            load_passages(write("other.tsv", "id\tbody\n1\ta\n"))
        with pytest.raises(FileNotFoundError, match="There is no file `absent.tsv`. Check the path"):
            load_passages("absent.tsv", streaming=True)
        with pytest.raises(FileNotFoundError, match="is a folder"):
            load_passages(tmp_path)
        with pytest.raises(ValueError, match="`quoting` must be one of .auto., .csv., .raw., got .none."):
            load_passages("absent.tsv", quoting="none")
        with pytest.raises(ValueError, match="`on_error` must be one of .raise., .skip., got .warn."):
            load_passages("absent.tsv", on_error="warn")

    def test_paths_with_odd_characters_are_not_patterns(self, write):
        path = write("psgs [1]*.tsv", "1\ta\tT\n")
        assert load_passages(path).num_rows == 1
        assert len(list(load_passages(path, streaming=True))) == 1

    def test_streams_can_be_pickled(self, write):
        stream = load_passages(write("psgs.tsv", dpr_file(PASSAGES)), streaming=True)
        assert list(pickle.loads(pickle.dumps(stream))) == PASSAGES

    def test_the_dataset_is_memory_mapped_and_cached(self, write, own_cache):
        path = write("psgs.tsv", dpr_file(PASSAGES))
        passages = load_passages(path)
        assert all(str(own_cache) in file["filename"] for file in passages.cache_files)
        assert load_passages(path).cache_files == passages.cache_files
        assert load_passages(path, quoting="raw").cache_files != passages.cache_files
        elsewhere = load_passages(path, cache_dir=str(own_cache / "elsewhere"))
        assert "elsewhere" in elsewhere.cache_files[0]["filename"]

    def test_memory_does_not_grow_with_the_file(self, write, peak_memory):
        text = "word " * 50

        def peak(num_rows):
            path = write(
                "psgs.tsv", "".join(["id\ttext\ttitle\n", *(f"{i}\t{text}\tTitle\n" for i in range(num_rows))])
            )
            return peak_memory(lambda: read_table([path], [path], RowErrors(), LAYOUT, "auto"))

        assert peak(50_000) < 1.2 * peak(25_000)

    @pytest.mark.parametrize("streaming", [False, True])
    def test_urls(self, write, served, streaming):
        write("psgs.tsv.gz", gzip.compress(dpr_file(PASSAGES).encode()))
        assert list(load_passages(f"{served}/psgs.tsv.gz", streaming=streaming)) == PASSAGES
        if not streaming:
            with pytest.raises(ConnectionError, match="absent.tsv` could not be downloaded"):
                load_passages(f"{served}/absent.tsv")

    def test_the_published_samples(self, shared_data):
        folder = shared_data / "primeqa_samples"
        pyserini = load_passages(folder / "psgs_w100_pyserini_100.jsonl")
        assert len(pyserini) == 100
        assert pyserini[0]["id"] == "15094739"
        assert pyserini[0]["title"] == "John Sawbridge"
        assert pyserini[0]["text"].startswith("London in 1775 in succession to John Wilkes.")
        colbert = load_passages(folder / "xorqa.train_ir_001pct_at_0_pct_collection_fornum.tsv")
        assert len(colbert) == 6
        assert colbert[0]["title"] == "Kangxi Emperor"
        assert 'the longest period of "de facto" power' in colbert[0]["text"]


EXPECTED = [{"id": "-7", "question": '"Who" did?'}, {"id": "NA", "question": "null"}]


class TestQueries:
    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize(
        "content",
        [
            '-7\t"Who" did?\nNA\tnull\n',
            'qid\tquery\r\n-7\t"Who" did?\r\nNA\tnull',
            'lang\tText\tquery_id\nko\t"Who" did?\t-7\nko\tnull\tNA\n',
            json.dumps({"_id": -7, "text": '"Who" did?', "metadata": {}}) + '\n{"_id": "NA", "text": "null"}',
            '[{"id": -7, "question": "\\"Who\\" did?"}, {"id": "NA", "query": "null"}]',
            'qid\tquery\tquestion\tid\nx\tx\t"Who" did?\t-7\ny\ty\tnull\tNA\n',
            gzip.compress(b'-7\t"Who" did?\nNA\tnull\n', mtime=0),
        ],
    )
    def test_formats(self, write, content, streaming):
        queries = load_queries(write("queries.tsv", content), streaming=streaming)
        assert list(queries) == EXPECTED
        assert queries.features == QUERY_FEATURES

    def test_parquet(self, tmp_path):
        pq.write_table(pa.table({"text": ['"Who" did?', "null"], "qid": ["-7", "NA"]}), tmp_path / "queries")
        assert load_queries(tmp_path / "queries").to_list() == EXPECTED

    def test_quoted_queries(self, write):
        path = write("queries.tsv", '1\t"say ""x"""\n2\t"y\n')
        assert load_queries(path)["question"][:] == ['"say ""x"""', '"y']
        assert load_queries(path, quoting="csv")["question"][:] == ['say "x"', '"y']
        with pytest.raises(ValueError, match="`quoting` must be one of .csv., .raw., got .auto."):
            load_queries(path, quoting="auto")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "just a text\n",
                r"line 1: expected `id` \(or _id, qid, query_id\), `question` \(or query, text\), sep.*got 1 col",
            ),
            ("\n1\ta\tb\n", "line 1: the line is blank"),
            ("1\ta\tb\n", "line 1: expected .* got 3 column"),
            ("qid\tanswer\n", "line 1: the header qid, answer names no question. Expected `id`"),
            ("1\ta\n \tb\n", "line 2: it has no id"),
            ("1\ta\n2\t\n", "line 2: it has no question"),
            ('{"id": "1"}', "line 1: it has no question"),
            ('{"id": 1.5, "text": "a"}', "line 1: the id is a float, not text"),
            ('{"id": true, "text": "a"}', "line 1: the id is a bool, not text"),
        ],
    )
    def test_files_that_are_not_queries(self, write, content, message):
        with pytest.raises(ValueError, match=f"queries.tsv`, {message}"):
            load_queries(write("queries.tsv", content))

    def test_the_published_samples(self, shared_data):
        folder = shared_data / "primeqa_samples"
        english = load_queries(folder / "xorqa.train_ir_001pct_at_0_pct_queries_fornum_en.tsv")
        assert english.to_list() == [
            {"id": "-7239279093922981232", "question": "Who maintained the throne for the longest time in China?"}
        ]
        korean = load_queries(folder / "xorqa.train_ir_001pct_at_0_pct_queries_fornum.tsv")
        assert korean["id"][:] == english["id"][:]


ROW = {"id": 7, "question": "Joki?", "answers": ["NA", "null"], "lang": " fi", "passage_ids": ["p1"], "more": 1}

RECORD = {"id": "7", "question": "Joki?", "answers": ["NA", "null"], "lang": "fi", "passage_ids": ["p1"]}


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


class TestQuestions:
    def test_all_columns(self, write):
        expected = [RECORD, {**RECORD, "id": "1", "passage_ids": []}]
        rows = [ROW, {**ROW, "id": None, "passage_ids": None}]
        assert load_questions(write("questions.jsonl", lines(*rows))).to_list() == expected
        assert load_questions(write("questions.json", json.dumps(rows))).to_list() == expected

    def test_questions_without_gold_passages(self, write):
        """As in NQ-open; without the column, evaluation uses the answers."""
        path = write(
            "questions.jsonl", lines({"question": "who", "answer": ["a"]}, {"question": "when", "answer": []})
        )
        assert load_questions(path).to_list() == [
            {"id": "0", "question": "who", "answers": ["a"], "lang": ""},
            {"id": "1", "question": "when", "answers": [], "lang": ""},
        ]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"question": " "}, "it has no question"),
            ({"lang": 3}, "`lang` is not text: 3"),
            ({"answers": "a"}, "`answers` is not a list of texts"),
            ({"passage_ids": [1]}, "`passage_ids` is not a list of texts"),
            ({"id": "7"}, "the id `7` has occurred before"),
        ],
    )
    def test_a_bad_row(self, write, change, reason):
        path = write("questions.jsonl", lines(ROW, {**ROW, "id": 8, **change}, {**ROW, "id": 9}))
        with pytest.raises(ValueError, match=f"line 2: {reason}"):
            load_questions(path)
        assert load_questions(path, on_error="skip")["id"][:] == ["7", "9"]

    def test_official_questions(self, shared_data):
        questions = load_questions(shared_data / "xor_tydi" / "xor_dev_retrieve_eng_span_v1_1.jsonl")
        assert len(questions) == 2110 and set(questions["lang"]) == {"ar", "bn", "fi", "ja", "ko", "ru", "te"}
