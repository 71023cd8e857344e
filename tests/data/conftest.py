"""Fixtures of the data tests."""

import http.server
import threading
import tracemalloc
from functools import partial
from pathlib import Path

import datasets
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of `datasets` for each test. Downloads are allowed: they only go to a local test server."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
    # Offline mode would refuse the local server too
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes a file of the given name, text or bytes, and returns its path."""

    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return str(path)

    return write_file


@pytest.fixture
def peak_memory():
    """The most bytes that Python holds while it consumes an iterator, given a function that makes one."""

    def measure(make) -> int:
        tracemalloc.start()
        assert sum(1 for _ in make()) > 0
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    return measure


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """The address of a local server for the files in `tmp_path`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
