"""Rankings as a reader's examples: what is written, in which order, and that nothing half done has the name."""

import json

import pytest
from datasets import Dataset

from hf_xlir.data import load_reader_examples, write_ranked_examples


PASSAGES = Dataset.from_dict({"id": ["a", "b", "c"], "title": ["A", None, "C"], "text": ["one", "two", "three"]})
QUESTIONS = [
    {"id": "1", "question": "Who?", "answers": ["Bell"], "lang": "en", "passage_ids": ["b"], "other": 3},
    {"id": "2", "question": "Où ?", "answers": [], "lang": ""},
]


def test_the_first_passages_of_each_question(tmp_path):
    path, rankings = tmp_path / "x.jsonl", {"1": ["c", "b", "a"], "2": ["a"], "3": ["b"]}
    write_ranked_examples(path, QUESTIONS, PASSAGES, rankings, 2, {"1": [3.0, 2.5, 1.0], "2": [0.5]})
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {
            **{"id": "1", "question": "Who?", "answers": ["Bell"], "lang": "en", "passage_ids": ["b"]},
            "ctxs": [
                {"id": "c", "title": "C", "text": "three", "retriever_score": 3.0},
                {"id": "b", "title": "", "text": "two", "retriever_score": 2.5},
            ],
        },
        {
            **{"id": "2", "question": "Où ?"},
            "ctxs": [{"id": "a", "title": "A", "text": "one", "retriever_score": 0.5}],
        },
    ]
    loaded = load_reader_examples(path, cache_dir=str(tmp_path))
    assert [context["id"] for context in loaded[0]["ctxs"]] == ["c", "b"] and loaded[0]["ctxs"][0]["score"] is None


def test_mistakes_leave_the_file_alone(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("before")
    with pytest.raises(ValueError, match=r"1 questions have no ranking, such as \['2'\]"):
        write_ranked_examples(path, QUESTIONS, PASSAGES, {"1": ["a"]})
    with pytest.raises(ValueError, match=r"of question `2` names unknown passages: \['x'\]"):
        write_ranked_examples(path, QUESTIONS, PASSAGES, {"1": ["a"], "2": ["x"]})
    assert path.read_text() == "before"


def test_nothing_found_and_no_titles(tmp_path):
    path = tmp_path / "x.jsonl"
    write_ranked_examples(path, QUESTIONS, PASSAGES.remove_columns("title"), {"1": [], "2": ["b"]})
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first["ctxs"] == [] and second["ctxs"] == [{"id": "b", "title": "", "text": "two"}]
