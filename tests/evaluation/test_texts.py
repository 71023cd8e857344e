"""Texts of ranked passages."""

import pytest
from datasets import Dataset

from hf_xlir.evaluation import texts
from hf_xlir.evaluation.texts import texts_by_id


ROWS = [{"id": id, "text": f"Text {id}.", "vector": [1.0]} for id in "abcde"]


@pytest.mark.parametrize("passages", [ROWS, Dataset.from_list(ROWS)], ids=["list", "dataset"])
def test_block_by_block(passages, monkeypatch):
    for size in (2, 5, 100):
        monkeypatch.setattr(texts, "PASSAGES_PER_BLOCK", size)
        assert texts_by_id(["e", "a", "e"], passages) == {"a": "Text a.", "e": "Text e."}
        assert texts_by_id([], passages) == {}
        with pytest.raises(ValueError, match=r"1 ranked passages are not among `passages`, such as \['z'\]"):
            texts_by_id(["a", "z"], passages)
