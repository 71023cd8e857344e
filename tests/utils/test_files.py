"""Small files are replaced at once."""

from pathlib import Path

import pytest

from hf_xlir.utils.files import write_text


def test_written_in_a_new_folder_and_replaced(tmp_path):
    file = tmp_path / "new" / "a.json"
    for text in ("eins\n", "zwei ä"):
        write_text(str(file), text)
        assert file.read_text(encoding="utf-8") == text and list(file.parent.iterdir()) == [file]


def test_what_was_there_stays_if_writing_fails(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_text(file, "before")

    def fail(self, text, encoding):
        with open(self, "w") as stream:
            stream.write(text[:2])
        raise OSError("full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="full"):
        write_text(file, "after")
    assert file.read_bytes() == b"before"
