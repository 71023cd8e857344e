"""A Hub of its own for each test, in this process and for fresh ones."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from hub_api import TOKEN
from hub_server import HubServer
from huggingface_hub import constants, utils

from hf_xlir.hub import upload as hub_upload


ROOT = Path(__file__).parents[2]

# Starts each fresh process: only the test server can be reached
ALONE = """
import json, os, socket, sys

ALLOWED = ("127.0.0.1", int(os.environ["HF_ENDPOINT"].rpartition(":")[2]))


def guarded(connect):
    def guard(self, address):
        if self.family != socket.AF_UNIX and tuple(address[:2]) != ALLOWED:
            raise ConnectionRefusedError(f"the network is cut: {address}")
        return connect(self, address)

    return guard


socket.socket.connect, socket.socket.connect_ex = guarded(socket.socket.connect), guarded(socket.socket.connect_ex)
ANSWER = {}
"""
WITHOUT_THE_PACKAGE = '''
class NoPackage:
    """An editable install puts the package on every interpreter's path, so it is refused by name."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_xlir":
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, NoPackage())
'''


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The server, which this process takes for the Hub, with a cache of its own and the token of its user."""
    url = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf_hub_cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_upload, "SECONDS_BEFORE_RETRY", 0.01)
    monkeypatch.setattr(utils._http.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # was created with the real endpoint
    utils.close_session()
    yield server
    utils.close_session()


@pytest.fixture
def in_fresh_process(server, tmp_path):
    """
    Runs code in a process of its own that knows no Hub but the server, with an empty cache: what it puts into the
    dictionary `ANSWER` comes back, or `None` from one that is `killed`.
    """
    numbers = iter(range(100))

    def run(code, *arguments, token=TOKEN, package=True, killed=False):
        home = tmp_path / f"home-{next(numbers)}"
        home.mkdir()
        script = home / "script.py"
        begin = ALONE if package else ALONE + WITHOUT_THE_PACKAGE
        end = f"\nwith open({str(home / 'answer.json')!r}, 'w') as file:\n    json.dump(ANSWER, file)\n"
        script.write_text(begin + code + end, encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        environment = {
            **kept,
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **({} if token is None else {"HF_TOKEN": token}),
            **({"PYTHONPATH": str(ROOT)} if package else {}),
        }
        process = subprocess.run(
            # -I: PYTHONPATH and the folders of the script and process are not searched
            [sys.executable, *([] if package else ["-I"]), str(script), *map(str, arguments)],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert process.returncode == (-signal.SIGKILL if killed else 0), process.stdout + process.stderr
        return None if killed else json.loads((home / "answer.json").read_text())

    return run
