import collections

import pytest
from datasets import Dataset

from hf_xlir.data import load_mini_world
from support.answer_substitution import split_sentences, substitute_answers


PASSAGES = Dataset.from_list(
    [
        {"id": "fr", "title": "France", "text": "France is in Europe. Its capital is Paris. People say it is pretty."},
        {"id": "fi", "title": "Finland", "text": "Finland is in Europe. Its capital is Helsinki. It has many lakes."},
        {"id": "jj", "title": "J. J. Thomson", "text": "J. J. Thomson found the electron. He was born in 1856."},
    ]
)
QUESTIONS = Dataset.from_list(
    [
        {"question": "Capital of France?", "answers": ["Paris"], "lang": "en", "passage_ids": ["fr"]},
        {"question": "프랑스의 수도는?", "answers": ["Paris"], "lang": "ko", "passage_ids": ["fr"]},
        {"question": "Unanswerable?", "answers": ["Tokyo"], "lang": "en", "passage_ids": ["fi"]},
        {"question": "No passage?", "answers": ["Paris"], "lang": "en", "passage_ids": []},
    ]
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two!  Three? four", ["One.", "Two!", "Three?", "four"]),
        ("J. J. Thomson found it. In 1897.", ["J. J. Thomson found it.", "In 1897."]),
        ("It costs 3.50 in all.", ["It costs 3.50 in all."]),
        ("", [""]),
    ],
)
def test_split_sentences(text, sentences):
    found = split_sentences({"title": "T", "text": text})
    assert found == [{"title": "T", "text": sentence} for sentence in sentences]


def test_nothing_is_exchanged_without_share():
    examples = substitute_answers(QUESTIONS, PASSAGES, 50, share=0.0, num_distractors=0)
    assert {example["question"] for example in examples} == {"Capital of France?", "프랑스의 수도는?"}
    for example in examples:
        assert example["target"] == "Paris"
        assert {ctx["text"] for ctx in example["ctxs"]} == {
            "France is in Europe.",
            "Its capital is Paris.",
            "People say it is pretty.",
        }


def test_the_answer_is_exchanged_in_the_passage_and_the_target():
    examples = substitute_answers(QUESTIONS, PASSAGES, 50, share=1.0, num_distractors=0)
    assert len({example["target"] for example in examples}) > 3
    for example in examples:
        assert f"Its capital is {example['target']}." in [ctx["text"] for ctx in example["ctxs"]]


def test_share_of_exchanged_answers():
    examples = substitute_answers(QUESTIONS, PASSAGES, 400, share=0.25, num_distractors=0)
    assert 60 <= sum(example["target"] != "Paris" for example in examples) <= 140


@pytest.mark.parametrize(("max_sentences", "count"), [(0, 1), (1, 2), (5, 3)])
def test_max_sentences_keeps_the_one_with_the_answer_and_repeats_none(max_sentences, count):
    for example in substitute_answers(QUESTIONS, PASSAGES, 50, num_distractors=0, max_sentences=max_sentences):
        texts = [ctx["text"] for ctx in example["ctxs"]]
        assert len(set(texts)) == len(texts) == count
        assert any(example["target"] in text for text in texts)


def test_distractors_are_other_passages():
    titles = collections.Counter()
    for example in substitute_answers(QUESTIONS, PASSAGES, 60, share=0.0, num_distractors=1):
        of_example = {ctx["title"] for ctx in example["ctxs"]}
        assert "France" in of_example
        titles.update(of_example)
    assert titles["France"] == 60
    assert titles["Finland"] > 5
    assert titles["J. J. Thomson"] > 5


def test_share_of_english_questions():
    examples = substitute_answers(QUESTIONS, PASSAGES, 50, num_distractors=0, english=1.0)
    assert {example["question"] for example in examples} == {"Capital of France?"}


def test_draws_repeat_with_the_seed():
    first, again, other = (substitute_answers(QUESTIONS, PASSAGES, 20, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_errors():
    with pytest.raises(ValueError, match="nothing to read"):
        substitute_answers(QUESTIONS.select([2, 3]), PASSAGES, 1)
    with pytest.raises(ValueError, match="needs English questions"):
        substitute_answers(QUESTIONS.select([1]), PASSAGES, 1, english=0.5)


def test_every_mini_world_question_can_be_read():
    world = load_mini_world(["en"])
    examples = substitute_answers(world.questions["train"], world.passages, 300, num_distractors=0)
    assert all(any(example["target"] in ctx["text"] for ctx in example["ctxs"]) for example in examples)
