"""Rows that are made when they are read, drawn anew each epoch."""

import logging
import pickle
from types import SimpleNamespace

import pytest
from datasets import Dataset

from hf_xlir.data import READER_EXAMPLE_FEATURES, RETRIEVAL_EXAMPLE_FEATURES
from hf_xlir.training import rows as rows_module
from hf_xlir.training.rows import EpochRows, answer_rows, dpr_rows, reader_rows


def passages(*texts):
    return [{"id": text, "title": "T", "text": text} for text in texts]


def example(question, positives=("p", "q"), hard=(), other=()):
    lists = {"positive_ctxs": positives, "hard_negative_ctxs": hard, "negative_ctxs": other}
    common = {"id": question, "question": question, "answers": [], "lang": "en"}
    return {**common, **{name: passages(*texts) for name, texts in lists.items()}}


HARD, OTHER = tuple("abcde"), tuple("vwxyz")
EXAMPLES = Dataset.from_list(
    [
        example("many", hard=HARD, other=OTHER),
        example("no positive", positives=(), hard=HARD),
        example("two", hard=("a",), other=("v",)),
        example("other", other=OTHER),
        example("none"),
    ],
    features=RETRIEVAL_EXAMPLE_FEATURES,
)


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(rows_module, "logger", logging.Logger("test"))
    monkeypatch.setattr(rows_module.logger, "warning", lines.append)
    return lines


def at_epoch(rows, epoch):
    rows.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    return rows


def negatives(rows, epoch):
    """The texts of all rows' negatives in an epoch."""
    at_epoch(rows, epoch)
    return [[passage["text"] for passage in rows[place]["negatives"]] for place in range(len(rows))]


def test_a_row_of_dpr(log):
    rows = dpr_rows(EXAMPLES)
    assert len(log) == 1 and "2 of 5" in log[0]
    found = at_epoch(rows, None).__getitems__([0, 2])
    assert [row["query"] for row in found] == ["many", "other"] and len(rows) == 3
    assert found[0]["positive"] == {"id": "p", "title": "T", "text": "p"}  # the first
    assert found[0]["negatives"][0]["text"] in HARD and found[1]["negatives"][0]["text"] in OTHER


def test_other_negatives_each_epoch_and_the_same_ones_again():
    rows = dpr_rows(EXAMPLES, num_negatives=2, seed=3)
    epochs = [negatives(rows, epoch) for epoch in range(40)]
    many, two, other = zip(*epochs, strict=True)
    assert set(map(len, many)) == {2} and all(first != second for first, second in many)
    assert {text for pair in many for text in pair} == set(HARD)  # not one of the others while there are hard ones
    assert set(map(tuple, two)) == {("a", "v")}
    assert {text for pair in other for text in pair} == set(OTHER)
    assert len({tuple(pair) for pair in many}) > 10
    again = dpr_rows(EXAMPLES, num_negatives=2, seed=3)
    assert [negatives(again, epoch) for epoch in (39, 7.5)] == [epochs[39], epochs[7]]  # resumed within epoch 7
    assert [negatives(dpr_rows(EXAMPLES, 2, seed=4), epoch) for epoch in range(40)] != epochs


def test_rows_do_not_depend_on_their_batch_and_can_be_sent_to_workers():
    rows = at_epoch(dpr_rows(EXAMPLES, num_negatives=2), 5)
    together = rows.__getitems__([2, 0])
    assert together == [rows[2], rows[0]]
    copy = pickle.loads(pickle.dumps(rows))
    assert copy.__getitems__([2, 0]) == together


def test_a_row_of_a_reader():
    scored = [
        {**passage, "score": score} for passage, score in zip(passages("a", "b", "c"), (2.5, None, -1.0), strict=True)
    ]
    common = {"id": "7", "question": "Who?", "target": None, "answers": [], "lang": ""}
    examples = Dataset.from_list([{**common, "ctxs": scored}], features=READER_EXAMPLE_FEATURES)
    row = at_epoch(reader_rows(examples), 0)[0]
    assert (row["query"], row["reader_scores"]) == ("Who?", [2.5, None, -1.0])
    assert [document["text"] for document in row["documents"]] == ["a", "b", "c"]
    row = at_epoch(reader_rows(examples, num_passages=2), 0)[0]
    assert (len(row["documents"]), row["reader_scores"]) == (2, [2.5, None])


