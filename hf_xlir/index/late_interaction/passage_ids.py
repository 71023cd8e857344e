"""The ids of an index's passages. Versions of an index share them: a change costs what the changed passages cost."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from operator import eq
from typing import NamedTuple

import numpy as np


MERGED_SIZES = 2  # a block has more than this many times the ids of the next one, which keeps their number low


class PassageIds(Sequence):
    """
    The ids in the order of rows, an immutable sequence that also finds an id's place.

    Each id has a slot. A slot keeps its number while passages are added and removed; its row is the number of slots
    before it that were not removed. Sixteen bytes per passage find the slot of an id: sorted hashes in blocks, where a
    change adds a block and merges it with blocks of about its size.
    """

    def __init__(self, blocks, removed, origin):
        self._blocks, self._removed = blocks, removed
        self.origin = origin  # the same for all versions that number slots alike
        starts = np.cumsum([0, *(len(block.ids) for block in blocks)])
        self._starts, self.end = starts[:-1], int(starts[-1])

    @classmethod
    def of(cls, ids):
        """Slots are rows at first."""
        return cls((_Block.of(ids),) if len(ids) else (), np.empty(0, np.int64), object())

    def __reduce__(self):
        # Strings have other hashes in another process
        return _from_lists, ([block.ids for block in self._blocks], self._removed, self.origin)

    def __len__(self):
        return self.end - len(self._removed)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return self.at(self.slots_of_rows(np.arange(*row.indices(len(self)))))
        row = range(len(self))[row]  # negative ones count from the end
        slot = row + bisect_right(self._kept_before, row)  # without arrays, which cost ten times as much for one id
        block = bisect_right(self._starts, slot) - 1
        return self._blocks[block].ids[slot - self._starts[block]]

    def __iter__(self):
        for start, block in zip(self._starts, self._blocks, strict=True):
            kept = np.ones(len(block.ids), dtype=bool)
            first, last = np.searchsorted(self._removed, [start, start + len(kept)])
            kept[self._removed[first:last] - start] = False
            yield from compress(block.ids, kept.tolist())

    def __contains__(self, id):
        return bool(self.slots([id])[0] >= 0)

    def __eq__(self, other):
        if not isinstance(other, PassageIds | list):
            return NotImplemented
        return self is other or (len(self) == len(other) and all(map(eq, self, other)))

    __hash__ = None

    def __repr__(self):
        return repr(list(self))

    @property
    def num_removed(self):
        """Number of slots whose passages were removed."""
        return len(self._removed)

    def slots(self, ids):
        """The slot of each of a list of ids, int64; -1 for those that are not here."""
        hashes, slots = _hashes(ids), np.full(len(ids), -1)
        for start, block in zip(self._starts.tolist(), self._blocks, strict=True):
            first = np.searchsorted(block.hashes, hashes)
            count = np.searchsorted(block.hashes, hashes, side="right") - first
            if not count.any():
                continue
            positions = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
            places = block.places[positions].tolist()
            for query, place in zip(np.repeat(np.arange(len(ids)), count).tolist(), places, strict=True):
                if block.ids[place] == ids[query]:
                    slots[query] = start + place  # only the last one can be there still
        return np.where(self._are_removed(slots), -1, slots)

    def find(self, ids, name="ids"):
        """Slots of some ids, rising, each once; a `ValueError` names those that are unknown."""
        if isinstance(ids, str):
            raise ValueError(f"`{name}` must be several ids, got one string: use `[{ids!r}]`.")
        ids = list(set(ids))
        slots = self.slots(ids)
        unknown = sorted(str(ids[i]) for i in np.flatnonzero(slots < 0))
        if unknown:
            raise ValueError(f"{len(unknown)} ids are not in this index, such as {unknown[:5]}.")
        return np.sort(slots)

    def at(self, slots):
        """The ids in some slots, a list."""
        blocks = np.searchsorted(self._starts, slots, side="right") - 1
        places = slots - self._starts[blocks]
        return [self._blocks[block].ids[place] for block, place in zip(blocks.tolist(), places.tolist(), strict=True)]

    def rows(self, slots):
        """The row of each of an array of slots."""
        return slots - np.searchsorted(self._removed, slots)

    def slots_of_rows(self, rows):
        """The slot of each of an array of rows."""
        return rows + np.searchsorted(self._kept_before, rows, side="right")

    def appended(self, ids):
        """With further ids, none of which is here, in new slots behind the others."""
        blocks = [*self._blocks, _Block.of(ids)] if len(ids) else list(self._blocks)
        while len(blocks) > 1 and len(blocks[-2].ids) <= MERGED_SIZES * len(blocks[-1].ids):
            blocks[-2:] = [_Block.merged(*blocks[-2:])]
        return PassageIds(tuple(blocks), self._removed, self.origin)

    def without(self, slots):
        """Without the ids in some slots, an array that rises."""
        removed = np.sort(np.concatenate([self._removed, slots]), kind="stable")
        return PassageIds(self._blocks, removed, self.origin)

    @classmethod
    def concatenated(cls, parts):
        """The ids of several, which share none. The slots of each are counted from the end of the part before it."""
        starts = np.cumsum([0, *(part.end for part in parts)])[:-1]
        removed = [part._removed + start for part, start in zip(parts, starts, strict=True)]
        return cls(tuple(block for part in parts for block in part._blocks), np.concatenate(removed), object())

    def _are_removed(self, slots):
        at = np.searchsorted(self._removed, slots)
        inside = at < len(self._removed)
        inside[inside] = self._removed[at[inside]] == slots[inside]
        return inside

    @cached_property
    def _kept_before(self):
        return self._removed - np.arange(len(self._removed))


class _Block(NamedTuple):
    """Ids in the order of slots, their hashes, rising, and the place of each hash among the ids."""

    ids: list[str]
    hashes: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, ids):
        ids, hashes = list(ids), _hashes(ids)
        places = np.argsort(hashes, kind="stable")
        return cls(ids, hashes[places], places)

    @classmethod
    def merged(cls, first, second):
        hashes = np.concatenate([first.hashes, second.hashes])
        places = np.concatenate([first.places, second.places + len(first.ids)])
        order = np.argsort(hashes, kind="stable")  # of an id that was removed and came again, the last place is last
        return cls(first.ids + second.ids, hashes[order], places[order])


def _hashes(ids):
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _from_lists(lists, removed, origin):
    return PassageIds(tuple(map(_Block.of, lists)), removed, origin)


__all__ = ["PassageIds"]
