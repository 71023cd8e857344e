"""Folders of arrays that appear at once, or not at all."""

import contextlib
import errno
import json
import os
import time
import uuid
import zlib
from pathlib import Path

import numpy as np


MANIFEST = "manifest.json"
VERSION = 1
ABANDONED = 24 * 60 * 60  # seconds after which a writer that has not committed was killed
ALWAYS_VERIFIED = 16 * 2**20  # bytes; a larger file is meant to be mapped, and reading all of it would undo that
BYTES_PER_READ = 2**24


class FolderWriter:
    r"""
    Writes the contents of a folder, which readers see only after [`~FolderWriter.commit`].

    Data files get names of their own, and the manifest lists them: replacing the manifest is the one step that
    publishes everything. A reader therefore finds the old contents or the new, never a mixture, and arrays that it
    has mapped from the old files stay valid. Of two writers at once the last to commit wins, whole. Used as a context
    manager, it removes what it wrote unless committed; what a writer left that was killed, a later commit removes once
    it is a day old.

    Args:
        path (`str` or `os.PathLike`):
            The folder; made if absent. Files that are not listed in its manifest are left alone.

        tag (`str`, *optional*):
            What the names of data files end with. Random by default, so that no two writers share a name.

    Raises:
        OSError: If the folder cannot be written to (`PermissionError`), or is full; what it held is unchanged.

    Example:
    ```python
    >>> with FolderWriter("my_folder") as folder:  # doctest: +SKIP
    ...     np.save(folder.file("values.npy"), values)
    ...     folder.commit("my_format", num_rows=len(values))

    ```
    """

    def __init__(self, path, tag=None):
        self.path = Path(path)
        self.tag = uuid.uuid4().hex[:12] if tag is None else tag
        self._files, self._adopted = {}, {}
        self._draft = self.path / f"manifest-{self.tag}.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._draft.touch()  # a folder that cannot be written to is better known before the work
        except OSError as error:
            raise explained(error, self.path) from error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        for file in (*self._files.values(), self._draft):
            _remove(file)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise explained(error, self.path) from error

    def file(self, name):
        """The path to write the data file `name` to."""
        stem, suffix = os.path.splitext(name)
        return self._files.setdefault(name, self.path / f"{stem}-{self.tag}{suffix}")

    def adopt(self, name, file):
        """Take a file that lies in the folder already as the data file `name`; it stays without a commit, too."""
        self._adopted[name] = Path(file)

    def commit(self, kind, **fields):
        """
        Publish the files written so far as a folder of the format `kind`, and remove those they replace.

        Args:
            kind (`str`):
                Name of the format, which [`read_folder`] asks for.
            fields:
                What else the manifest says: numbers, strings, lists.

        Returns:
            `dict`: The manifest, as [`read_folder`] reads it.
        """
        replaced = []
        if (self.path / MANIFEST).exists():
            replaced = [self.path / entry["name"] for entry in _manifest(self.path)["files"].values()]
        entries = {}
        for name, file in {**self._files, **self._adopted}.items():
            _flush_to_disk(file)
            entries[name] = {"name": file.name, "bytes": file.stat().st_size, "crc32": checksum(file)}
        manifest = {"format": kind, "version": VERSION, **fields, "files": entries}
        self._draft.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        _flush_to_disk(self._draft)
        os.replace(self._draft, self.path / MANIFEST)
        current = {*self._files.values(), *self._adopted.values()}
        self._files, self._adopted = {}, {}
        for file in (*replaced, *self._abandoned()):
            if file not in current:
                _remove(file)
        return json.loads(json.dumps(manifest))

    def _abandoned(self):
        """Files of writers that were killed: their drafts tell the tags."""
        for draft in self.path.glob(f"{Path(MANIFEST).stem}-*.json"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > ABANDONED:
                    yield from self.path.glob(f"*{draft.stem.removeprefix(Path(MANIFEST).stem)}.*")


class RowWriter:
    r"""
    Appends rows to a `.npy` file without knowing their number beforehand.

    Args:
        path (`str` or `os.PathLike`):
            The file, which `numpy.load` reads once [`~RowWriter.close`] has run.
        row_shape (`tuple[int, ...]`):
            Shape of a row.
        dtype (`str` or `numpy.dtype`):
            Type of the values.
        num_rows (`int`, *optional*, defaults to 0):
            Rows of an earlier writer to keep; what stands behind them in the file is dropped.
    """

    def __init__(self, path, row_shape, dtype, num_rows=0):
        self.row_shape, self.dtype, self.num_rows = tuple(row_shape), np.dtype(dtype), num_rows
        self._file = open(path, "rb+" if num_rows else "wb")
        self._write_header()
        row_bytes = self.dtype.itemsize * int(np.prod(self.row_shape, dtype=np.int64))
        end = self._file.tell() + num_rows * row_bytes
        if num_rows and os.path.getsize(path) < end:
            self._file.close()
            raise ValueError(f"`{path}` is shorter than the {num_rows} rows that were written: start again.")
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, rows):
        """Write an array of shape `(number of rows, *row_shape)`."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"Rows must have shape {self.row_shape}, got {rows.shape[1:]}.")
        self._file.write(rows.data if rows.size else b"")
        self.num_rows += len(rows)

    def flush(self):
        """Have everything on the disk, so that neither a kill nor a power cut loses it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self):
        """Write the number of rows into the header, and close the file."""
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()  # numpy reserves room in the header for the first axis to grow
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _write_header(self):
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)


