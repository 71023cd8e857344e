"""Files and folders that are complete or absent, and folders that one run uses at a time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_xlir.utils.files import folder_lock, new_folder, replacing, write_text


ROOT = Path(__file__).parents[2]
OTHER_RUN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from hf_xlir.utils.files import folder_lock
with folder_lock(sys.argv[2], "run.lock"):
    print("locked", flush=True)
    time.sleep(60)
"""


class TestFiles:
    def test_written_in_a_new_folder_and_replaced(self, tmp_path):
        file = tmp_path / "new" / "a.json"
        for text, flush in (("eins\n", False), ("zwei ä", True)):
            write_text(str(file), text, flush)
            assert file.read_text(encoding="utf-8") == text and list(file.parent.iterdir()) == [file]

    def test_an_error_keeps_the_old_file(self, tmp_path):
        file = tmp_path / "a.json"
        write_text(file, "before")
        with pytest.raises(OSError, match="full"), replacing(file) as draft:
            draft.write_text("af")
            raise OSError("full")
        assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]


class TestFolders:
    def test_new(self, tmp_path):
        path = tmp_path / "deep" / "new"
        with pytest.raises(KeyError), new_folder(path) as draft:
            (draft / "a").touch()
            raise KeyError
        assert list(path.parent.iterdir()) == []
        path.mkdir()  # an empty folder is replaced
        with new_folder(path) as draft:
            (draft / "a").touch()
            assert not (path / "a").exists()
        assert [file.name for file in path.iterdir()] == ["a"]
        with pytest.raises(FileExistsError, match="another folder"), new_folder(path):
            pass

    def test_a_second_run_is_refused(self, tmp_path):
        folder = tmp_path / "new" / "out"
        with folder_lock(folder, "run.lock"):
            for _ in range(2):  # a refusal keeps the lock of the first run
                with pytest.raises(RuntimeError, match="Another run is writing into `.*out`"):
                    with folder_lock(folder, "run.lock"):
                        raise AssertionError
            with folder_lock(folder, "other.lock"), folder_lock(tmp_path, "run.lock"):
                pass
        assert not list(folder.iterdir())
        with pytest.raises(KeyError), folder_lock(folder, "run.lock"):
            raise KeyError
        with folder_lock(folder, "run.lock"):
            pass

    def test_a_kill_releases_the_lock(self, tmp_path):
        other = subprocess.Popen([sys.executable, "-c", OTHER_RUN, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE)
        try:
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(RuntimeError, match="Another run"), folder_lock(tmp_path, "run.lock"):
                raise AssertionError
            assert other.poll() is None
        finally:
            other.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            other.communicate()
        assert (tmp_path / "run.lock").exists()
        with folder_lock(tmp_path, "run.lock"):
            pass
        assert not list(tmp_path.iterdir())
