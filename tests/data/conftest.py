"""Fixtures of the tests of `hf_xlir.data`."""

from pathlib import Path

import datasets
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of `datasets` for each test, and downloads, which only a server of the test's own gets."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
    # Offline mode would refuse the test's own server, too
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
