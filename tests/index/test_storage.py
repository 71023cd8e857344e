"""Folders that appear at once or not at all, and arrays that grow."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index.storage import MANIFEST, FolderWriter, RowWriter, map_array, read_folder


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

    def test_nothing_is_seen_before_the_commit(self, tmp_path):
        write(tmp_path, "old")
        with FolderWriter(tmp_path) as writer:
            writer.file("a.txt").write_text("new")
            writer.file("b.txt").write_text("more")
            manifest, files = read_folder(tmp_path, "texts")
            assert list(files) == ["a.txt"] and files["a.txt"].read_text() == "old"
            writer.commit("texts")
            _, files = read_folder(tmp_path, "texts")
            assert {name: file.read_text() for name, file in files.items()} == {"a.txt": "new", "b.txt": "more"}
        assert len(names(tmp_path)) == 3  # the old file is gone

    @pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
    def test_without_a_commit_nothing_stays(self, tmp_path, error):
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

    def test_a_commit_that_fails_leaves_the_old_contents(self, tmp_path):
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


class TestReading:
    def test_what_is_no_folder_of_the_format(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            read_folder(tmp_path / "absent", "texts")
        with pytest.raises(ValueError, match="has no manifest.json: hf_xlir did not write this folder, or was interr"):
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
        ],
    )
    def test_foreign_manifests(self, tmp_path, text, message):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_folder(tmp_path, "texts")

    def test_files_that_are_not_what_was_written(self, tmp_path):
        write(tmp_path, "four")
        file = read_folder(tmp_path, "texts")[1]["a.txt"]
        file.write_text("fou")
        with pytest.raises(ValueError, match=f"{file.name} has 3 bytes instead of 4. Copy or write the folder again"):
            read_folder(tmp_path, "texts")
        file.unlink()
        with pytest.raises(ValueError, match=f"{file.name} is missing"):
            read_folder(tmp_path, "texts")

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
