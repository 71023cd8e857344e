"""Which ids are new, and which record has an id."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.data import ids
from hf_xlir.data.ids import RecordsById, _SeenIds, unique
from hf_xlir.data.reading import RowErrors


def test_seen_ids_equal_a_set():
    generator = np.random.default_rng(0)
    seen, reference = _SeenIds(), set()
    for _ in range(50):
        ids = [str(number) for number in generator.integers(0, 3000, size=generator.integers(1, 200))]
        is_new = []
        for passage_id in ids:
            is_new.append(passage_id not in reference)
            reference.add(passage_id)
        assert seen.add(ids).tolist() == is_new
    assert sum(map(len, seen.arrays)) == len(reference)


@pytest.mark.parametrize("block_size", [1, 2, 100])
def test_the_first_record_of_an_id_stays(block_size):
    rows = [(number, {"id": id}) for number, id in enumerate(["a", "b", "a", "NA", "b"], start=1)]
    errors = RowErrors("skip")
    assert [record["id"] for record in unique(rows, "f", errors, block_size)] == ["a", "b", "NA"]
    assert errors.first == [
        "`f`, line 3: the id `a` has occurred before",
        "`f`, line 5: the id `b` has occurred before",
    ]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@settings(deadline=None)  # a busy machine may take long over a dataset
@given(st.lists(TEXTS, unique=True, max_size=20), st.lists(TEXTS, max_size=20), st.sampled_from([1, 3, 1 << 62]))
def test_records_are_found_by_their_ids(present, wanted, num_hashes):
    """As by a dictionary; also where many ids share a hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "_hashes", lambda each: np.array([hash(id) % num_hashes for id in each], np.int64))
        records = RecordsById(Dataset.from_dict({"id": present, "text": [text * 2 for text in present]}))
        found, rows = records.find(iter(wanted)), records.find_rows(iter(wanted))
    assert rows == {id: present.index(id) for id in wanted if id in present}
    assert found == {id: {"id": id, "text": id * 2} for id in wanted if id in present}


def test_two_records_of_one_id_are_refused(monkeypatch):
    monkeypatch.setattr(ids, "IDS_PER_READ", 2)
    with pytest.raises(ValueError, match="Two records have the id `b`: ids must be unique"):
        RecordsById(Dataset.from_dict({"id": ["a", "b", "c", "d", "b"]}))
