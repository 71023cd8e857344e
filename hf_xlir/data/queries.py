"""Queries as collections keep them: an id and a text."""

import os

from .features import QUERY_FEATURES
from .tables import Layout, load_table


QUERIES = Layout(
    "queries",
    QUERY_FEATURES,
    {"id": ("id", "_id", "qid", "query_id"), "question": ("question", "query", "text")},
)


def load_queries(
    path: str | os.PathLike,
    streaming: bool = False,
    on_error: str = "raise",
    quoting: str = "raw",
    cache_dir: str | None = None,
):
    r"""
    Load queries: lines of an id and a text with a tab between, as ColBERT and MS MARCO have them.

    A first line that names an id (`id`, `qid` ...) and a text (`question`, `query`, `text`) is a header; only then may
    there be more columns. JSON lines, a JSON array and parquet with such columns are recognised by their content.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them; of queries with one id the first
            stays.
        quoting (`str`, *optional*, defaults to `"raw"`):
            `"raw"`: quotes are text. `"csv"`: a field that is quoted as a whole is unquoted.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.

    Returns:
        `datasets.Dataset` of `id` and `question` (`str`), in the order of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ConnectionError: If a URL cannot be downloaded.
        ValueError: If a row is blank or not UTF-8, has another number of columns than the first, has no id or no text,
            or has the id of a row before; the message names file, line and reason.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.data import load_queries

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "queries.tsv").write_text("7\tWho invented the telephone?\n")
    ...     load_queries(Path(folder, "queries.tsv"), cache_dir=folder)[0]
    {'id': '7', 'question': 'Who invented the telephone?'}

    ```
    """
    return load_table(path, QUERIES, quoting=quoting, on_error=on_error, streaming=streaming, cache_dir=cache_dir)


__all__ = ["load_queries"]
