"""Indexes on disk: what a load gives back, what a save writes, kills, full disks, several writers, foreign folders."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_changing_index import part_of, renamed
from test_tokens import made_up, queries_like

from hf_xlir.index import LateInteractionIndex
from hf_xlir.index.late_interaction import maintenance
from hf_xlir.index.late_interaction.contents import BuildSettings, Contents
from hf_xlir.index.late_interaction.passage_ids import PassageIds
from hf_xlir.index.late_interaction.segments import Segment, Training
from hf_xlir.index.late_interaction.tokens import CompressedTokens, cell_lists
from hf_xlir.utils import storage
from hf_xlir.utils.storage import MANIFEST


ROOT = Path(__file__).parents[2]


def changed_index(nbits=4):
    """Two segments, in both of which something is removed."""
    index = LateInteractionIndex.build(made_up(), nbits, num_centroids=9, seed=3)
    index.add(renamed(made_up(20, seed=1), "x"), maintain=False)
    index.update(part_of(made_up(seed=2), [50, 7]), maintain=False)
    index.remove(["p3", "xp5"], maintain=False)
    return index


def same(first, second):
    queries = queries_like(made_up())[0]
    results = [index.search_batch(queries, k=100, preset="exact") for index in (first, second)]
    return first.ids == second.ids and all(np.array_equal(*pair) for pair in zip(*results, strict=True))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def data_files(folder, name):
    return sorted(folder.glob(f"{name}-*-*.npy"))


class TestRoundTrip:
    @pytest.mark.parametrize("nbits", [None, 1, 3, 4, 8, "auto"])
    def test_what_was_saved(self, tmp_path, nbits):
        index = changed_index(nbits)
        index.save(tmp_path)
        loaded = LateInteractionIndex.load(tmp_path, verify=True)
        assert same(loaded, index) and loaded.settings == index.settings and loaded.num_tokens == index.num_tokens
        assert loaded.nbytes == index.nbytes
        for segment, original in zip(loaded.contents.segments, index.contents.segments, strict=True):
            assert segment.residual == original.residual
            for name, array in segment.tokens.arrays.items():
                assert isinstance(array, np.memmap), name
        if index.contents.training is not None:
            assert len({id(segment.training) for segment in loaded.contents.segments}) == 1
            assert loaded.contents.training.num_tokens == index.contents.training.num_tokens
            assert loaded.contents.training.residual == index.contents.training.residual

    def test_goes_on_as_the_original(self, tmp_path):
        index = changed_index()
        index.save(tmp_path)
        loaded = LateInteractionIndex.load(tmp_path)
        for each in (index, loaded):
            each.add(renamed(made_up(5, seed=7), "y"))
            each.remove(["p0"])
            each.compact()
        assert same(loaded, index)

    @pytest.mark.slow
    def test_little_of_it_is_resident(self, tmp_path):
        if not Path("/proc/self/status").exists():
            pytest.skip("the system does not tell a process's resident memory")
        num_passages, length = 4000, 110
        codec = LateInteractionIndex.build(made_up(dim=128), 8, num_centroids=50).contents.training.codec
        generator, num_tokens = np.random.default_rng(0), num_passages * length
        offsets = np.arange(num_passages + 1) * length
        arrays = {
            "offsets": offsets,
            "records": generator.integers(0, 256, (num_tokens, 132), dtype=np.uint8),
        }
        arrays["records"][:, :2] = generator.integers(0, 50, (num_tokens, 1)).astype(np.int16).view(np.uint8)
        arrays["records"][:, 2:4] = np.array([0.01], dtype=np.float16).view(np.uint8)
        arrays |= cell_lists(arrays["records"], offsets, 50)
        segment = Segment(CompressedTokens(codec, arrays), np.arange(num_passages), Training(codec, num_tokens, 0.5))
        ids = [f"passage {row}" for row in range(num_passages)]
        index = LateInteractionIndex(Contents(PassageIds.of(ids), (segment,), 128), BuildSettings(8))
        index.save(tmp_path)
        code = f"""
