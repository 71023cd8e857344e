"""Passage collections: DPR's and ColBERT's TSV files, JSON lines, parquet."""

import os

from .features import PASSAGE_FEATURES
from .tables import Layout, load_table


def load_passages(
    path: str | os.PathLike,
    streaming: bool = False,
    on_error: str = "raise",
    quoting: str = "auto",
    cache_dir: str | None = None,
):
    r"""
    Load a collection of passages. The format is recognised by content, gzipped or not:

    - TSV with a header that names an id (`id`, `pid` ...), a text (`text`, `passage` ...) and perhaps a `title`, in
      any order: DPR's `psgs_w100.tsv.gz`, ColBERT's collections.
    - TSV without a header: id, text and perhaps title (ColBERT).
    - JSON lines, or one JSON array, with `id` (or `_id`, `docid`) and `text` and perhaps `title`; or with pyserini's
      `contents`, a title and a text with a tab between, or else only a text.
    - Parquet with these columns.

    Names such as "NA" and "null" are names. Rows are read one block at a time and written to an Arrow file, which is
    memory-mapped: the 21 million passages of `psgs_w100` take minutes once, and bounded memory always.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them; of passages with one id the first
            stays.
        quoting (`str`, *optional*, defaults to `"auto"`):
            What quotes mean in a TSV file. `"csv"`: a field that is quoted as a whole is unquoted. `"raw"`: quotes are
            text. `"auto"`: `"csv"` if the header has a title, as in DPR's file, and `"raw"` otherwise, as in
            ColBERT's. A record is one line in each of them, so that a stray quote never swallows rows.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.

    Returns:
        `datasets.Dataset` of `id`, `title` and `text` (`str`), in the order of the file; `title` is empty where there
        is none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ConnectionError: If a URL cannot be downloaded.
        ValueError: If a row is blank or not UTF-8, has another number of columns than the first, has no id or no text,
            or has the id of a row before; the message names file, line and reason.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.data import load_passages

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "psgs.tsv").write_text("id\ttext\ttitle\n1\tHe was a prophet.\tAaron\n")
    ...     load_passages(Path(folder, "psgs.tsv"), cache_dir=folder)[0]
    {'id': '1', 'title': 'Aaron', 'text': 'He was a prophet.'}

    ```
    """
    return load_table(path, PASSAGES, quoting=quoting, on_error=on_error, streaming=streaming, cache_dir=cache_dir)


def _split_contents(row: dict) -> dict:
    """Pyserini's `contents` are a title and a text with a tab between, or only a text."""
    contents = row.get("contents")
    if not isinstance(contents, str) or "\t" not in contents or row.get("text") is not None:
        return row
    title, _, text = contents.partition("\t")
    return {**row, "title": title if row.get("title") is None else row["title"], "text": text}


PASSAGES = Layout(
    "passages",
    PASSAGE_FEATURES,
    {"id": ("id", "_id", "pid", "docid"), "text": ("text", "passage", "contents"), "title": ("title",)},
    optional=("title",),
    adapt=_split_contents,
)


__all__ = ["load_passages"]