def read_folder(path, kind, verify=False):
    r"""
    The manifest and the data files of a folder written by [`FolderWriter`].

    Args:
        path (`str` or `os.PathLike`):
            The folder.
        kind (`str`):
            The format it must have.
        verify (`bool`, *optional*, defaults to `False`):
            Whether to compare the checksums of all files, which reads them once. By default the sizes of all and the
            checksums of those up to 16 MiB are compared.

    Returns:
        `tuple[dict, dict[str, Path]]`: The manifest, and the path of each data file by its name.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no manifest, is of another format or a later version, or a file is missing, truncated or
            altered.
    """
    return load_folder(path, kind, lambda manifest, files: (manifest, files), verify)


def check_replaceable(path, *kinds):
    """Raise a `ValueError` if a folder holds something of another format than these, which writing would remove."""
    path = Path(path)
    if (path / MANIFEST).exists() and (found := _manifest(path)["format"]) not in kinds:
        raise ValueError(
            f"`{path}` holds `{found}`, which writing `{kinds[0]}` there would remove: give another folder, or remove "
            "that one first."
        )


def load_folder(path, kind, load, verify=False):
    r"""
    What `load(manifest, files)` makes of a folder, whose files it opens.

    A writer that commits meanwhile removes the files that it replaces; `load` then runs again, on the new ones. What
    is open or mapped stays readable.

    Args:
        path, kind, verify:
            As for [`read_folder`].
        load (`Callable[[dict, dict[str, Path]], Any]`):
            From the manifest and the paths to the result.

    Returns:
        The result.

    Raises:
        FileNotFoundError, ValueError: As [`read_folder`] does.
    """
    path = Path(path)
    while True:
        manifest = _checked_manifest(path, kind)
        try:
            files = _checked_files(path, manifest, verify)
            return load(manifest, files)
        except (AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            if _checked_manifest(path, kind) != manifest:
                continue  # somebody replaced it meanwhile
            if isinstance(error, OSError | ValueError):
                raise
            raise ValueError(
                f"`{path / MANIFEST}` lacks a field, or has an odd one ({type(error).__name__}: {error}): the folder "
                "is damaged or foreign. Copy or write it again."
            ) from error


def _checked_manifest(path, kind):
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder `{path}`.")
    if not (path / MANIFEST).exists():
        raise ValueError(
            f"`{path}` has no {MANIFEST}: hf_xlir did not write this folder, or was interrupted. Write it again."
        )
    manifest = _manifest(path)
    if manifest["format"] != kind:
        raise ValueError(f"`{path}` holds `{manifest['format']}`, expected `{kind}`.")
    if not isinstance(manifest["version"], int) or manifest["version"] > VERSION:
        raise ValueError(
            f"`{path}` has version {manifest['version']} of its format, this hf_xlir reads up to {VERSION}: upgrade "
            "hf_xlir."
        )
    return manifest


def _checked_files(path, manifest, verify):
    files = {}
    for name, entry in manifest["files"].items():
        files[name] = file = path / entry["name"]
        size, state = file.stat().st_size if file.exists() else None, None
        if size != entry["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
        elif (verify or size <= ALWAYS_VERIFIED) and checksum(file) != entry["crc32"]:
            state = "has other contents than were written"
        if state is not None:
            raise ValueError(f"`{path}` is damaged: its file {entry['name']} {state}. Copy or write the folder again.")
    return files


def checksum(file):
    """CRC-32 of a file, as 8 hexadecimal digits: it tells accidents, not attacks."""
    value = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(BYTES_PER_READ):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def explained(error, path):
    """An `OSError` of the same kind that says which folder it is about, and what to do."""
    return OSError(
        error.errno or errno.ENOSPC,  # numpy gives none where a disk takes less than it was given
        f"`{path}` could not be written ({error.strerror or error}); what was complete there is unchanged. Make room, "
        "or give a folder that you may write to, and do the same again.",
    )


def map_array(path):
    """A `.npy` file, memory-mapped copy-on-write: torch warns about arrays that are not writable at all."""
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _manifest(path):
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path / MANIFEST}` is not valid JSON: the folder is damaged or foreign.") from error
    if not isinstance(manifest, dict) or not {"format", "version", "files"} <= manifest.keys():
        raise ValueError(f"`{path / MANIFEST}` is not a manifest of hf_xlir: the folder is foreign.")
    for name, entry in dict(manifest["files"]).items():
        # A name with a path in it would have a later commit remove files elsewhere
        if not isinstance(entry, dict) or os.path.basename(str(entry.get("name", ""))) != entry.get("name"):
            raise ValueError(f"`{path / MANIFEST}` has no plain file name for `{name}`: the folder is foreign.")
    return manifest


def _flush_to_disk(file):
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def _remove(file):
    try:
        file.unlink(missing_ok=True)
    except PermissionError:  # Windows: another process has it mapped; it is out of the manifest all the same
        pass


__all__ = ["MANIFEST", "FolderWriter", "RowWriter", "check_replaceable", "load_folder", "map_array", "read_folder"]
