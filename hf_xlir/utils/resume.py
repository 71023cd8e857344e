"""Work that can be resumed after a kill: what each process has embedded so far, and with which settings."""

import hashlib
import json
import re
import uuid
from contextlib import ExitStack, contextmanager, nullcontext, suppress

import numpy as np
import torch

from .checks import quoted
from .files import draft_of, folder_lock, replacing
from .storage import MANIFEST, RowWriter, explained, map_array


ROWS_PER_COPY = 2**18


class Part:
    """
    The share of a corpus that one process has embedded: files of vectors and lengths that grow by blocks, and a small
    state file, replaced after each block, that says how much of them is valid. Opening a part again cuts off
    everything behind the last valid block. A part is a context manager and locks its files while it is open.

    `processes` says which part this is; rank 0 also takes over the parts of ranks that no longer exist. A part with
    another `fingerprint` is an error unless `resume` is false, which starts again.
    """

    def __init__(self, folder, processes, fingerprint, resume):
        self.folder, self.rank, self.fingerprint = folder, processes.rank, fingerprint
        self._values = self._lengths = None
        self._held = ExitStack()
        with _explaining(folder):
            self._held.enter_context(folder_lock(folder, f"unfinished-{self.rank}.lock"))
        try:
            beyond = {rank for rank in _ranks(folder) if rank >= processes.count and self.rank == 0}
            self.state = self._begin({self.rank, *beyond} & _ranks(folder), resume)
        except BaseException:
            self._held.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        with suppress(OSError) if error is not None else nullcontext():  # such as the full disk that `error` reports
            self.close()
        self._held.close()

    @property
    def num_blocks(self):
        """Blocks written so far."""
        return self.state["blocks"]

    @property
    def is_dense(self):
        """Whether each passage has one vector, so that no file of lengths is needed."""
        return self.state["dense"]

    def append(self, values, lengths):
        """Write a block: its vectors, and the number of vectors per passage (`None`: one)."""
        state = {**self.state, "blocks": self.state["blocks"] + 1}
        with _explaining(self.folder):
            self._write(state, values, lengths)
            self._save(state)

    def absorb(self, rank):
        """Append the whole part of another process, unless a run that was killed has done so already."""
        if self.state["absorbed"] >= rank:
            return
        if not _path(self.folder, rank).exists():
            raise ValueError(
                f"`{self.folder}` has no vectors of process {rank}: the folder must be on a disk that all see."
            )
        other = _state(self.folder, rank)
        state = {**self.state, "absorbed": rank}
        with _explaining(self.folder):
            if other["blocks"]:
                values = map_array(_data(self.folder, other, "values"))
                lengths = None if other["dense"] else np.load(_data(self.folder, other, "lengths"))
                state |= {name: other[name] for name in ("dense", "row_shape", "dtype")}  # this part may be empty
                for start in range(0, len(values), ROWS_PER_COPY):
                    self._write(state, values[start : start + ROWS_PER_COPY], None if start else lengths)
            self._save(state)
        _remove_data(self.folder, other)

    def close(self):
        """Complete the files, so that they can be read."""
        for writer in (self._values, self._lengths):
            if writer is not None:
                writer.close()
        self._values = self._lengths = None

    def data(self, name):
        """The path of `values` or `lengths`."""
        return _data(self.folder, self.state, name)

    def discard(self):
        """Remove everything."""
        self.close()
        _discard(self.folder, self.rank, published="")

    def _begin(self, ranks, resume):
        published = _manifest_text(self.folder)
        for rank in ranks:
            state = _state(self.folder, rank)
            if not resume or json.dumps(state["fingerprint"]) in published:
                _discard(self.folder, rank, published)
            elif state["fingerprint"] != self.fingerprint:
                of_other = state["fingerprint"]
                differing = [name for name, value in self.fingerprint.items() if of_other.get(name) != value]
                raise ValueError(
                    f"`{self.folder}` holds unfinished work of another call, with other {quoted(differing)}. Make "
                    "that call again to resume it, or pass `resume=False` to drop it."
                )
            elif rank == self.rank:
                if state["row_shape"] is not None:  # also where nothing is left to append: `close` writes the headers
                    with _explaining(self.folder):
                        self._open(state)
                return state
        state = {"fingerprint": self.fingerprint, "tag": uuid.uuid4().hex[:12], "blocks": 0, "absorbed": 0}
        state |= {"dense": None, "row_shape": None, "dtype": None, "rows": 0, "passages": 0}
        with _explaining(self.folder):
            self._save(state)
        return state

    def _write(self, state, values, lengths):
        if state["row_shape"] is None:
            state.update(dense=lengths is None, row_shape=list(values.shape[1:]), dtype=str(values.dtype))
        if self._values is None:
            self._open(state)
        self._values.append(values)
        if lengths is not None:
            self._lengths.append(lengths)

    def _open(self, state):
        path = _data(self.folder, state, "values")
        self._values = RowWriter(path, state["row_shape"], state["dtype"], state["rows"])
        if not state["dense"]:
            self._lengths = RowWriter(_data(self.folder, state, "lengths"), (), "int64", state["passages"])

    def _save(self, state):
        for name, writer in (("rows", self._values), ("passages", self._lengths)):
            if writer is not None:
                writer.flush()
                state[name] = writer.num_rows
        with replacing(_path(self.folder, self.rank), flush=True) as draft:
            draft.write_text(json.dumps(state), encoding="utf-8")
        self.state = state


