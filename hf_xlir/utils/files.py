"""Files that are complete or absent."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path, flush=False):
    """
    Write a file through a draft beside it: the context gives the draft's path, and leaving it renames the draft to
    `path`. An error removes the draft and leaves the old file as it was. `flush=True` waits for the disk first, so
    that the file survives a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.unfinished")
    try:
        yield draft
        if flush:
            flush_to_disk(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path, text, flush=False):
    """Write a UTF-8 text file; see [`replacing`]."""
    with replacing(path, flush) as draft:
        draft.write_text(text, encoding="utf-8")


def flush_to_disk(path):
    """Wait until the contents of a file are on the disk."""
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


__all__ = ["flush_to_disk", "replacing", "write_text"]
