"""What a reader learns to write: the target, or another of the answers each epoch."""

import pytest
from datasets import Dataset

from hf_xlir.data.features import READER_EXAMPLE_FEATURES
from hf_xlir.training.reader_rows import answer_rows


CTXS = [{"id": "1", "title": "T", "text": "a", "score": 1.0}]


def example(place, target=None, answers=()):
    named = {"id": str(place), "question": f"q{place}", "target": target, "answers": list(answers), "lang": ""}
    return {**named, "ctxs": CTXS}


def records(*rows):
    return Dataset.from_list(list(rows), features=READER_EXAMPLE_FEATURES)


def targets(rows, epoch):
    rows.epoch = epoch
    return [row["target"] for row in rows.__getitems__(range(len(rows)))]


def test_a_row():
    rows = answer_rows(records(example(0, "t", ["a", "b"]), example(1, "", ["a"]), example(2, None, ["c"])))
    rows.epoch = 0
    assert rows[0] == {"question": "q0", "ctxs": CTXS, "target": "t"}
    assert targets(rows, 3) == ["t", "", "c"]


def test_answers_are_drawn_anew_each_epoch_and_again_with_a_seed():
    examples = records(*(example(place, None, "abcd") for place in range(200)))
    rows = answer_rows(examples, seed=1)
    drawn = [targets(rows, epoch) for epoch in range(3)]
    assert targets(rows, 0) == drawn[0] == targets(answer_rows(examples, seed=1), 0)
    assert targets(answer_rows(examples, seed=2), 0) != drawn[0]
    for of_epoch in drawn:
        assert all(30 <= of_epoch.count(answer) <= 75 for answer in "abcd")
    same = sum(one == other for one, other in zip(drawn[0], drawn[1], strict=True))
    assert 25 <= same <= 80  # of 200 with four answers each, 50 by chance


def test_nothing_to_learn():
    rows = records(example(0, "t"), example(1), example(2))
    with pytest.raises(
        ValueError, match="2 of 3 questions have neither `target` nor `answers`, the first of them `1`"
    ):
        answer_rows(rows)
