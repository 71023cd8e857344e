"""A reader's batch is what its processor makes of questions, passages and answers."""

import torch
from fid_tiny import make_tokenizer

from hf_xlir import FiDT5Processor
from hf_xlir.data import ReaderCollator


PROCESSOR = FiDT5Processor(make_tokenizer(), n_context=2)
ROWS = [
    {"question": "Who?", "ctxs": [{"title": "T", "text": "a"}] * 3, "target": "the", "answers": ["rain"]},
    {"question": "Where?", "ctxs": [], "target": None, "answers": ["rain", "Seoul"]},
]


def assert_equal(batch, expected):
    assert set(batch) == set(expected) and type(batch) is dict
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_batch():
    batch = ReaderCollator(PROCESSOR)(ROWS)
    ctxs = [row["ctxs"] for row in ROWS]
    assert_equal(batch, PROCESSOR(["Who?", "Where?"], ctxs, ["the", "rain"]))
    assert batch["input_ids"].shape[:2] == (2, 2)
    assert_equal(ReaderCollator(PROCESSOR)([{**ROWS[0], "target": ""}]), PROCESSOR(["Who?"], ctxs[:1], [""]))


def test_no_labels_where_a_row_has_nothing_to_write():
    without = {"question": "Where?", "ctxs": []}
    for row in (without, {**without, "answers": [], "target": None}):
        assert_equal(ReaderCollator(PROCESSOR)([ROWS[0], row]), PROCESSOR(["Who?", "Where?"], [ROWS[0]["ctxs"], []]))