import numpy as np
from hf_xlir.index import LateInteractionIndex
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
before = resident()
index = LateInteractionIndex.load({str(tmp_path)!r})
print(resident() - before, len(index.search(np.ones((2, 128)), 3).scores))
"""
        grown, found = _run(code).split()
        assert int(found) == 3 and index.nbytes > 55e6
        assert int(grown) < 0.15 * index.nbytes


class TestSaving:
    def test_only_what_changed_is_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(maintenance, "TOKENS_JOINED_ANYWAY", 0)
        saved, read, checksum = LateInteractionIndex.build(made_up(100), 4, num_centroids=4), [], storage.checksum
        saved.save(tmp_path)
        monkeypatch.setattr(storage, "checksum", lambda file: read.append(file.name) or checksum(file))
        for gone in ("p1", "p2"):
            index = saved if gone == "p1" else LateInteractionIndex.load(tmp_path)
            [before] = data_files(tmp_path, "records")
            inode = before.stat().st_ino
            index.add(renamed(made_up(3, seed=5), "x"))
            index.remove([gone])
            read.clear()
            index.save(tmp_path, overwrite=True)
            assert {name.split("-")[1] for name in read if "records" in name} == {"1"}
            first, second = data_files(tmp_path, "records")
            assert first.stat().st_ino == inode and first.name != before.name and not before.exists()
            assert second.stat().st_ino != inode and first.stat().st_nlink == 1
            assert same(LateInteractionIndex.load(tmp_path, verify=True), index)
            index.remove([id for id in index.ids if id[0] == "x"])
            index.save(tmp_path)
        assert len(index) == 98

    def test_another_folder_shares_no_file(self, tmp_path):
        changed_index().save(tmp_path / "a")
        index = LateInteractionIndex.load(tmp_path / "a")
        index.save(tmp_path / "b")
        for file in (tmp_path / "a").iterdir():
            assert file.stat().st_nlink == 1
        assert same(LateInteractionIndex.load(tmp_path / "b", verify=True), changed_index())

    @pytest.mark.parametrize("gone", [True, False])
    def test_where_files_cannot_have_second_names(self, tmp_path, monkeypatch, gone):
        changed_index().save(tmp_path / "a")
        index = LateInteractionIndex.load(tmp_path / "a")
        if gone:
            for file in data_files(tmp_path / "a", "codes"):
                file.unlink()  # mapped, so that its contents are still there
        else:
            monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(PermissionError("no links here")))
        index.save(tmp_path / "a")
        assert same(LateInteractionIndex.load(tmp_path / "a", verify=True), changed_index())

    def test_a_read_only_folder(self, tmp_path):
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            pytest.skip("this user may write everywhere")
        changed_index().save(tmp_path)
        index, before = LateInteractionIndex.load(tmp_path), names(tmp_path)
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(PermissionError, match="could not be written"):
                index.save(tmp_path)
        finally:
            tmp_path.chmod(0o700)
        assert names(tmp_path) == before

    def test_a_full_disk(self, tmp_path):
        """In a process that may write no file of more than 40 kB, which fails as a full disk does."""
        if sys.platform == "win32":
            pytest.skip("no limit of file sizes on Windows")
        changed_index().save(tmp_path)
        before = names(tmp_path)
        done = _run(f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_index_files import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
index = LateInteractionIndex.load({str(tmp_path)!r})
index.add(renamed(made_up(2000, seed=4), "y"))
try:
    index.save({str(tmp_path)!r})
except OSError as error:
    print(error)
print(len(index), len(index.search(queries_like(made_up())[0][0], 2000).scores))
""")
        assert "could not be written" in done and "what was complete there is unchanged. Make room" in done
        assert done.splitlines()[-1] == "2078 2000"
        assert names(tmp_path) == before and same(LateInteractionIndex.load(tmp_path), changed_index())

    @pytest.mark.parametrize(
        "moment", ["flush", *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("replace", "remove"))]
    )
    def test_a_process_that_is_killed(self, tmp_path, moment):
        """Before the folder is published the old index is there, afterwards the new one; saving again works."""
        if sys.platform == "win32":
            pytest.skip("no SIGKILL on Windows")
        changed_index().save(tmp_path)
        patched = {
            "flush": "flush = storage.flush_to_disk\n"
            "storage.flush_to_disk = lambda file: kill() if 'records' in str(file) else flush(file)",
            "replace": "os.replace = lambda *args: kill()",
            "remove": "storage._remove = lambda file: kill()",
        }[moment]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from test_index_files import *
