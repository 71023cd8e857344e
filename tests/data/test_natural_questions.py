"""NQ-open and DPR's training data."""

import gzip
import json

import pytest

from hf_xlir.data import load_natural_questions


DPR_ROW = {
    "dataset": "nq_train",
    "question": "who sang it",
    "answers": ["NA", "Ella"],
    "positive_ctxs": [{"title": "T", "text": "It.", "score": 1000, "title_score": 1, "passage_id": "11"}],
    "negative_ctxs": [],
    "hard_negative_ctxs": [{"title": "null", "text": "Else.", "score": 14.3, "title_score": 0, "psg_id": 12}],
}
DPR_RECORD = {
    "id": "0",
    "question": "who sang it",
    "answers": ["NA", "Ella"],
    "lang": "en",
    "positive_ctxs": [{"id": "11", "title": "T", "text": "It."}],
    "hard_negative_ctxs": [{"id": "12", "title": "null", "text": "Else."}],
    "negative_ctxs": [],
}


def test_open_questions(write, tmp_path):
    rows = [{"question": "q1", "answer": ["NA"]}, {"question": "q2", "answer": ["a", "b"]}]
    write("NQ-open.train.jsonl", "\n".join(map(json.dumps, rows)))
    questions = load_natural_questions("open", "train", tmp_path)
    assert questions.to_list() == [
        {"id": "0", "question": "q1", "answers": ["NA"], "lang": "en"},
        {"id": "1", "question": "q2", "answers": ["a", "b"], "lang": "en"},
    ]
    assert list(load_natural_questions("open", "train", tmp_path, streaming=True)) == questions.to_list()


@pytest.mark.parametrize("name", ["biencoder-nq-train.json.gz", "biencoder-nq-train.json"])
def test_dpr_examples(write, tmp_path, name):
    content = json.dumps([DPR_ROW] * 150, indent=4).encode()
    write(name, gzip.compress(content) if name.endswith("gz") else content)
    examples = load_natural_questions("dpr", "train", tmp_path)
    assert len(examples) == 150
    assert examples[0] == DPR_RECORD
    assert examples[149] == {**DPR_RECORD, "id": "149"}
    assert next(iter(load_natural_questions("dpr", "train", tmp_path, streaming=True))) == DPR_RECORD


def test_dpr_test_questions(write, tmp_path):
    write("nq-test.qa.csv", 'who\t[\'a\', "b\'s"]\nwhat\t"[\'say ""x""\']"\n"say ""x"""\t[]\n')
    examples = load_natural_questions("dpr", "test", tmp_path)
    assert examples["answers"][:] == [["a", "b's"], ['say "x"'], []]
    assert examples["question"][:] == ["who", "what", 'say "x"']
    assert examples[0]["positive_ctxs"] == []
    write("nq-test.qa.csv", "who\tnot a list\n")
    with pytest.raises(ValueError, match="line 1: expected a question, a tab and a list of answers"):
        load_natural_questions("dpr", "test", tmp_path)


def test_course_format(write):
    path = write(
        "course.jsonl",
        json.dumps({"question": "q", "answers": ["a"], "gold_context": "gold", "hard_negative": {"text": "n"}})
        + "\n"
        + json.dumps({"question": "q", "answers": [], "gold_context": [{"id": 3, "title": "T", "text": "g"}]}),
    )
    first, second = load_natural_questions("dpr", "validation", path)
    assert first["positive_ctxs"] == [{"id": "", "title": "", "text": "gold"}]
    assert first["hard_negative_ctxs"] == [{"id": "", "title": "", "text": "n"}]
    assert second["positive_ctxs"] == [{"id": "3", "title": "T", "text": "g"}]
    assert second["hard_negative_ctxs"] == second["negative_ctxs"] == second["answers"] == []


@pytest.mark.parametrize(
    ("task", "row", "reason"),
    [
        ("open", {"answer": ["a"]}, "it has no question"),
        ("open", {"question": "q", "answer": "a"}, "its answers are not a list of texts"),
        ("dpr", {"question": "q"}, "its answers are not a list of texts"),
        ("dpr", {"question": "q", "answers": [], "positive_ctxs": [{"title": "T"}]}, "it has a context without text"),
        ("dpr", {"question": "q", "answers": [], "gold_context": " "}, "it has a context without text"),
        ("dpr", {"question": "q", "answers": [], "context": "a"}, "it has neither `positive_ctxs` nor `gold_context`"),
    ],
)
def test_bad_rows(write, task, row, reason):
    good = {"question": "good", "answer": [], "answers": [], "gold_context": "a"}
    path = write("rows.jsonl", "\n".join(map(json.dumps, [good, row, good])))
    with pytest.raises(ValueError, match=f"rows.jsonl`, line 2: {reason}"):
        load_natural_questions(task, "train", path)
    assert load_natural_questions(task, "train", path, on_error="skip")["question"][:] == ["good", "good"]


def test_choices_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="`task` must be one of 'open', 'dpr', got 'short'"):
        load_natural_questions("short", "train")
    with pytest.raises(ValueError, match="`split` must be one of .*got 'dev'"):
        load_natural_questions("open", "dev")
    with pytest.raises(
        FileNotFoundError, match="`biencoder-nq-dev.json.gz` or `biencoder-nq-dev.json`. Download https"
    ):
        load_natural_questions("dpr", "validation", tmp_path)


def test_the_published_questions(shared_data):
    questions = load_natural_questions("open", "validation", shared_data / "nq_open")
    assert len(questions) == 3610
    assert questions[0]["question"] == "when was the last time anyone was on the moon"
    assert questions[0]["answers"] == ["14 December 1972 UTC", "December 1972"]
    assert load_natural_questions("open", "test", shared_data / "nq_open").to_list() == questions.to_list()
