"""Folders that are published in one step, and arrays that grow."""

import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index import DenseEmbeddings, LateInteractionIndex, TokenEmbeddings, add_dense_index
from hf_xlir.utils import storage
from hf_xlir.utils.storage import MANIFEST, FolderWriter, RowWriter, load_folder, map_array, read_folder


def write(folder, text, commit=True):
    with FolderWriter(folder) as writer:
        writer.file("a.txt").write_text(text)
        if commit:
            writer.commit("texts", length=len(text))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


class TestFolderWriter:
    def test_contents(self, tmp_path):
        write(tmp_path / "new" / "folder", "one")
        manifest, files = read_folder(tmp_path / "new" / "folder", "texts")
        assert manifest["format"] == "texts" and manifest["length"] == 3
        assert list(files) == ["a.txt"] and files["a.txt"].read_text() == "one"

    def test_readers_see_the_old_contents_before_the_commit(self, tmp_path):
        write(tmp_path, "old")
        with FolderWriter(tmp_path) as writer:
            writer.file("a.txt").write_text("new")
            writer.file("b.txt").write_text("more")
            manifest, files = read_folder(tmp_path, "texts")
            assert list(files) == ["a.txt"] and files["a.txt"].read_text() == "old"
            writer.commit("texts")
            _, files = read_folder(tmp_path, "texts")
            assert {name: file.read_text() for name, file in files.items()} == {"a.txt": "new", "b.txt": "more"}
        assert len(names(tmp_path)) == 3  # the old file is removed

    def test_other_formats_are_not_replaced(self, tmp_path):
        embeddings = TokenEmbeddings(np.ones((1, 2), np.float32), np.array([1]), ["a"])
        dense = DenseEmbeddings(embeddings.values, ["a"])
        folders = {name: tmp_path / name for name in ("tokens", "late", "dense")}
        embeddings.save(folders["tokens"])
        LateInteractionIndex.build(embeddings).save(folders["late"])
        passages = Dataset.from_dict({"id": ["a"]})
        dense_index = add_dense_index(passages, dense).get_index("dense")
        dense_index.save(folders["dense"])
        others = {
            LateInteractionIndex.build(embeddings): ("tokens", "dense"),
            dense_index: ("tokens", "late"),
            embeddings: ("late", "dense"),
            dense: ("late", "dense"),
        }
        before = [names(folder) for folder in folders.values()]
        for item, taken in others.items():
            for name in taken:
                with pytest.raises(ValueError, match="would remove"):
                    item.save(folders[name])
        assert [names(folder) for folder in folders.values()] == before
        dense.save(folders["tokens"])  # embeddings are replaced by others

    @pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
    def test_files_are_removed_without_a_commit(self, tmp_path, error):
        write(tmp_path, "old")
        (tmp_path / "notes.txt").write_text("mine")
        before = names(tmp_path)
        try:
            with FolderWriter(tmp_path) as writer:
                writer.file("a.txt").write_text("new")
                writer.file("never written.txt")
                if error:
                    raise error
        except (KeyboardInterrupt, ValueError):
            pass
        assert names(tmp_path) == before
        assert read_folder(tmp_path, "texts")[1]["a.txt"].read_text() == "old"

    def test_a_failed_commit_keeps_the_old_contents(self, tmp_path):
        write(tmp_path, "old")
        before = names(tmp_path)
        with pytest.raises(FileNotFoundError), FolderWriter(tmp_path) as writer:
            writer.file("a.txt").write_text("new")
            writer.file("never written.txt")
            writer.commit("texts")
        assert names(tmp_path) == before and read_folder(tmp_path, "texts")[1]["a.txt"].read_text() == "old"

    def test_one_name_is_one_file(self, tmp_path):
        with FolderWriter(tmp_path) as writer:
            assert writer.file("a.txt") == writer.file("a.txt") != writer.file("b.txt")
            assert writer.file("a.txt").suffix == ".txt"

    def test_an_array_mapped_from_a_replaced_folder_stays_valid(self, tmp_path):
        for value in (1.0, 2.0):
            with FolderWriter(tmp_path) as writer:
                np.save(writer.file("values.npy"), np.full(5, value))
                writer.commit("arrays")
            if value == 1.0:
                mapped = map_array(read_folder(tmp_path, "arrays")[1]["values.npy"])
        assert mapped.tolist() == [1.0] * 5
        assert map_array(read_folder(tmp_path, "arrays")[1]["values.npy"]).tolist() == [2.0] * 5

    @pytest.mark.parametrize("hours", [23, 25])
    def test_files_of_a_killed_writer_are_removed_a_day_later(self, tmp_path, hours):
        write(tmp_path, "old")
        FolderWriter(tmp_path, "killed").file("a.txt").write_text("half")
        FolderWriter(tmp_path, "going-on").file("a.txt").write_text("half")
        (tmp_path / "manifest-my-own.txt").write_text("mine")
        then = time.time() - hours * 3600
        os.utime(tmp_path / "manifest-killed.json", (then, then))
        write(tmp_path, "new")
        left = ["a-going-on.txt", "manifest-going-on.json", "manifest-my-own.txt"]
        left += ["a-killed.txt", "manifest-killed.json"] if hours == 23 else []
        published = read_folder(tmp_path, "texts")[1]["a.txt"]
        assert published.read_text() == "new"
        assert names(tmp_path) == sorted([*left, MANIFEST, published.name])

    def test_adopted_files_stay_without_a_commit(self, tmp_path):
        grown = tmp_path / "grown.txt"
        grown.write_text("abc")
        with FolderWriter(tmp_path) as writer:
            writer.adopt("a.txt", grown)
        assert names(tmp_path) == ["grown.txt"]
        for _ in range(2):  # the second commit replaces a folder that names the same file
            with FolderWriter(tmp_path) as writer:
                writer.adopt("a.txt", grown)
                writer.commit("texts")
            assert read_folder(tmp_path, "texts")[1] == {"a.txt": grown} and grown.read_text() == "abc"
        write(tmp_path, "new")
        assert not grown.exists()