def test_questions_without_a_score_are_left_out(log, monkeypatch):
    """They are found before training begins, wherever they are."""
    monkeypatch.setattr(rows_module, "RECORDS_PER_READ", 2)
    scores = {"a": [None, 1.0], "none": [None, None], "b": [0.0], "empty": [], "c": [None, None, 2.0], "d": [3.0]}
    examples = Dataset.from_list(
        [
            {
                **{"id": name, "question": name, "target": None, "answers": [], "lang": ""},
                "ctxs": [{**passages("p")[0], "score": score} for score in of_one],
            }
            for name, of_one in scores.items()
        ],
        features=READER_EXAMPLE_FEATURES,
    )

    def questions(examples, num_passages=None):
        rows = at_epoch(reader_rows(examples, num_passages), 0)
        return [row["query"] for row in rows.__getitems__(range(len(rows)))]

    assert questions(examples) == ["a", "b", "c", "d"]
    assert len(log) == 1 and "2 of 6" in log[0]
    assert questions(examples, 2) == ["a", "b", "d"] and questions(examples, 1) == ["b", "d"]
    assert questions(examples.select([5, 3, 4])) == ["d", "c"]
    with pytest.raises(ValueError, match="None of the 2 questions.*`score`"):
        reader_rows(examples.select([1, 3]))


def test_errors():
    with pytest.raises(ValueError, match="11 negative"):
        dpr_rows(EXAMPLES, num_negatives=11)
    rows = dpr_rows(EXAMPLES)
    with pytest.raises(ValueError, match="`callbacks`"):
        rows[0]
    for workers, persistent in ((0, True), (2, False)):
        args = SimpleNamespace(dataloader_num_workers=workers, dataloader_persistent_workers=persistent)
        rows.on_train_begin(args, None, None)
    args = SimpleNamespace(dataloader_num_workers=2, dataloader_persistent_workers=True)
    with pytest.raises(ValueError, match="dataloader_persistent_workers"):
        rows.on_train_begin(args, None, None)


def test_lists_are_counted_in_the_order_of_the_rows(monkeypatch):
    monkeypatch.setattr(rows_module, "RECORDS_PER_READ", 2)
    reordered = EXAMPLES.select([3, 0, 2, 4, 1])
    rows = at_epoch(dpr_rows(reordered), 0)
    assert [row["query"] for row in rows.__getitems__([0, 1, 2])] == ["other", "many", "two"]
    assert isinstance(rows, EpochRows) and len(rows) == 3


CTXS = [{"id": "1", "title": "T", "text": "a", "score": 1.0}]


def reader_example(place, target=None, answers=()):
    named = {"id": str(place), "question": f"q{place}", "target": target, "answers": list(answers), "lang": ""}
    return {**named, "ctxs": CTXS}


def records(*rows):
    return Dataset.from_list(list(rows), features=READER_EXAMPLE_FEATURES)


def targets(rows, epoch):
    rows.epoch = epoch
    return [row["target"] for row in rows.__getitems__(range(len(rows)))]


def test_a_row_of_answers():
    rows = answer_rows(
        records(reader_example(0, "t", ["a", "b"]), reader_example(1, "", ["a"]), reader_example(2, None, ["c"]))
    )
    rows.epoch = 0
    assert rows[0] == {"question": "q0", "ctxs": CTXS, "target": "t"}
    assert targets(rows, 3) == ["t", "", "c"]


def test_answers_are_drawn_anew_each_epoch_and_again_with_a_seed():
    examples = records(*(reader_example(place, None, "abcd") for place in range(200)))
    rows = answer_rows(examples, seed=1)
    drawn = [targets(rows, epoch) for epoch in range(3)]
    assert targets(rows, 0) == drawn[0] == targets(answer_rows(examples, seed=1), 0)
    assert targets(answer_rows(examples, seed=2), 0) != drawn[0]
    for of_epoch in drawn:
        assert all(30 <= of_epoch.count(answer) <= 75 for answer in "abcd")
    same = sum(one == other for one, other in zip(drawn[0], drawn[1], strict=True))
    assert 25 <= same <= 80  # of 200 with four answers each, 50 by chance


def test_questions_without_answers():
    rows = records(reader_example(0, "t"), reader_example(1), reader_example(2))
    with pytest.raises(ValueError, match="2 of 3 questions.*`1`"):
        answer_rows(rows)


def test_answers_and_passages_may_be_changed():
    def shout(record, target, generator):
        return target.upper(), [{**ctx, "text": f"{generator.random():.6f}"} for ctx in record["ctxs"]]

    rows = answer_rows(records(reader_example(0, None, ["a", "b"])), augment=shout)
    rows.epoch = 0
    first, again = rows[0], rows[0]
    assert first == again and first["target"] in "AB" and first["ctxs"][0]["text"].startswith("0.")
