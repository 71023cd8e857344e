"""Folders of arrays with a manifest. Readers see either the old contents or the new ones, never a mixture."""

import contextlib
import errno
import json
import os
import time
import uuid
import zlib
from pathlib import Path

import numpy as np

from .files import flush_to_disk


MANIFEST = "manifest.json"
VERSION = 1
DRAFT_LIFETIME = 24 * 60 * 60  # seconds; an older draft is what a killed writer left
ALWAYS_VERIFIED = 16 * 2**20  # bytes; larger files are memory-mapped, and a checksum would read them whole
BYTES_PER_READ = 2**24


class FolderWriter:
    """
    Writes the data files of a folder and publishes them with [`~FolderWriter.commit`].

    Data files get unique names, and the manifest lists them: replacing the manifest publishes everything in one step.
    Arrays that a reader has mapped from the old files stay valid. If two writers commit, the last one wins, whole. As
    a context manager, a writer removes its files unless they were committed; a commit also removes the files of
    writers that were killed more than a day ago. Files that the manifest does not list are left alone.

    `tag`, at the end of each file name, is random by default, so that two writers never share a name.
    """

    def __init__(self, path, tag=None):
        self.path = Path(path)
        self.tag = uuid.uuid4().hex[:12] if tag is None else tag
        self._files, self._adopted, self._linked = {}, {}, {}
        self._draft = self.path / f"manifest-{self.tag}.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._draft.touch()  # fails now, not after the work, where the folder cannot be written to
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

    def link(self, name, file, entry):
        """
        Give a committed file a second name as the data file `name`, without reading it; `entry` is its entry in the
        manifest. Returns `False` where the file is gone or the file system has no second names.
        """
        try:
            os.link(file, self.file(name))
        except OSError:
            return False
        self._linked[name] = entry
        return True

    def adopt(self, name, file):
        """Make a file that is already in the folder the data file `name`. It stays even without a commit."""
        self._adopted[name] = Path(file)

    def commit(self, kind, **fields):
        """Publish the files as a folder of the format `kind`, remove those they replace, and return the manifest."""
        replaced = []
        if (self.path / MANIFEST).exists():
            replaced = [self.path / entry["name"] for entry in _manifest(self.path)["files"].values()]
        entries = {}
        for name, file in {**self._files, **self._adopted}.items():
            if name in self._linked:
                entries[name] = {**self._linked[name], "name": file.name}
                continue
            flush_to_disk(file)
            entries[name] = {"name": file.name, "bytes": file.stat().st_size, "crc32": checksum(file)}
        manifest = {"format": kind, "version": VERSION, **fields, "files": entries}
        self._draft.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        flush_to_disk(self._draft)
        os.replace(self._draft, self.path / MANIFEST)
        current = {*self._files.values(), *self._adopted.values()}
        self._files, self._adopted = {}, {}
        for file in (*replaced, *self._old_drafts()):
            if file not in current:
                _remove(file)
        return json.loads(json.dumps(manifest))

    def _old_drafts(self):
        """Files of writers that were killed; the name of a draft of the manifest has the writer's tag."""
        for draft in self.path.glob(f"{Path(MANIFEST).stem}-*.json"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > DRAFT_LIFETIME:
                    yield from self.path.glob(f"*{draft.stem.removeprefix(Path(MANIFEST).stem)}.*")


class RowWriter:
    """
    Appends rows to a `.npy` file whose number of rows is not known in advance; [`~RowWriter.close`] completes it.

    `num_rows` is the number of rows to keep of an existing file; the rest is cut off.
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
        """Append an array of shape `(num_rows, *row_shape)`."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"Rows must have shape {self.row_shape}, got {rows.shape[1:]}.")
        self._file.write(rows.data if rows.size else b"")
        self.num_rows += len(rows)

    def flush(self):
        """Wait until all rows are on the disk, where neither a kill nor a power cut loses them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self):
        """Write the number of rows into the header and close the file."""
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()  # numpy reserves room for a longer first axis
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
    """The manifest and the paths of the data files, by name, of a folder of the format `kind`; see [`load_folder`]."""
    return load_folder(path, kind, lambda manifest, files: (manifest, files), verify)


def check_replaceable(path, *kinds):
    """A `ValueError` if the folder has a manifest of another format than `kinds`; writing would remove its files."""
    path = Path(path)
    if (path / MANIFEST).exists() and (found := _manifest(path)["format"]) not in kinds:
        raise ValueError(
            f"`{path}` holds `{found}`, which writing `{kinds[0]}` there would remove: give another folder, or remove "
            "that one first."
        )


def load_folder(path, kind, load, verify=False):
    """
    The result of `load(manifest, files)` for a folder of the format `kind`; `files` are paths by name.

    The sizes of all files and the checksums of those up to 16 MiB are compared with the manifest; `verify` compares
    all checksums. If a writer commits meanwhile, `load` runs again on the new files. Raises `FileNotFoundError` for an
    absent folder, and `ValueError` for a foreign, newer or damaged one.
    """
    path = Path(path)
    while True:
        manifest = _checked_manifest(path, kind)
        try:
            files = _checked_files(path, manifest, verify)
            return load(manifest, files)
        except (AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            if _checked_manifest(path, kind) != manifest:
                continue  # a writer committed meanwhile
            if isinstance(error, OSError | ValueError):
                raise
            raise ValueError(
                f"`{path / MANIFEST}` has a missing or odd field ({type(error).__name__}: {error}): the folder is "
                "damaged or foreign. Copy or write it again."
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
    """CRC-32 of a file in 8 hexadecimal digits, which detects accidents but not attacks."""
    value = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(BYTES_PER_READ):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def explained(error, path):
    """An `OSError` of the same kind that names the folder and says what to do."""
    return OSError(
        error.errno or errno.ENOSPC,  # numpy gives no number for a full disk
        f"`{path}` could not be written ({error.strerror or error}); what was complete there is unchanged. Make room, "
        "or give a folder that you may write to, and try again.",
    )


def map_array(path):
    """A `.npy` file, memory-mapped copy-on-write, since torch warns about read-only arrays."""
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _manifest(path):
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path / MANIFEST}` is not valid JSON: the folder is damaged or foreign.") from error
    if not isinstance(manifest, dict) or not {"format", "version", "files"} <= manifest.keys():
        raise ValueError(f"`{path / MANIFEST}` is not a manifest of hf_xlir: the folder is foreign.")
    for name, entry in dict(manifest["files"]).items():
        # With a path in a name, a later commit would remove files elsewhere
        if not isinstance(entry, dict) or os.path.basename(str(entry.get("name", ""))) != entry.get("name"):
            raise ValueError(f"`{path / MANIFEST}` has no plain file name for `{name}`: the folder is foreign.")
    return manifest


def _remove(file):
    try:
        file.unlink(missing_ok=True)
    except PermissionError:  # Windows: another process has it mapped. The manifest no longer lists it
        pass


__all__ = ["MANIFEST", "FolderWriter", "RowWriter", "check_replaceable", "load_folder", "map_array", "read_folder"]
