"""Folders of late-interaction indexes."""

import json
import os
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from ...utils.storage import MANIFEST, FolderWriter, check_replaceable, load_folder, map_array
from ..embeddings import QUERY_MOMENTS, read_ids, write_ids
from .compressed_tokens import CompressedTokens
from .contents import Contents, Settings
from .exact_tokens import ExactTokens
from .residual_codec import ResidualCodec
from .segments import Segment, Training


CODEC_ARRAYS = ("centroids", "rotation", "query_rotation")
INDEX_FORMAT = "hf_xlir.late_interaction_index"


class IndexFolder:
    r"""
    A folder that an index was saved to or loaded from, as it was then.

    Args:
        path (`Path`):
            The folder.
        manifest (`dict`):
            Its manifest.
        segments (`tuple[Segment, ...]`):
            What it holds.
    """

    def __init__(self, path, manifest, segments):
        self.path, self.manifest = Path(path).absolute(), manifest
        self._files = WeakKeyDictionary()  # an `id` could be another's later
        for number, segment in enumerate(segments):
            names = {name: manifest["files"][f"{name}-{number}.npy"]["name"] for name in segment.tokens.arrays}
            self._files[segment.tokens] = {name: self.path / file for name, file in names.items()}

    def files(self, tokens):
        """The files of the arrays of a segment's tokens, by their names; none if they are not in this folder."""
        return self._files.get(tokens, {})

    def is_at(self, path):
        """Whether this is the folder at a path."""
        path = Path(path)
        return path.exists() and self.path.exists() and path.samefile(self.path)

    @property
    def has_changed(self):
        """Whether somebody else has saved to the folder since, or it is gone."""
        try:
            return json.loads((self.path / MANIFEST).read_text(encoding="utf-8")) != self.manifest
        except (OSError, ValueError):
            return True


def save_contents(contents, settings, path, before=None):
    r"""
    Write an index to a folder, all at once.

    Args:
        contents ([`Contents`]):
            What it holds.
        settings ([`Settings`]):
            How it was built.
        path (`str` or `os.PathLike`):
            The folder.
        before ([`IndexFolder`], *optional*):
            Where it was loaded from or saved to last. Files there of segments that did not change get a second name
            instead of being written again, where the file system can do that.

    Returns:
        [`IndexFolder`]: What was written.
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
            files = {} if before is None else before.files(segment.tokens)
            for name, array in segment.tokens.arrays.items():
                _write(array, folder.file(f"{name}-{number}.npy"), files.get(name))
            if not segment.is_whole:
                np.save(folder.file(f"rows-{number}.npy"), segment.rows)
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
    return IndexFolder(path, manifest, contents.segments)


def load_contents(path, verify):
    r"""
    The [`Contents`], [`Settings`] and [`IndexFolder`] of a folder written by [`save_contents`]; arrays are
    memory-mapped.
    """

    def open_files(manifest, files):
        if "segments" not in manifest or any("cells" in entry["arrays"] for entry in manifest["segments"]):
            raise ValueError(f"`{path}` was written by an early version of hf_xlir: build and save the index again.")
        trainings = []
        for number, entry in enumerate(manifest["codecs"]):
            arrays = {name: np.load(files[f"{name}-{number}.npy"]) for name in CODEC_ARRAYS}
            codec = ResidualCodec.from_arrays(arrays, entry["nbits"])
            trainings.append(Training(codec, entry["num_tokens"], entry["residual"]))
        segments = []
        for number, entry in enumerate(manifest["segments"]):
            arrays = {name: map_array(files[f"{name}-{number}.npy"]) for name in entry["arrays"]}
            training = None if entry["codec"] is None else trainings[entry["codec"]]
            tokens = ExactTokens(arrays) if training is None else CompressedTokens(training.codec, arrays)
            rows = f"rows-{number}.npy"
            rows = np.load(files[rows]) if rows in files else np.arange(len(tokens))
            segments.append(Segment(tokens, rows, training, entry["residual"]))
        moments = np.load(files[QUERY_MOMENTS]) if QUERY_MOMENTS in files else None
        contents = Contents(read_ids(files), tuple(segments), manifest["embedding_dim"], moments)
        settings = Settings(*(manifest[name] for name in Settings._fields)).checked()
        reason = _contradiction(contents, manifest)
        if reason is not None:
            raise ValueError(f"`{path}` contradicts itself, so that it is damaged or foreign: {reason}.")
        return contents, settings, IndexFolder(path, manifest, segments)

    return load_folder(path, INDEX_FORMAT, open_files, verify)


def _contradiction(contents, manifest):
    """What does not fit together in contents that were loaded, or `None`."""
    dim = contents.embedding_dim
    for number, segment in enumerate(contents.segments):
        arrays, training = segment.tokens.arrays, segment.training
        name, width = ("values", dim) if training is None else ("records", training.codec.record_bytes)
        if training is not None and training.codec.embedding_dim != dim:
            return f"codec {number} is for {training.codec.embedding_dim} dimensions, the index has {dim}"
        if arrays[name].shape != (arrays["offsets"][-1], width):
            expected = f"{arrays['offsets'][-1]} tokens of {width} columns"
            return f"`{name}` of segment {number} has shape {arrays[name].shape}, expected {expected}"
        if segment.rows.shape != (len(segment.tokens),):
            return f"segment {number} has {len(segment.tokens)} passages, and rows of shape {segment.rows.shape}"
    rows = np.concatenate([np.empty(0, np.int64), *(each.rows[each.rows >= 0] for each in contents.segments)])
    if not np.array_equal(np.bincount(rows, minlength=len(contents.ids)), np.ones(len(contents.ids))):
        return f"its segments do not hold each of its {len(contents.ids)} ids once"
    counted = {"num_passages": len(contents.ids), "num_tokens": contents.num_tokens}
    stated = {name: manifest[name] for name in counted}
    return f"its manifest states {stated}, its files have {counted}" if stated != counted else None


def _write(array, file, existing):
    if existing is not None:
        try:
            return os.link(existing, file)
        except OSError:  # gone, since somebody else saved here, or the file system knows no second names
            pass
    np.save(file, array)


__all__ = ["IndexFolder", "load_contents", "save_contents"]
