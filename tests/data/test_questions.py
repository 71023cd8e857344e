"""Questions with answers and gold passages."""

import json

import pytest

from hf_xlir.data import load_questions


ROW = {"id": 7, "question": "Joki?", "answers": ["NA", "null"], "lang": " fi", "passage_ids": ["p1"], "more": 1}
RECORD = {"id": "7", "question": "Joki?", "answers": ["NA", "null"], "lang": "fi", "passage_ids": ["p1"]}


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


def test_all_that_a_question_may_have(write):
    expected = [RECORD, {**RECORD, "id": "1", "passage_ids": []}]
    rows = [ROW, {**ROW, "id": None, "passage_ids": None}]
    assert load_questions(write("questions.jsonl", lines(*rows))).to_list() == expected
    assert load_questions(write("questions.json", json.dumps(rows))).to_list() == expected


def test_gold_passages_that_no_question_has(write):
    """NQ-open's rows; without the column, evaluation goes by answers."""
    path = write("questions.jsonl", lines({"question": "who", "answer": ["a"]}, {"question": "when", "answer": []}))
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
def test_a_bad_row(write, change, reason):
    path = write("questions.jsonl", lines(ROW, {**ROW, "id": 8, **change}, {**ROW, "id": 9}))
    with pytest.raises(ValueError, match=f"line 2: {reason}"):
        load_questions(path)
    assert load_questions(path, on_error="skip")["id"][:] == ["7", "9"]


def test_official_questions(shared_data):
    questions = load_questions(shared_data / "xor_tydi" / "xor_dev_retrieve_eng_span_v1_1.jsonl")
    assert len(questions) == 2110 and set(questions["lang"]) == {"ar", "bn", "fi", "ja", "ko", "ru", "te"}
