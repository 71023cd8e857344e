"""Ids of passages that come and go: against a list, and what a change of an index touches."""

import pickle
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index import LateInteractionIndex, TokenEmbeddings
from hf_xlir.index.late_interaction.passage_ids import PassageIds


class CountedId(str):
    """Counts how often an id is hashed or compared."""

    touched = 0

    def __hash__(self):
        CountedId.touched += 1
        return super().__hash__()

    def __eq__(self, other):
        CountedId.touched += 1
        return super().__eq__(other)


class AwkwardId(str):
    """Shares its hash with many others."""

    def __hash__(self):
        return len(self)


def one_token_each(ids, seed=0, dim=8):
    values = np.random.default_rng(seed).standard_normal((len(ids), dim)).astype("float32")
    return TokenEmbeddings(values, np.ones(len(ids), np.int64), ids)


@pytest.mark.parametrize("kind", [str, AwkwardId])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 30), max_size=9)), max_size=12))
def test_equals_a_list(kind, steps):
    ids, expected, versions = PassageIds.of([]), [], []
    for add, numbers in steps:
        versions.append((ids, list(expected)))
        chosen = [kind(f"p{number}") for number in sorted(numbers)]
        if add:
            new = [id for id in chosen if id not in expected]
            ids, expected = ids.appended(new), expected + new
        else:
            gone = [id for id in chosen if id in expected]
            ids, expected = ids.without(ids.find(gone)), [id for id in expected if id not in gone]
    versions += [(ids, expected), (pickle.loads(pickle.dumps(ids)), expected)]
    for version, list_of_ids in versions:  # older ones stay as they were
        assert version == list_of_ids and list(version) == list_of_ids and len(version) == len(list_of_ids)
        assert version[::2] == list_of_ids[::2] and [version[row] for row in range(-len(version), 0)] == list_of_ids
        slots = version.slots([kind(f"p{number}") for number in range(31)])
        rows = np.where(slots < 0, -1, version.rows(slots))
        places = {id: row for row, id in enumerate(list_of_ids)}
        assert rows.tolist() == [places.get(kind(f"p{number}"), -1) for number in range(31)]
        assert (version.slots_of_rows(np.arange(len(version))) == np.sort(slots[slots >= 0])).all()
    joined = PassageIds.concatenated([ids, PassageIds.of([kind("q")])])
    assert joined == [*expected, "q"] and kind("q") in joined and joined.index("q") == len(expected)


def test_what_is_not_there():
    ids = PassageIds.of(["a", "b"])
    with pytest.raises(IndexError):
        ids[2]
    with pytest.raises(ValueError, match=r"2 ids are not in this index.*'x', 'y'"):
        ids.find(["a", "y", "x"])
    with pytest.raises(ValueError, match="`these`.*one string"):
        ids.find("a", "these")
    assert ids != ["a"] and ids != ["a", "c"] and repr(ids) == "['a', 'b']"


@pytest.mark.parametrize("nbits", [None, 4])
def test_a_change_touches_what_changes(nbits):
    """Ids that are hashed or compared, and bytes that are allocated, do not grow with the index."""
    touched, allocated = [], []
    for size in (20_000, 80_000):
        embeddings = one_token_each([CountedId(f"p{row}") for row in range(size)])
        index = LateInteractionIndex.build(embeddings, nbits, num_centroids=nbits and 16)
        changes = []
        for step in range(4):
            seen = range(100 * step, 100 * step + 100)
            changes += [
                (index.add, one_token_each([CountedId(f"new{row}") for row in seen], step)),
                (index.update, one_token_each([CountedId(f"p{row}") for row in seen], step)),
                (index.remove, [CountedId(f"p{size - 1 - row}") for row in seen]),
            ]
        largest = index.contents.segments[0].tokens
        CountedId.touched = 0
        tracemalloc.start()
        for change, argument in changes:
            change(argument)
        allocated.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        touched.append(CountedId.touched)
        assert len(index) == size and largest in [segment.tokens for segment in index.contents.segments]
    assert touched[0] == touched[1] <= 12 * 100 * 8
    assert allocated[1] < 1.2 * allocated[0] < 20_000 * 40  # one int64 per passage of the larger index is 640 kB


def test_a_dataset_looks_only_at_what_was_added():
    index = LateInteractionIndex.build(one_token_each([CountedId(f"p{row}") for row in range(5000)]))
    dataset = Dataset.from_dict({"id": [str(id) for id in index.ids]})
    index.attach(dataset, "colbert")
    index.add(one_token_each([CountedId(f"new{row}") for row in range(50)], 1))
    index.remove([CountedId("p7")])
    query = np.ones((1, 8), "float32")
    CountedId.touched = 0
    _, rows = dataset.get_index("colbert").search(query, 20)
    assert CountedId.touched <= 4 * 50 and 7 not in rows
    scores = one_token_each(range(5000)).values.sum(axis=1)
    scores[7] = -np.inf
    assert rows.tolist() == np.argsort(-scores, kind="stable")[:20].tolist()


@pytest.mark.parametrize("nbits", [None, 8])
def test_searches_of_eight_threads_see_one_version_each(nbits):
    """While passages come, change and go: every result is that of a version of the index, and those held stay."""
    index = LateInteractionIndex.build(one_token_each([f"p{row}" for row in range(400)]), nbits, num_centroids=nbits)
    query, errors, stop, checked = torch.ones(1, 8), [], threading.Event(), []

    def search():
        held = index.contents
        ids, before = list(held.ids), LateInteractionIndex(held, index.settings).search(query, 9, preset="exact")
        while not stop.is_set():
            try:
                contents = index.contents
                fixed = LateInteractionIndex(contents, index.settings)
                scores, rows = fixed.search(query, 9, preset="exact")
                found = [contents.ids[row] for row in rows]
                again = fixed.search(query, 9, preset="exact", allowed_ids=found)
                # Updated passages have equal vectors: the order of ties is free
                assert len(set(found)) == 9 and set(again.indices.tolist()) == set(rows.tolist())
                assert index.search(query, 9, preset="exact").scores[0] > 0
                checked.append(len(contents.ids))
            except Exception as error:
                errors.append(error)
        same = LateInteractionIndex(held, index.settings).search(query, 9, preset="exact")
        if list(held.ids) != ids or same.scores.tolist() != before.scores.tolist():
            errors.append("a version that was held has changed")

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for step in range(30):
        index.add(one_token_each([f"{step}.{row}" for row in range(20)], step))
        index.update(one_token_each(index.ids[step : step + 9], step))
        index.remove(index.ids[: 15 + step % 10])
        while len(checked) < step and not errors:
            time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
