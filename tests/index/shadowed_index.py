"""An index beside a dictionary of the vectors that it should hold: whatever is done to one is done to the other."""

import copy

import numpy as np
import pytest
import torch

from hf_xlir.index import LateInteractionIndex, TokenEmbeddings
from hf_xlir.utils import storage
from hf_xlir.utils.storage import FolderWriter


DIM = 8
NOISE = {None: 1e-5, "auto": 0.35, 8: 0.08, 4: 0.6}  # of a score with 3 query tokens, after any number of rebuilds


class Killed(BaseException):
    """Stands for a kill: nothing is cleaned up after it."""


class ShadowedIndex:
    """
    Args:
        folder (`Path`):
            Where it saves.
        nbits, pooling_factor:
            Of the index.
    """

    def __init__(self, folder, nbits, **settings):
        self.folder, self.nbits, self.next_id = folder, nbits, 0
        self.vectors = {}
        first = self._made(range(3), self._new_ids(3))
        self.index = LateInteractionIndex.build(first, nbits, **settings)
        self._hold(first)
        self.gone, self.on_disk = set(), None

    def add(self, seeds, maintain=True):
        embeddings = self._made(seeds, self._new_ids(len(seeds)))
        self.index.add(embeddings, maintain)
        self._hold(embeddings)

    def add_again(self, id):
        """Put a passage that was removed back in, with other vectors."""
        embeddings = self._made([hash(id) % 1000], [id])
        self.index.add(embeddings)
        self.gone.discard(id)
        self._hold(embeddings)

    def remove(self, ids, maintain=True):
        self.index.remove(ids, maintain)
        for id in ids:
            del self.vectors[id]
        self.gone |= set(ids)

    def update(self, ids, seed, maintain=True):
        embeddings = self._made(range(seed, seed + len(ids)), ids)
        self.index.update(embeddings, maintain)
        self._hold(embeddings)

    def rebuild(self, from_originals):
        embeddings = None
        if from_originals and self.vectors:
            ids = sorted(self.vectors)  # in another order
            lengths = np.array([len(self.vectors[id]) for id in ids])
            embeddings = TokenEmbeddings(np.concatenate([self.vectors[id] for id in ids]), lengths, ids)
        self.index.rebuild(embeddings)

    def save(self):
        self.index.save(self.folder, overwrite=True)
        self.on_disk = copy.copy(self.vectors)

    def load(self):
        if self.on_disk is None:
            return
        self.gone = (self.gone | self.vectors.keys()) - self.on_disk.keys()
        self.vectors = copy.copy(self.on_disk)
        self.index = LateInteractionIndex.load(self.folder)

    def killed_save(self, step):
        """
        Save, be killed, and load. Files flushed before the kill, or -1: after the folder was published, when files of
        the old index are being removed.
        """
        flush, remaining = storage.flush_to_disk, [step]

        def kill_at_flush(file):
            if remaining[0] == 0:
                raise Killed
            remaining[0] -= 1
            flush(file)

        def kill_at_remove(file):
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FolderWriter, "__exit__", lambda *args: None)
            if step < 0:
                patch.setattr(storage, "_remove", kill_at_remove)
            else:
                patch.setattr(storage, "flush_to_disk", kill_at_flush)
            published = True
            try:
                self.index.save(self.folder, overwrite=True)
            except Killed:
                published = step < 0
        if published:
            self.on_disk = copy.copy(self.vectors)
        self.load()

    def check(self, seed=0):
        """Nothing is lost, doubled or resurrected; scores are those of the vectors, up to the quantiser's noise."""
        ids = list(self.vectors)
        assert self.index.ids == ids and len(self.index) == len(ids)
        assert self.index.num_tokens == sum(map(len, self.vectors.values()))
        query = torch.nn.functional.normalize(
            torch.randn(3, DIM, generator=torch.Generator().manual_seed(seed)), dim=1
        )
        scores, rows = self.index.search(query, k=len(ids) + 2, preset="exact")
        assert sorted(rows) == list(range(len(ids)))
        expected = [(query.double().numpy() @ self.vectors[ids[row]].T).max(axis=1).sum() for row in rows]
        np.testing.assert_allclose(scores, expected, atol=NOISE[self.nbits])
        for preset in ("fast", "balanced"):
            few = self.index.search(query, k=5, preset=preset, n_probe=1, n_tokens=4, n_rerank=5)
            assert len(set(few.indices)) == min(5, len(ids)) and set(few.indices) <= set(rows)
        allowed = ids[seed % 3 :: 3]
        _, rows = self.index.search(query, k=4, allowed_ids=allowed, n_rerank=4)
        assert len(set(rows)) == min(4, len(allowed)) and {ids[row] for row in rows} <= set(allowed)
        for id in sorted(self.gone)[:3]:
            with pytest.raises(ValueError, match="1 ids are not in this index"):
                self.index.search(query, allowed_ids=[id])

    def _new_ids(self, number):
        self.next_id += number
        return [f"p{i}" for i in range(self.next_id - number, self.next_id)]

    def _hold(self, embeddings):
        for row, id in enumerate(embeddings.ids):
            self.vectors[id] = np.asarray(embeddings[row])

    def _made(self, seeds, ids):
        values = []
        for seed in seeds:
            generator = np.random.default_rng(seed)
            made = generator.standard_normal(DIM) + 0.7 * generator.standard_normal((seed % 4 + 1, DIM))
            values.append(made / np.linalg.norm(made, axis=1, keepdims=True))
        lengths = np.array([len(made) for made in values], dtype=np.int64)
        values = np.concatenate(values) if values else np.zeros((0, DIM))
        return TokenEmbeddings(values.astype(np.float32), lengths, ids)
