"""Folders of arrays that appear at once, or not at all."""

import json
import os
import uuid
from pathlib import Path

import numpy as np


MANIFEST = "manifest.json"
VERSION = 1


class FolderWriter:
    r"""
    Writes the contents of a folder, which readers see only after [`~FolderWriter.commit`].

    Data files get names of their own, and the manifest lists them: replacing the manifest is the one step that
    publishes everything. A reader therefore finds the old contents or the new, never a mixture, and arrays that it
    has mapped from the old files stay valid. Used as a context manager, it removes what it wrote unless committed.

    Args:
        path (`str` or `os.PathLike`):
            The folder; made if absent. Files that are not listed in its manifest are left alone.

    Example:
    ```python
    >>> with FolderWriter("my_folder") as folder:  # doctest: +SKIP
    ...     np.save(folder.file("values.npy"), values)
    ...     folder.commit("my_format", num_rows=len(values))

    ```
    """

    def __init__(self, path):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._tag = uuid.uuid4().hex[:12]
        self._files = {}
        self._draft = self.path / f"manifest-{self._tag}.json"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for file in (*self._files.values(), self._draft):
            _remove(file)

    def file(self, name):
        """The path to write the data file `name` to."""
        stem, suffix = os.path.splitext(name)
        return self._files.setdefault(name, self.path / f"{stem}-{self._tag}{suffix}")

    def commit(self, kind, **fields):
        """
        Publish the files written so far as a folder of the format `kind`, and remove those they replace.

        Args:
            kind (`str`):
                Name of the format, which [`read_folder`] asks for.
            fields:
                What else the manifest says: numbers, strings, lists.
        """
        replaced = []
        if (self.path / MANIFEST).exists():
            replaced = [self.path / entry["name"] for entry in _manifest(self.path)["files"].values()]
        entries = {}
        for name, file in self._files.items():
            _flush_to_disk(file)
            entries[name] = {"name": file.name, "bytes": file.stat().st_size}
        manifest = {"format": kind, "version": VERSION, **fields, "files": entries}
        self._draft.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        _flush_to_disk(self._draft)
        os.replace(self._draft, self.path / MANIFEST)
        self._files = {}
        for file in replaced:
            _remove(file)


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
    """

    def __init__(self, path, row_shape, dtype):
        self.row_shape, self.dtype, self.num_rows = tuple(row_shape), np.dtype(dtype), 0
        self._file = open(path, "wb")
        self._write_header()

    def append(self, rows):
        """Write an array of shape `(number of rows, *row_shape)`."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"Rows must have shape {self.row_shape}, got {rows.shape[1:]}.")
        self._file.write(rows.data if rows.size else b"")
        self.num_rows += len(rows)

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


def read_folder(path, kind):
    r"""
    The manifest and the data files of a folder written by [`FolderWriter`].

    Args:
        path (`str` or `os.PathLike`):
            The folder.
        kind (`str`):
            The format it must have.

    Returns:
        `tuple[dict, dict[str, Path]]`: The manifest, and the path of each data file by its name.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no manifest, is of another format or a later version, or a file is missing or truncated.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder `{path}`.")
    if not (path / MANIFEST).exists():
        raise ValueError(
            f"`{path}` has no {MANIFEST}: hf_xlir did not write this folder, or was interrupted. Write it again."
        )
    manifest = _manifest(path)
    if manifest["format"] != kind:
        raise ValueError(f"`{path}` holds `{manifest['format']}`, expected `{kind}`.")
    if manifest["version"] > VERSION:
        raise ValueError(
            f"`{path}` has version {manifest['version']} of its format, this hf_xlir reads up to {VERSION}: upgrade "
            "hf_xlir."
        )
    files = {}
    for name, entry in manifest["files"].items():
        files[name] = path / entry["name"]
        size = files[name].stat().st_size if files[name].exists() else None
        if size != entry["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise ValueError(f"`{path}` is damaged: its file {entry['name']} {state}. Copy or write the folder again.")
    return manifest, files


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
    return manifest


def _flush_to_disk(file):
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def _remove(file):
    try:
        file.unlink(missing_ok=True)
    except PermissionError:  # Windows: another process has it mapped; it is out of the manifest all the same
        pass


__all__ = ["MANIFEST", "FolderWriter", "RowWriter", "map_array", "read_folder"]
