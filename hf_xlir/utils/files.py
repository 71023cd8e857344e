"""Files and folders that are either complete or absent, and folders that one run uses at a time."""

import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def replacing(path, flush=False):
    """
    Write a file through a draft: the context gives the draft's path, and leaving it renames the draft to `path`. An
    error removes the draft and keeps the old file. `flush=True` first waits for the disk, so that the file survives a
    power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        yield draft
        if flush:
            flush_to_disk(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def draft_of(path):
    """Where [`replacing`] writes a file before it has its name; a kill leaves the draft there."""
    return path.with_name(f"{path.name}.unfinished")


def write_text(path, text, flush=False):
    """Write a UTF-8 text file; see [`replacing`]."""
    with replacing(path, flush) as draft:
        draft.write_text(text, encoding="utf-8")


def flush_to_disk(path):
    """Wait until the contents of a file are on the disk."""
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def check_new(path):
    """Raise `FileExistsError` unless the folder is absent or empty."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"`{path}` is there already: give another folder, or remove it first.")


@contextmanager
def new_folder(path):
    """Write a new folder through a draft: the context gives the draft's path. An error removes the draft."""
    path = Path(path)
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.unfinished-{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        yield draft
        if path.exists():
            path.rmdir()
        os.replace(draft, path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def folder_lock(folder, name):
    """
    Lock a folder, which is made if absent, for one run; `name` is the lock file in it. A `RuntimeError` says that
    another run has the lock. The system releases the lock of a process that is killed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RuntimeError(
            f"Another run is writing into `{folder}`: wait for it, end it, or give another folder."
        ) from None
    try:
        yield
    finally:
        if os.name == "posix":  # elsewhere an open file cannot be removed
            (folder / name).unlink(missing_ok=True)
        lock.release()


__all__ = ["check_new", "draft_of", "flush_to_disk", "folder_lock", "new_folder", "replacing", "write_text"]
