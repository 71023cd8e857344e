"""Training rows from JSON, and that the collator takes them."""

import gzip
import json

import pytest
from datasets import Dataset

from hf_xlir.data import TRAINING_ROW_FEATURES, RetrieverCollator, load_training_rows


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


@pytest.mark.parametrize("layout", ["jsonl", "json", "json.gz"])
def test_all_that_a_row_may_have(write, layout):
    content = lines(FULL, FULL) if layout == "jsonl" else json.dumps([FULL, FULL])
    path = write(f"rows.{layout}", gzip.compress(content.encode()) if layout.endswith("gz") else content)
    assert load_training_rows(path).to_list() == [RECORD, RECORD]
    assert load_training_rows(path).features == TRAINING_ROW_FEATURES
    assert list(load_training_rows(path, streaming=True)) == [RECORD, RECORD]


def test_columns_that_no_row_has_are_left_out(write):
    path = write("rows.jsonl", lines(SHORT, {**SHORT, "lang": None}, {"query": "q", "positive": "p", "negatives": []}))
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


def test_the_first_negatives(write):
    path = write("rows.jsonl", lines(FULL, {**FULL, "negatives": ["x", "y"], "teacher_scores": [1, 2, 3], "id": 7}))
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
def test_a_bad_row(write, change, reason):
    path = write("rows.jsonl", lines(FULL, {**FULL, **change}, FULL))
    with pytest.raises(ValueError, match=f"line 2: .*{reason}"):
        load_training_rows(path)
    assert load_training_rows(path, on_error="skip").to_list() == [RECORD, RECORD]


def test_a_column_that_the_first_row_lacks(write):
    path = write("rows.jsonl", lines(SHORT, {**SHORT, "teacher_scores": [1, 2, 3]}))
    with pytest.raises(ValueError, match="line 2: it has `teacher_scores`, unlike the first row"):
        load_training_rows(path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_training_rows(path + "x")


def test_what_datasets_writes_is_read_and_batched(write, tmp_path):
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
