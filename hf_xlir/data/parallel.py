"""Parallel text: sentences and their translations."""

import os
from collections.abc import Iterator
from itertools import zip_longest

from .building import build_dataset
from .features import PARALLEL_FEATURES
from .reading import RowErrors, decode, peek, read_lines, read_raw_lines


def load_parallel(
    source_path: str | os.PathLike,
    target_path: str | os.PathLike | None = None,
    streaming: bool = False,
    on_error: str = "raise",
    cache_dir: str | None = None,
):
    r"""
    Load parallel text from two files whose lines correspond, or from one tab-separated file.

    The layout is recognised by content, not by suffix, gzipped or not:

    - Two plain files: line `i` of one translates line `i` of the other. Tabs are text.
    - One file of two columns (source, target), or of three (query, positive, negative), whose first two are the pair.
    - Two files of three columns, such as DR.DECR's `7lan_notrim_triple_2ep.other.clean.h5` and `...en.clean.h5`, which
      are text files despite the suffix: the first column of each.

    Quotes are always text, and so are `\r` and the line separators of Unicode inside a line.

    Args:
        source_path (`str` or `os.PathLike`):
            Path or URL of the source sentences (in this package not English), or of the only file.
        target_path (`str` or `os.PathLike`, *optional*):
            Path or URL of the translations.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips pairs with a bad line and logs their number and the first of them.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `source` and `target` (`str`).

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the files have different numbers of lines, or if a line is blank, is not UTF-8 or has another
            number of columns than the first.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.data import load_parallel

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.fi").write_text("Kyllä.\n", encoding="utf-8")
    ...     _ = Path(folder, "a.en").write_text("Yes.\n", encoding="utf-8")
    ...     load_parallel(Path(folder, "a.fi"), Path(folder, "a.en"), cache_dir=folder)[0]
    {'source': 'Kyllä.', 'target': 'Yes.'}

    ```
    """
    paths = [source_path] if target_path is None else [source_path, target_path]
    read = _read_columns if target_path is None else _read_aligned
    return build_dataset(
        "parallel", paths, PARALLEL_FEATURES, read, on_error=on_error, streaming=streaming, cache_dir=cache_dir
    )


def _read_columns(files, names, errors: RowErrors) -> Iterator[dict]:
    (path,), (name,) = files, names
    width = _num_columns(path, name)
    if width not in (2, 3):
        raise ValueError(
            f"`{name}` has {width} column(s) in its first line; a single file of parallel text has two (source, "
            "target) or three (query, positive, negative), separated by tabs. If the translations are in another "
            "file, pass it as `target_path`."
        )
    for number, line in read_lines(path, name, errors):
        columns = line.split("\t")
        if len(columns) != width:
            errors.bad(name, number, f"expected {width} columns as in the first line, got {len(columns)}")
        elif not columns[0].strip() or not columns[1].strip():
            errors.bad(name, number, f"the {'target' if columns[0].strip() else 'source'} is empty")
        else:
            yield {"source": columns[0], "target": columns[1]}


def _read_aligned(files, names, errors: RowErrors) -> Iterator[dict]:
    width = 3 if all(_num_columns(*file) == 3 for file in zip(files, names, strict=True)) else 1
    lines = zip_longest(*(read_raw_lines(path, name) for path, name in zip(files, names, strict=True)))
    blank: list[int] = []
    for number, pair in enumerate(lines, start=1):
        if not any(raw and raw.strip() for raw in pair):
            blank.append(number)  # allowed at the end of both files
            continue
        if None in pair:
            raise ValueError(_unequal(files, names))
        for blank_number in blank:
            errors.bad(names[0], blank_number, "the line is blank, and so is its translation")
        blank = []
        texts = []
        for raw, name in zip(pair, names, strict=True):
            text, reason = _first_column(raw, width)
            if reason is not None:
                errors.bad(name, number, reason)
                break
            texts.append(text)
        else:
            yield {"source": texts[0], "target": texts[1]}


def _first_column(raw: bytes, width: int) -> tuple[str | None, str | None]:
    text, reason = decode(raw)
    if text is None:
        return None, reason
    if width > 1:
        columns = text.split("\t")
        if len(columns) != width:
            return None, f"expected {width} columns as in the first line, got {len(columns)}"
        text = columns[0]
    return (text, None) if text.strip() else (None, "the line is blank, while its translation is not")


def _num_columns(path, name) -> int:
    first = peek(path, name, 1 << 20).lstrip(b"\r\n").split(b"\n", 1)[0]
    return first.count(b"\t") + 1


def _unequal(files, names) -> str:
    counts = [sum(1 for _ in read_raw_lines(path, name)) for path, name in zip(files, names, strict=True)]
    return (
        f"`{names[0]}` has {counts[0]} lines and `{names[1]}` has {counts[1]}. Pass two files in which "
        "line i of one translates line i of the other."
    )


__all__ = ["load_parallel"]
