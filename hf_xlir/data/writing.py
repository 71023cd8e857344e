"""Small files that are whole or not there."""

import os
from pathlib import Path


def write_text(path, text):
    r"""
    Write a text beside its place, then rename it: what has the name is whole, and what had it before stays until then.

    Args:
        path (`str` or `os.PathLike`):
            The file; its folder is made if absent.
        text (`str`):
            What it holds, in UTF-8.

    Raises:
        OSError: If the folder cannot be written to, or is full; the file is unchanged.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.data.writing import write_text

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder, "new", "a.txt"), "one")
    ...     [file.name for file in Path(folder, "new").iterdir()]
    ['a.txt']

    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


__all__ = ["write_text"]
