"""Ids of millions of records in a few bytes each: which ids are new, and which record has an id."""

from collections.abc import Iterable, Iterator

import datasets
import numpy as np

from .building import blocks
from .reading import RowErrors


IDS_PER_READ = 100_000


def unique(rows: Iterable[tuple[int, dict]], name: str, errors: RowErrors, block_size: int = 10_000) -> Iterator[dict]:
    """The records of `(line number, record)`; a record whose `id` has occurred before is a bad row."""
    seen = _SeenIds()
    for block in blocks(rows, block_size):
        is_new = seen.add([record["id"] for _, record in block])
        for (number, record), new in zip(block, is_new, strict=True):
            if new:
                yield record
            else:
                errors.bad(name, number, f"the id `{record['id']}` has occurred before")


class _SeenIds:
    """The ids so far, in eight bytes each: a few sorted arrays of hashes, which are merged as they grow."""

    def __init__(self):
        self.arrays: list[np.ndarray] = []

    def add(self, ids: list[str]) -> np.ndarray:
        """Which of `ids` are new, as a boolean array. Hashes collide in 1 of 100,000 collections of 21 million."""
        hashes, first, inverse = np.unique(_hashes(ids), return_index=True, return_inverse=True)
        is_new = np.ones(len(hashes), bool)
        for array in self.arrays:
            is_new &= array[np.minimum(np.searchsorted(array, hashes), len(array) - 1)] != hashes
        self.arrays.append(hashes[is_new])
        while len(self.arrays) > 1 and len(self.arrays[-2]) <= 2 * len(self.arrays[-1]):
            self.arrays[-2:] = [np.sort(np.concatenate(self.arrays[-2:]))]
        if not len(self.arrays[-1]):
            self.arrays.pop()
        is_first = np.zeros(len(ids), bool)
        is_first[first] = True
        return is_new[inverse] & is_first


class RecordsById:
    """
    Finds records of a dataset, or their row numbers, by `id`, in 16 bytes of memory per record; the records stay on
    disk. A `ValueError` names an id that two records have.
    """

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset.with_format(None)
        ids = self.dataset.select_columns("id")
        hashes = [_hashes(ids[start : start + IDS_PER_READ]["id"]) for start in range(0, len(ids), IDS_PER_READ)]
        hashes = np.concatenate(hashes) if hashes else np.empty(0, np.int64)
        self.rows = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.rows]
        for position in np.flatnonzero(self.hashes[1:] == self.hashes[:-1]):
            first, second = (ids[int(row)]["id"] for row in self.rows[position : position + 2])
            if first == second:
                raise ValueError(f"Two records have the id `{first}`: ids must be unique.")

    def find(self, ids: Iterable[str]) -> dict[str, dict]:
        """`{id: record}`, without ids that no record has."""
        ids = list(dict.fromkeys(ids))
        table = self.dataset[self._candidates(ids)]
        records = (dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True))
        found = {record["id"]: record for record in records}
        return {each: found[each] for each in ids if each in found}

    def find_rows(self, ids: Iterable[str]) -> dict[str, int]:
        """`{id: row number}`, without ids that no record has."""
        ids = list(dict.fromkeys(ids))
        rows = self._candidates(ids)
        found = dict(zip(self.dataset.select_columns("id")[rows]["id"], rows.tolist(), strict=True))
        return {each: found[each] for each in ids if each in found}

    def _candidates(self, ids: list[str]) -> np.ndarray:
        """Ascending row numbers of all records whose ids share a hash with one of `ids`."""
        hashes = _hashes(ids)
        starts = np.searchsorted(self.hashes, hashes, "left")
        counts = np.searchsorted(self.hashes, hashes, "right") - starts  # more than one where ids share a hash
        positions = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return np.unique(self.rows[positions])


def _hashes(ids: list[str]) -> np.ndarray:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


__all__ = ["RecordsById", "unique"]
