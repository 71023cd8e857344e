"""Passages of a dataset or a list: every row is looked at, and columns are read by blocks."""

import pytest
from datasets import Dataset

from hf_xlir.data import passages as module
from hf_xlir.data.passages import check_passages, read_rows


ROWS = [{"id": "a", "text": "one", "title": "A", "score": 1}, {"id": "b", "text": "two", "title": None, "score": 2}]


@pytest.mark.parametrize(
    "make", [list, tuple, Dataset.from_list, lambda rows: Dataset.from_list(rows).with_format("torch")]
)
def test_ids_and_rows(make, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_CHECK", 2)
    passages = make([*ROWS, {"id": "c", "text": "three", "title": "", "score": 3}])
    assert check_passages(passages) == ["a", "b", "c"]
    assert read_rows(passages, 0, 2) == {"id": ["a", "b"], "text": ["one", "two"], "title": ["A", ""]}
    assert read_rows(passages, 1, 9) == {"id": ["b", "c"], "text": ["two", "three"], "title": None}


def test_titles_are_optional():
    for passages in ([{"id": "a", "text": "one"}], Dataset.from_dict({"id": ["a"], "text": ["one"]})):
        assert read_rows(passages, 0, 1)["title"] is None
    assert read_rows([{"id": "a", "text": "one"}, ROWS[0]], 0, 2)["title"] == ["", "A"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ""}, "The text of passage `x` in row 3 is empty: leave it out"),
        ({"text": " \n\t"}, "in row 3 is empty"),
        ({"text": "\u200b\ufeff"}, "in row 3 is empty"),
        ({"text": None}, "`x` in row 3 must be a string, got None"),
        ({"text": 5}, "must be a string, got 5"),
        ({"text": "ab \udc9f"}, "The text of passage `x` in row 3 is not valid Unicode"),
        ({"id": None}, "row 3 has the id None"),
        ({"id": ""}, "in row 3 has the id ''"),
        ({"id": "a"}, "Two passages have the id `a`: ids must be unique"),
    ],
)
def test_a_mistake_in_the_last_row_is_found(monkeypatch, row, message):
    monkeypatch.setattr(module, "ROWS_PER_CHECK", 2)
    with pytest.raises(ValueError, match=message):
        check_passages([*ROWS, {"id": "c", "text": "three"}, {"id": "x", "text": "four", **row}])


def test_columns(monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_CHECK", 1)
    with pytest.raises(ValueError, match=r"but row 1 lacks \['id', 'text'\]"):
        check_passages([ROWS[0], {"title": "B"}])
    with pytest.raises(ValueError, match=r"but the dataset lacks \['text'\]"):
        check_passages(Dataset.from_dict({"id": ["a"], "body": ["one"]}))


def test_other_columns_are_not_decoded():
    """Vectors beside the texts would cost more than the texts."""
    passages = Dataset.from_list(ROWS).add_column("vector", [[0.5], [1.5]])
    passages.set_transform(lambda batch: batch if set(batch) <= {"id", "text", "title"} else 1 / 0)
    assert read_rows(passages, 0, 2)["text"] == ["one", "two"]


@pytest.mark.parametrize("passages", ["text", {"id": "a", "text": "one"}, None, iter(ROWS)])
def test_what_is_no_list(passages):
    with pytest.raises(ValueError, match="must be a `datasets.Dataset` or a list of dictionaries, got"):
        check_passages(passages)
