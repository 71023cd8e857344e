import gzip
import json

import pytest

from hf_xlir.data import load_reader_examples


ROWS = [
    {
        "id": 7,
        "question": "q",
        "target": "NA",
        "answers": ["NA", "null"],
        "ctxs": [
            {"id": "wiki:1", "title": "T", "text": "a\tb\n", "score": "79.5", "has_answer": True},
            {"title": None, "text": "c"},
        ],
    },
    {"question": "r", "ctxs": [], "question_en": "?"},
]
RECORDS = [
    {
        "id": "7",
        "question": "q",
        "target": "NA",
        "answers": ["NA", "null"],
        "ctxs": [
            {"id": "wiki:1", "title": "T", "text": "a\tb\n", "score": 79.5},
            {"id": "", "title": "", "text": "c", "score": None},
        ],
    },
    {"id": "1", "question": "r", "target": None, "answers": [], "ctxs": []},
]


@pytest.mark.parametrize("layout", ["json", "json.gz", "jsonl"])
def test_json_and_json_lines(write, layout):
    content = "\n".join(map(json.dumps, ROWS)) if layout == "jsonl" else json.dumps(ROWS)
    path = write(f"examples.{layout}", gzip.compress(content.encode()) if layout.endswith("gz") else content)
    assert load_reader_examples(path).to_list() == RECORDS
    assert list(load_reader_examples(path, streaming=True)) == RECORDS


def test_many_examples_keep_their_order(write):
    path = write("examples.json", json.dumps([{"question": str(index), "ctxs": []} for index in range(250)]))
    assert load_reader_examples(path)["question"][:] == [str(index) for index in range(250)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": ""}, "it has no question"),
        ({"question": "q", "target": 3}, "`target` is not a text"),
        ({"question": "q", "answers": "a"}, "`answers` is not a list of texts"),
        ({"question": "q", "ctxs": {}}, "`ctxs` is not a list of passages"),
        ({"question": "q", "ctxs": [{"title": "T"}]}, "an entry of `ctxs` is not an object with a `text`"),
        ({"question": "q", "ctxs": [{"text": "a", "score": "high"}]}, "an entry of `ctxs` has the score 'high'"),
    ],
)
def test_bad_rows(write, row, reason):
    path = write("examples.jsonl", "\n".join(map(json.dumps, [ROWS[0], row])))
    with pytest.raises(ValueError, match=f"examples.jsonl`, line 2: {reason}"):
        load_reader_examples(path)
    assert load_reader_examples(path, on_error="skip").to_list() == RECORDS[:1]


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match="no file `absent.json`"):
        load_reader_examples("absent.json")
