"""Fixtures of the tests of `hf_xlir.data`."""

import os
from pathlib import Path

import datasets
import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party data; tests that use it are skipped where it is absent."""
    beside_repository = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("HF_XLIR_TEST_DATA") or beside_repository)
    if not folder.is_dir():
        pytest.skip(f"the shared test data is not in {folder}; set HF_XLIR_TEST_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of `datasets` for each test."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes a file of the given name, text or bytes, and returns its path."""

    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return str(path)

    return write_file