from hf_xlir.utils import storage
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
{patched}
index = LateInteractionIndex.load({str(tmp_path)!r})
index.remove(["p8"])
index.save({str(tmp_path)!r})
""",
            ],
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        expected = changed_index()
        if moment == "remove":
            expected.remove(["p8"])
        index = LateInteractionIndex.load(tmp_path, verify=True)
        assert same(index, expected)
        index.remove(["p9"])
        index.save(tmp_path)
        assert "p9" not in LateInteractionIndex.load(tmp_path, verify=True).ids


class TestSeveralAtOnce:
    def test_the_second_of_two_writers_is_told(self, tmp_path):
        changed_index().save(tmp_path)
        first, second = LateInteractionIndex.load(tmp_path), LateInteractionIndex.load(tmp_path)
        first.remove(["p10"])
        first.save(tmp_path)
        first.remove(["p11"])
        first.save(tmp_path)  # its own save is no other writer's
        second.remove(["p12"])
        before = names(tmp_path)
        with pytest.raises(ValueError, match="was changed by another writer since this index .* load it again"):
            second.save(tmp_path)
        assert names(tmp_path) == before and same(LateInteractionIndex.load(tmp_path), first)
        second.save(tmp_path / "elsewhere")
        second.save(tmp_path, overwrite=True)
        assert same(LateInteractionIndex.load(tmp_path, verify=True), second)
        assert {"p10", "p11"} < set(second.ids)

    def test_readers_go_on(self, tmp_path):
        """A thread saves two indexes in turn, while others load and search: each finds one of them, whole."""
        versions = [changed_index(), LateInteractionIndex.build(made_up(30), 4, num_centroids=9)]
        versions[1].save(tmp_path)
        queries = queries_like(made_up())[0]
        expected = [index.search_batch(queries, 100).total_scores.tolist() for index in versions]
        old, stop, errors, loads = LateInteractionIndex.load(tmp_path), threading.Event(), [], []

        def read():
            while not stop.is_set():
                try:
                    index = LateInteractionIndex.load(tmp_path)
                    loads.append(index.search_batch(queries, 100).total_scores.tolist() in expected)
                except Exception as error:
                    errors.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(16):
            versions[number % 2].save(tmp_path, overwrite=True)
        stop.set()
        for reader in readers:
            reader.join()
        assert not errors and len(loads) > 3 and all(loads)
        assert old.search_batch(queries, 100).total_scores.tolist() == expected[1]  # its files are gone, but mapped


class TestOtherFolders:
    @pytest.mark.parametrize("name", ["records", "offsets", "cell_passages", "centroids", "rows"])
    def test_a_truncated_file(self, tmp_path, name):
        changed_index().save(tmp_path)
        file = data_files(tmp_path, name)[0]
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ValueError, match=f"is damaged: its file {name}-.* bytes instead of .* Copy or write"):
            LateInteractionIndex.load(tmp_path)

    def test_an_altered_or_missing_file(self, tmp_path):
        changed_index().save(tmp_path)
        file = data_files(tmp_path, "records")[0]
        contents = bytearray(file.read_bytes())
        contents[-1] ^= 1
        file.write_bytes(contents)
        with pytest.raises(ValueError, match="has other contents than were written"):
            LateInteractionIndex.load(tmp_path)
        file.unlink()
        with pytest.raises(ValueError, match="is damaged: its file records-0-.* is missing"):
            LateInteractionIndex.load(tmp_path)

    def test_foreign_newer_and_older(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder"):
            LateInteractionIndex.load(tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="hf_xlir did not write this folder"):
            LateInteractionIndex.load(tmp_path / "empty")
        made_up().save(tmp_path / "embeddings")
        with pytest.raises(ValueError, match="holds `hf_xlir.token_embeddings`, expected `hf_xlir.late_inter"):
            LateInteractionIndex.load(tmp_path / "embeddings")
        changed_index().save(tmp_path / "index")
        manifest = json.loads((tmp_path / "index" / MANIFEST).read_text())
        for change, message in (
            ({"version": 99}, "has version 99 of its format"),
            ({"segments": None}, "was written by an early version of hf_xlir: build and save the index again"),
        ):
            other = {name: value for name, value in (manifest | change).items() if value is not None}
            (tmp_path / "index" / MANIFEST).write_text(json.dumps(other))
            with pytest.raises(ValueError, match=message):
                LateInteractionIndex.load(tmp_path / "index")

    @pytest.mark.parametrize(
        "change, message",
        [
            (
                {"num_passages": 3},
                "num_passages.: 3,",
            ),
            ({"num_tokens": 3}, "its manifest states"),
            ({"embedding_dim": 64}, "codec 0 is for 16 dimensions, the index has 64"),
            ({"nbits": 7}, "`nbits`.* must be one of"),
            ({"seed": "one"}, "`seed` must be an integer"),
            ({"codecs": None}, "missing or odd field .KeyError: 'codecs'"),
            ({"codecs": []}, "missing or odd field .IndexError"),
            (
                {"codecs": [{"nbits": 2, "num_tokens": 1, "residual": 0.1}]},
                "`records` of segment 0 has shape",
            ),
            ({"segments": [7]}, "missing or odd field .TypeError"),
        ],
    )
    def test_a_manifest_that_does_not_fit(self, tmp_path, change, message):
        changed_index().save(tmp_path)
        manifest = json.loads((tmp_path / MANIFEST).read_text()) | change
        manifest = {name: value for name, value in manifest.items() if value is not None}
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=message):
            LateInteractionIndex.load(tmp_path)

    def test_segments_that_do_not_hold_each_passage_once(self, tmp_path):
        changed_index().save(tmp_path)
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        last = len(manifest["segments"]) - 1
        manifest["files"][f"rows-{last}.npy"] = manifest["files"].pop("rows-0.npy")
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match="contradicts itself"):
            LateInteractionIndex.load(tmp_path)


def test_devices():
    """On the CPU, named as a device; where there is a GPU, there, too."""
    index, queries = changed_index(), queries_like(made_up())[0]
    expected = index.search_batch(queries, 20)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        assert index.to(device) is index
        found = index.search_batch(queries, 20)
        np.testing.assert_allclose(found.total_scores, expected.total_scores, atol=0.02)
        index.add(renamed(made_up(2, seed=6), device))
        assert len(index.search(queries[0], 1000).scores) == len(index)
        index.remove([id for id in index.ids if id.startswith(device)])


def _run(code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout
