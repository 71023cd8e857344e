"""Folders of late-interaction indexes."""

import json
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from ...utils.storage import MANIFEST, FolderWriter, check_replaceable, load_folder, map_array
from ..embeddings import QUERY_MOMENTS, read_ids, write_ids
from .codec import ResidualCodec
from .contents import BuildSettings, Contents
from .passage_ids import PassageIds
from .segments import Segment, Training, is_whole, joined
from .tokens import CompressedTokens, ExactTokens


CODEC_ARRAYS = ("centroids", "rotation", "query_rotation")
INDEX_FORMAT = "hf_xlir.late_interaction_index"


class IndexFolder:
    """A folder that an index was saved to or loaded from, as it was then: path, manifest and the segments' tokens."""

    def __init__(self, path, manifest, tokens):
        self.path, self.manifest = Path(path).absolute(), manifest
        self._entries = WeakKeyDictionary()  # an `id` could be another's later
        for number, each in enumerate(tokens):
            self._entries[each] = {name: manifest["files"][f"{name}-{number}.npy"] for name in each.arrays}

    def entries(self, tokens):
        """The manifest's entries of the arrays of a segment's tokens, by name; none if they are not in this folder."""
        return self._entries.get(tokens, {})

    def is_at(self, path):
        """Whether this is the folder at a path."""
        path = Path(path)
        return path.exists() and self.path.exists() and path.samefile(self.path)

    @property
    def has_changed(self):
        """Whether another writer has saved to the folder since, or it is gone."""
        try:
            return json.loads((self.path / MANIFEST).read_text(encoding="utf-8")) != self.manifest
        except (OSError, ValueError):
            return True


def save_contents(contents, settings, path, before=None):
    """
    Write an index to a folder at once; returns the [`IndexFolder`].

    `before` is the [`IndexFolder`] that the index was loaded from or saved to last. Files there of segments that did
    not change get a second name instead of being written and read again, where the file system can do that.
    """
    check_replaceable(path, INDEX_FORMAT)
    before = before if before is not None and before.is_at(path) else None
    trainings = list({id(each.training): each.training for each in contents.segments if each.training}.values())
    number_of = {id(training): number for number, training in enumerate(trainings)}
    with FolderWriter(path) as folder:
        for number, training in enumerate(trainings):
            for name, array in training.codec.arrays().items():
                np.save(folder.file(f"{name}-{number}.npy"), array)
        for number, segment in enumerate(contents.segments):
            entries = {} if before is None else before.entries(segment.tokens)
            for name, array in segment.tokens.arrays.items():
                file, entry = f"{name}-{number}.npy", entries.get(name)
                if entry is None or not folder.link(file, before.path / entry["name"], entry):
                    np.save(folder.file(file), array)
            if not is_whole(segment, contents.ids):
                np.save(folder.file(f"rows-{number}.npy"), segment.rows(contents.ids))
        if contents.query_moments is not None:
            np.save(folder.file(QUERY_MOMENTS), contents.query_moments)
        write_ids(folder, contents.ids)
        manifest = folder.commit(
            INDEX_FORMAT,
            **settings._asdict(),
            num_passages=len(contents.ids),
            num_tokens=contents.num_tokens,
            embedding_dim=contents.embedding_dim,
            codecs=[
                {"nbits": each.codec.nbits, "num_tokens": each.num_tokens, "residual": each.residual}
                for each in trainings
            ],
            segments=[
                {
                    "codec": number_of.get(id(each.training)),
                    "residual": each.residual,
                    "arrays": list(each.tokens.arrays),
                }
                for each in contents.segments
            ],
        )
    return IndexFolder(path, manifest, [segment.tokens for segment in contents.segments])


def load_contents(path, verify):
    """The [`Contents`], with memory-mapped arrays, the [`BuildSettings`] and the [`IndexFolder`] of a saved index."""

    def open_files(manifest, files):
        if "segments" not in manifest or any("cells" in entry["arrays"] for entry in manifest["segments"]):
            raise ValueError(f"`{path}` was written by an early version of hf_xlir: build and save the index again.")
        trainings = []
        for number, entry in enumerate(manifest["codecs"]):
            arrays = {name: np.load(files[f"{name}-{number}.npy"]) for name in CODEC_ARRAYS}
            codec = ResidualCodec.from_arrays(arrays, entry["nbits"])
            trainings.append(Training(codec, entry["num_tokens"], entry["residual"]))
        parts = []
        for number, entry in enumerate(manifest["segments"]):
            arrays = {name: map_array(files[f"{name}-{number}.npy"]) for name in entry["arrays"]}
            training = None if entry["codec"] is None else trainings[entry["codec"]]
            tokens = ExactTokens(arrays) if training is None else CompressedTokens(training.codec, arrays)
            rows = f"rows-{number}.npy"
            rows = np.load(files[rows]) if rows in files else np.arange(len(tokens))
            parts.append((tokens, rows, training, entry["residual"]))
        ids, moments = read_ids(files), np.load(files[QUERY_MOMENTS]) if QUERY_MOMENTS in files else None
        settings = BuildSettings(*(manifest[name] for name in BuildSettings._fields)).checked()
        reason = _contradiction(parts, ids, manifest)
        if reason is not None:
            raise ValueError(f"`{path}` contradicts itself, so that it is damaged or foreign: {reason}.")
        segments = tuple(_segment(*part, len(ids)) for part in parts)
        contents = Contents(PassageIds.of(ids), segments, manifest["embedding_dim"], moments)
        return contents, settings, IndexFolder(path, manifest, [part[0] for part in parts])

    return load_folder(path, INDEX_FORMAT, open_files, verify)


def _segment(tokens, rows, training, residual, num_rows):
    """A segment that was saved. A removed passage has row -1 and gets the slot of the next one, so that slots rise."""
    slots = np.where(rows < 0, num_rows, rows)
    slots = np.ascontiguousarray(np.minimum.accumulate(slots[::-1])[::-1]) if (rows < 0).any() else slots
    segment = Segment(tokens, slots, training, residual, np.flatnonzero(rows < 0))
    # Early versions left the vectors that an uncompressed index was rebuilt from in the order in which they came
    return segment if (np.diff(rows[rows >= 0]) > 0).all() else joined([replace(segment, slots=rows)])


def _contradiction(parts, ids, manifest):
    """The contradiction in an index that was loaded, or `None`."""
    dim, num_tokens = manifest["embedding_dim"], 0
    for number, (tokens, rows, training, _) in enumerate(parts):
        arrays = tokens.arrays
        name, width = ("values", dim) if training is None else ("records", training.codec.record_bytes)
        if training is not None and training.codec.embedding_dim != dim:
            return f"codec {number} is for {training.codec.embedding_dim} dimensions, the index has {dim}"
        if arrays[name].shape != (arrays["offsets"][-1], width):
            expected = f"{arrays['offsets'][-1]} tokens of {width} columns"
            return f"`{name}` of segment {number} has shape {arrays[name].shape}, expected {expected}"
        if rows.shape != (len(tokens),):
            return f"segment {number} has {len(tokens)} passages, and rows of shape {rows.shape}"
        num_tokens += int(np.diff(arrays["offsets"])[rows >= 0].sum())
    rows = np.concatenate([np.empty(0, np.int64), *(rows[rows >= 0] for _, rows, _, _ in parts)])
    if not np.array_equal(np.bincount(rows, minlength=len(ids)), np.ones(len(ids))):
        return f"its segments do not hold each of its {len(ids)} ids once"
    counted = {"num_passages": len(ids), "num_tokens": num_tokens}
    stated = {name: manifest[name] for name in counted}
    return f"its manifest states {stated}, its files have {counted}" if stated != counted else None


__all__ = ["INDEX_FORMAT", "IndexFolder", "load_contents", "save_contents"]