def fingerprint_of(model, processor, passages_digest, arguments):
    """Everything that the vectors depend on, as short texts by name: model, processor, passages, each argument."""
    weights = hashlib.blake2b(digest_size=16)
    weights.update(json.dumps(_without_origin(model.config.to_dict()), sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    tokenizer = processor.tokenizer
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    del pieces["truncation"], pieces["padding"]  # those of the last call
    settings = [type(processor).__name__, type(tokenizer).__name__, len(tokenizer)]
    settings += [(name, getattr(processor, name)) for name in processor.settings]
    settings += [json.dumps(pieces)]
    settings = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    return {
        "model": weights.hexdigest(),
        "processor": settings.hexdigest(),
        "passages": passages_digest,
        **{name: str(value) for name, value in arguments.items()},
    }


def is_published(folder, fingerprint):
    """Whether the folder holds the whole result already."""
    return folder.is_dir() and json.dumps(fingerprint) in _manifest_text(folder)


def discard_published(folder, fingerprint):
    """Remove the parts of a result that the folder holds as a whole."""
    published = _manifest_text(folder)
    for rank in _ranks(folder):
        if _state(folder, rank)["fingerprint"] == fingerprint:
            _discard(folder, rank, published)


def _without_origin(config):
    """A configuration without the path it was loaded from and the version that wrote it."""
    if isinstance(config, dict):
        return {
            name: _without_origin(value)
            for name, value in config.items()
            if not str(name).startswith("_") and name != "transformers_version"
        }
    return config


def _path(folder, rank):
    return folder / f"unfinished-{rank}.json"


def _data(folder, state, name):
    return folder / f"{name}-{state['tag']}.npy"


def _ranks(folder):
    found = (re.fullmatch(r"unfinished-(\d+)\.json", file.name) for file in folder.iterdir())
    return {int(match.group(1)) for match in found if match}


def _state(folder, rank):
    return json.loads(_path(folder, rank).read_text(encoding="utf-8"))


def _manifest_text(folder):
    """The manifest as text, to look for fingerprints and file names in; empty if there is none."""
    manifest = folder / MANIFEST
    return json.dumps(json.loads(manifest.read_text(encoding="utf-8"))) if manifest.exists() else ""


def _discard(folder, rank, published):
    """Remove the part of a process, except files that the manifest names."""
    if (path := _path(folder, rank)).exists():
        state = _state(folder, rank)
        if state["tag"] not in published:
            _remove_data(folder, state)
        path.unlink()
    draft_of(path).unlink(missing_ok=True)


def _remove_data(folder, state):
    for file in folder.glob(f"*-{state['tag']}.*"):
        file.unlink()


@contextmanager
def _explaining(folder):
    try:
        yield
    except OSError as error:
        raise explained(error, folder) from error


__all__ = ["Part", "discard_published", "fingerprint_of", "is_published"]
