"""Work that survives a kill: what a process has embedded so far, and what it was embedding."""

import hashlib
import json
import os
import re
import uuid
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from filelock import FileLock, Timeout

from .storage import MANIFEST, RowWriter, explained, map_array


ROWS_PER_COPY = 2**18
LONGEST_WAIT = timedelta(
    days=30
)  # for the slowest process: the usual ten minutes are nothing beside days of embedding


class Part:
    r"""
    What one process has written of a corpus: files of vectors and lengths that grow by blocks, and a small file that
    says how much of them is valid, replaced after each block. Whatever a kill leaves behind those blocks is cut off.

    Used as a context manager; while it is open no other process can open it.

    Args:
        folder (`Path`):
            Where the whole will be.
        processes ([`Processes`]):
            Says which part this is. That of rank 0 also looks for parts of more processes than there are now.
        fingerprint (`dict[str, str]`):
            What decides about the result. Work with another fingerprint is not gone on with.
        resume (`bool`):
            Whether to go on with what is there; it is dropped otherwise.

    Raises:
        ValueError: If what is there has another fingerprint.
        RuntimeError: If another process has it open.
    """

    def __init__(self, folder, processes, fingerprint, resume):
        self.folder, self.rank, self.fingerprint = folder, processes.rank, fingerprint
        self._values = self._lengths = None
        self._lock = FileLock(folder / f"unfinished-{self.rank}.lock")
        with _explaining(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise RuntimeError(
                    f"Another process is embedding into `{folder}`: wait for it, or give another folder."
                ) from None
        try:
            beyond = {rank for rank in _ranks(folder) if rank >= processes.count and self.rank == 0}
            self.state = self._begin({self.rank, *beyond} & _ranks(folder), resume)
        except BaseException:
            self._release()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        with suppress(OSError) if error is not None else nullcontext():  # such as the full disk that `error` is about
            self.close()
        self._release()

    @property
    def num_blocks(self):
        """Blocks written so far."""
        return self.state["blocks"]

    @property
    def is_dense(self):
        """Whether there is one vector a passage, and no file of lengths."""
        return self.state["dense"]

    def append(self, values, lengths):
        """Write a block: its vectors, and how many of them each passage has (`None`: one)."""
        state = {**self.state, "blocks": self.state["blocks"] + 1}
        with _explaining(self.folder):
            self._write(state, values, lengths)
            self._save(state)

    def absorb(self, rank):
        """Append the whole of another process's part, unless that was done before a kill."""
        if self.state["absorbed"] >= rank:
            return
        path = _path(self.folder, rank)
        if not path.exists():
            raise ValueError(
                f"`{self.folder}` has no vectors of process {rank}: the folder must be on a disk that all see."
            )
        other = _state(self.folder, rank)
        state = {**self.state, "absorbed": rank}
        with _explaining(self.folder):
            if other["blocks"]:
                values = map_array(_data(self.folder, other, "values"))
                lengths = None if other["dense"] else np.load(_data(self.folder, other, "lengths"))
                state |= {name: other[name] for name in ("dense", "row_shape", "dtype")}  # this one's may be empty
                for start in range(0, len(values), ROWS_PER_COPY):
                    self._write(state, values[start : start + ROWS_PER_COPY], None if start else lengths)
            self._save(state)
        _remove_data(self.folder, other)

    def close(self):
        """Finish the files, so that they can be read."""
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
                raise ValueError(
                    f"`{self.folder}` holds unfinished work of another call, with other "
                    f"{_differences(state['fingerprint'], self.fingerprint)}. Make that call again to go on with it, "
                    "or give `resume=False` to drop it."
                )
            elif rank == self.rank:
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
            path, rows = _data(self.folder, state, "values"), state["rows"]
            self._values = RowWriter(path, state["row_shape"], state["dtype"], rows)
            if not state["dense"]:
                self._lengths = RowWriter(_data(self.folder, state, "lengths"), (), "int64", state["passages"])
        self._values.append(values)
        if lengths is not None:
            self._lengths.append(lengths)

    def _save(self, state):
        for name, writer in (("rows", self._values), ("passages", self._lengths)):
            if writer is not None:
                writer.flush()
                state[name] = writer.num_rows
        path = _path(self.folder, self.rank)
        draft = path.with_suffix(".draft")
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        self.state = state

    def _release(self):
        path = Path(self._lock.lock_file)
        if os.name == "posix":  # elsewhere an open file cannot be removed
            path.unlink(missing_ok=True)
        self._lock.release()


class Processes:
    """
    The processes of `accelerate launch` or `torchrun`, or this one alone.

    Args:
        device (`torch.device`):
            Where the model is, in case nothing has set up `torch.distributed` before.
    """

    def __init__(self, device):
        if not dist.is_available():
            self.rank, self.count = 0, 1
            return
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            PartialState(cpu=device.type == "cpu")
        together = dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1

    @contextmanager
    def meeting(self):
        """Gives a function that returns once all processes have called it."""
        if self.count == 1:
            yield lambda: None
            return
        group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        try:
            yield lambda: dist.barrier(group=group)
        finally:
            dist.destroy_process_group(group)

    def share(self, blocks):
        """This process's part of a range of blocks: contiguous, in the order of ranks, as equal as possible."""
        return blocks[len(blocks) * self.rank // self.count : len(blocks) * (self.rank + 1) // self.count]


def fingerprint_of(model, processor, passages_digest, arguments):
    """
    What decides about the vectors, by name, as short texts: weights and configuration, tokenizer and settings, texts,
    and arguments.
    """
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


def _without_origin(config):
    """A configuration without where it came from: a folder that was moved holds the same model."""
    if isinstance(config, dict):
        return {
            name: _without_origin(value)
            for name, value in config.items()
            if not str(name).startswith("_") and name != "transformers_version"
        }
    return config


def _differences(one, other):
    return ", ".join(f"`{name}`" for name in other if one.get(name) != other[name])


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
    """The manifest, in which fingerprints and files are looked for; empty if there is none."""
    manifest = folder / MANIFEST
    return json.dumps(json.loads(manifest.read_text(encoding="utf-8"))) if manifest.exists() else ""


def _discard(folder, rank, published):
    """Remove the part of a process; files that the manifest names stay."""
    if (path := _path(folder, rank)).exists():
        state = _state(folder, rank)
        if state["tag"] not in published:
            _remove_data(folder, state)
        path.unlink()
    path.with_suffix(".draft").unlink(missing_ok=True)


def _remove_data(folder, state):
    for file in folder.glob(f"*-{state['tag']}.*"):
        file.unlink()


def is_published(folder, fingerprint):
    """Whether the folder holds the whole result already."""
    return folder.is_dir() and json.dumps(fingerprint) in _manifest_text(folder)


def discard_published(folder, fingerprint):
    """Remove what is left of work whose result the folder holds."""
    published = _manifest_text(folder)
    for rank in _ranks(folder):
        if _state(folder, rank)["fingerprint"] == fingerprint:
            _discard(folder, rank, published)


@contextmanager
def _explaining(folder):
    try:
        yield
    except OSError as error:
        raise explained(error, folder) from error


__all__ = ["Part", "Processes", "discard_published", "fingerprint_of", "is_published"]