class TestFailures:
    def test_a_full_disk(self, tmp_path):
        """A process may not write files of more than 100 kB, which fails like a full disk."""
        write(tmp_path, "old")
        before = names(tmp_path)
        code = f"""
import resource, signal
import numpy as np
from hf_xlir.utils.storage import FolderWriter, RowWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def save(folder):
    np.save(folder.file("values.npy"), np.ones(10**6))
def append(folder):
    with RowWriter(folder.file("values.npy"), (1000,), "float32") as rows:
        for _ in range(100):
            rows.append(np.ones((10, 1000)))
for write in (save, append):
    try:
        with FolderWriter({str(tmp_path)!r}) as folder:
            write(folder)
            folder.commit("texts")
    except OSError as error:
        print(error)
"""
        if sys.platform == "win32":
            pytest.skip("no limit of file sizes on Windows")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert len(lines) == 2
        for line in lines:
            assert "could not be written" in line and "Make room" in line
        assert names(tmp_path) == before and read_folder(tmp_path, "texts")[1]["a.txt"].read_text() == "old"

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
    def test_the_kind_of_error_is_kept(self, tmp_path, number):
        with pytest.raises(OSError, match=os.strerror(number)) as raised, FolderWriter(tmp_path):
            raise OSError(number, os.strerror(number))
        assert raised.value.errno == number
        assert isinstance(raised.value, PermissionError) == (number == errno.EACCES)

    def test_numpy_s_error_of_a_full_disk_gets_a_number(self, tmp_path):
        with pytest.raises(OSError, match="2016 written") as raised, FolderWriter(tmp_path):
            raise OSError("15283 requested and 2016 written")
        assert raised.value.errno == errno.ENOSPC

    def test_a_folder_that_cannot_be_written_to(self, tmp_path):
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(OSError, match="could not be written"):
            FolderWriter(tmp_path / "file" / "folder")
        (tmp_path / "locked").mkdir(mode=0o500)
        if os.access(tmp_path / "locked", os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(PermissionError, match="could not be written"):
            FolderWriter(tmp_path / "locked")

    def test_of_two_writers_the_last_wins(self, tmp_path):
        write(tmp_path, "old")
        with FolderWriter(tmp_path) as first, FolderWriter(tmp_path) as second:
            first.file("a.txt").write_text("first")
            second.file("a.txt").write_text("second")
            second.commit("texts")
            first.commit("texts")
        assert read_folder(tmp_path, "texts", verify=True)[1]["a.txt"].read_text() == "first"

    def test_readers_while_a_writer_saves(self, tmp_path):
        """They load only whole states, although files vanish while they read."""

        def save():
            for value in range(150):
                with FolderWriter(tmp_path) as folder:
                    for name in ("a.npy", "b.npy"):
                        np.save(folder.file(name), np.full(10, value))
                    folder.commit("arrays")

        def load(_, files):
            return [int(np.load(files[name]).sum()) for name in ("a.npy", "b.npy")]

        thread = threading.Thread(target=save)
        thread.start()
        while not (tmp_path / MANIFEST).exists():
            assert thread.is_alive()
        seen = []
        while thread.is_alive():
            seen.append(load_folder(tmp_path, "arrays", load))
        thread.join()
        assert all(a == b for a, b in seen) and seen == sorted(seen)
        assert load_folder(tmp_path, "arrays", load) == [1490, 1490]


class TestReading:
    def test_folders_of_other_formats(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            read_folder(tmp_path / "absent", "texts")
        with pytest.raises(ValueError, match="has no manifest.json"):
            read_folder(tmp_path, "texts")
        write(tmp_path, "one")
        with pytest.raises(ValueError, match="holds `texts`, expected `arrays`"):
            read_folder(tmp_path, "arrays")

    @pytest.mark.parametrize(
        "text, message",
        [
            ("{", "is not valid JSON"),
            ("[1]", "is not a manifest of hf_xlir"),
            ('{"format": "texts", "version": 1}', "is not a manifest of hf_xlir"),
            ('{"format": "texts", "version": 2, "files": {}}', "has version 2 of its format.*upgrade hf_xlir"),
            ('{"format": "texts", "version": "1", "files": {}}', "has version 1 of its format.*upgrade hf_xlir"),
            ('{"format": "texts", "version": 1, "files": {"a": {}}}', "has no plain file name for `a`"),
            ('{"format": "texts", "version": 1, "files": {"a": 3}}', "has no plain file name for `a`"),
            ('{"format": "texts", "version": 1, "files": {"a": {"name": "../b"}}}', "has no plain file name for `a`"),
            (
                '{"format": "texts", "version": 1, "files": {"a": {"name": "manifest.json"}}}',
                "odd field .KeyError",
            ),
        ],
    )
    def test_foreign_manifests(self, tmp_path, text, message):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_folder(tmp_path, "texts")

    def test_truncated_and_missing_files(self, tmp_path):
        write(tmp_path, "four")
        file = read_folder(tmp_path, "texts")[1]["a.txt"]
        file.write_text("fou")
        with pytest.raises(ValueError, match=f"{file.name} has 3 bytes instead of 4"):
            read_folder(tmp_path, "texts")
        file.unlink()
        with pytest.raises(ValueError, match=f"{file.name} is missing"):
            read_folder(tmp_path, "texts")

    def test_a_replaced_folder_is_read_again(self, tmp_path):
        write(tmp_path, "old")
        texts = []

        def load(manifest, files):
            if not texts:  # a writer commits between the manifest and the files
                texts.append("not yet")
                write(tmp_path, "newer")
            return manifest["length"], files["a.txt"].read_text()

        assert load_folder(tmp_path, "texts", load) == (5, "newer")

    def test_altered_files(self, tmp_path, monkeypatch):
        write(tmp_path, "four")
        entry = json.loads((tmp_path / MANIFEST).read_text())["files"]["a.txt"]
        assert entry["crc32"] == f"{zlib.crc32(b'four'):08x}"
        file = read_folder(tmp_path, "texts")[1]["a.txt"]
        file.write_text("five")
        with pytest.raises(ValueError, match=f"its file {file.name} has other contents than were written"):
            read_folder(tmp_path, "texts")
        monkeypatch.setattr(storage, "ALWAYS_VERIFIED", 3)
        assert read_folder(tmp_path, "texts")[1] == {"a.txt": file}  # too large to be read each time
        with pytest.raises(ValueError, match="has other contents than were written"):
            read_folder(tmp_path, "texts", verify=True)

    def test_checksums_of_more_than_one_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(storage, "BYTES_PER_READ", 3)
        write(tmp_path, "seven77")
        assert (
            json.loads((tmp_path / MANIFEST).read_text())["files"]["a.txt"]["crc32"] == f"{zlib.crc32(b'seven77'):08x}"
        )

    def test_no_pickles(self, tmp_path):
        np.save(tmp_path / "values.npy", np.array([{"a": 1}]), allow_pickle=True)
        with pytest.raises(ValueError):
            map_array(tmp_path / "values.npy")

    def test_folders_can_be_moved(self, tmp_path):
        write(tmp_path / "here", "one")
        (tmp_path / "here").rename(tmp_path / "there")
        assert read_folder(tmp_path / "there", "texts")[1]["a.txt"].read_text() == "one"


class TestRowWriter:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 5), max_size=5), st.sampled_from([(), (3,), (2, 2)]), st.sampled_from(["f2", "i8"]))
    def test_equals_numpy(self, tmp_path_factory, sizes, row_shape, dtype):
        path = tmp_path_factory.mktemp("rows") / "values.npy"
        generator = np.random.default_rng(0)
        parts = [generator.integers(0, 9, (size, *row_shape)) for size in sizes]
        with RowWriter(path, row_shape, dtype) as writer:
            for part in parts:
                writer.append(part)
        expected = np.concatenate([np.empty((0, *row_shape)), *parts]).astype(dtype)
        found = np.load(path)
        assert found.dtype == expected.dtype and found.shape == expected.shape and np.array_equal(found, expected)
        assert writer.num_rows == sum(sizes)

    def test_the_header_has_room_for_any_number_of_rows(self, tmp_path):
        with RowWriter(tmp_path / "values.npy", (4,), "float32") as writer:
            writer.append(np.ones((2, 4)))
            start = (tmp_path / "values.npy").stat().st_size if writer._file.flush() is None else None
            writer.num_rows = 10**15
            writer._file.seek(0)
            writer._write_header()
            assert writer._file.tell() == start - 2 * 4 * 4  # the rows were not written over
            writer.num_rows = 2
            writer._file.seek(0, io.SEEK_END)
        assert np.load(tmp_path / "values.npy").tolist() == [[1.0] * 4] * 2

    def test_resuming_cuts_off_rows_that_were_not_counted(self, tmp_path):
        path = tmp_path / "values.npy"
        writer = RowWriter(path, (2,), "float32")
        writer.append(np.ones((3, 2)))
        writer.flush()
        writer.append(np.full((5, 2), 7))
        writer._file.flush()  # killed here, with three rows counted
        with RowWriter(path, (2,), "float32", num_rows=3) as again:
            again.append(np.zeros((1, 2)))
        assert np.load(path).tolist() == [[1, 1]] * 3 + [[0, 0]]
        assert path.stat().st_size == 128 + 4 * 8
        with pytest.raises(ValueError, match="is shorter than the 5 rows that were written"):
            RowWriter(path, (2,), "float32", num_rows=5)

    def test_rows_of_another_shape(self, tmp_path):
        with RowWriter(tmp_path / "values.npy", (4,), "float32") as writer:
            with pytest.raises(ValueError, match=r"Rows must have shape \(4,\), got \(3,\)"):
                writer.append(np.ones((2, 3)))
        assert np.load(tmp_path / "values.npy").shape == (0, 4)

    def test_rows_that_are_not_contiguous(self, tmp_path):
        rows = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
        with RowWriter(tmp_path / "values.npy", (2,), "float32") as writer:
            writer.append(rows)
        assert np.array_equal(np.load(tmp_path / "values.npy"), rows)


def test_manifests_are_readable_by_people(tmp_path):
    write(tmp_path, "one")
    manifest = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["version"] == 1 and manifest["files"]["a.txt"]["bytes"] == 3
