"""Training triples: a query, a passage that answers it, a passage that does not."""

import os
from collections.abc import Iterator

from .building import build_dataset, check_choice
from .features import TRIPLE_FEATURES
from .reading import RowErrors, read_lines, split_tsv


COLUMNS = ("query", "positive", "negative")


def load_triples(
    path: str | os.PathLike,
    streaming: bool = False,
    on_error: str = "raise",
    quoting: str = "raw",
    cache_dir: str | None = None,
):
    r"""
    Load training triples from lines of query, positive and negative text with tabs between them, gzipped or not.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL. There is no header.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows and logs their number.
        quoting (`str`, *optional*, defaults to `"raw"`):
            `"raw"`: quotes are text, as ColBERT reads such files. `"csv"`: a field that is quoted as a whole is
            unquoted, which gives the original text of DR.DECR's files.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.

    Returns:
        `datasets.Dataset` of `query`, `positive` and `negative` (`str`).

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is blank, is not UTF-8, has not three columns, or one of them is empty.

    Example:
    ```python
    triples = load_triples("triples.tsv")
    triples[0]  # {"query": "...", "positive": "...", "negative": "..."}
    ```
    """
    check_choice("quoting", quoting, ("raw", "csv"))
    return build_dataset(
        "triples",
        [path],
        TRIPLE_FEATURES,
        _read_triples,
        options={"quoting": quoting},
        on_error=on_error,
        streaming=streaming,
        cache_dir=cache_dir,
    )


def _read_triples(files, names, errors: RowErrors, quoting: str) -> Iterator[dict]:
    (path,), (name,) = files, names
    for number, line in read_lines(path, name, errors):
        fields = split_tsv(line, quoting)
        if len(fields) != len(COLUMNS):
            errors.bad(name, number, f"expected {', '.join(COLUMNS)} with tabs between, got {len(fields)} column(s)")
            continue
        empty = [column for column, text in zip(COLUMNS, fields, strict=True) if not text.strip()]
        if empty:
            errors.bad(name, number, f"the {empty[0]} is empty")
        else:
            yield dict(zip(COLUMNS, fields, strict=True))


__all__ = ["load_triples"]
