"""A folder is one run's, until it ends: by itself, with an error, or killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_xlir.utils.folder_lock import alone_in


ROOT = Path(__file__).parents[2]
OTHER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from hf_xlir.utils.folder_lock import alone_in
with alone_in(sys.argv[2], "run.lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused(tmp_path):
    folder = tmp_path / "new" / "out"
    with alone_in(folder, "run.lock"):
        for _ in range(2):  # a refusal does not let go of what the first one holds
            with pytest.raises(RuntimeError, match=r"Another run is writing into `.*out`, which .* another folder"):
                with alone_in(folder, "run.lock"):
                    raise AssertionError
        with alone_in(folder, "other.lock"), alone_in(tmp_path, "run.lock"):
            pass
    assert not list(folder.iterdir())
    with pytest.raises(KeyError), alone_in(folder, "run.lock"):
        raise KeyError
    with alone_in(folder, "run.lock"):
        pass


def test_another_process_until_it_is_killed(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="Another run is writing"), alone_in(tmp_path, "run.lock"):
            raise AssertionError
        assert other.poll() is None
    finally:
        other.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        other.communicate()
    assert (tmp_path / "run.lock").exists()  # what it left behind
    with alone_in(tmp_path, "run.lock"):
        pass
    assert not list(tmp_path.iterdir())
