"""The parts of a retrieval collection: passages, queries, and questions with answers or judgements."""

import os
from collections.abc import Iterator

import datasets

from .building import build_dataset
from .features import JUDGED_QUESTION_FEATURES, PASSAGE_FEATURES, QUERY_FEATURES
from .ids import unique
from .reading import RowErrors, converted, is_list_of_texts, question_of, read_json_objects
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

    - TSV with a header that names an id (`id`, `pid` ...), a text (`text`, `passage` ...) and optionally a `title`, in
      any order: DPR's `psgs_w100.tsv.gz`, ColBERT's collections.
    - TSV without a header: id, text and optionally title (ColBERT).
    - JSON lines, or one JSON array, with `id` (or `_id`, `docid`), `text` and optionally `title`. Pyserini's
      `contents` are also read: a title and a text with a tab between, or only a text.
    - Parquet with these columns.

    Names such as "NA" and "null" are names. Rows are read block by block and written to a memory-mapped Arrow file:
    the 21 million passages of `psgs_w100` take minutes the first time, and memory stays bounded.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them. It keeps the first of several passages
            with the same id.
        quoting (`str`, *optional*, defaults to `"auto"`):
            The meaning of quotes in a TSV file. `"csv"`: a field that is quoted as a whole is unquoted. `"raw"`:
            quotes are text. `"auto"`: `"csv"` if the header has a title, as in DPR's file, and `"raw"` otherwise, as
            in ColBERT's. A record is always one line, so that a stray quote never swallows rows.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `id`, `title` and `text` (`str`), in the order of the file; `title` is empty where the
        file has none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ConnectionError: If a URL cannot be downloaded.
        ValueError: If a row is blank, is not UTF-8, has another number of columns than the first, has no id or text,
            or repeats an id. The message names file, line and reason.

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
    """Split pyserini's `contents`: a title and a text with a tab between, or only a text."""
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
    Load queries: lines of an id and a text with a tab between, as in ColBERT's and MS MARCO's files.

    A first line that names an id (`id`, `qid` ...) and a text (`question`, `query`, `text`) is a header, and then
    there may be more columns. JSON lines, a JSON array and parquet with such columns are recognised by content.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them. It keeps the first of several queries
            with the same id.
        quoting (`str`, *optional*, defaults to `"raw"`):
            `"raw"`: quotes are text. `"csv"`: a field that is quoted as a whole is unquoted.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `id` and `question` (`str`), in the order of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ConnectionError: If a URL cannot be downloaded.
        ValueError: If a row is blank, is not UTF-8, has another number of columns than the first, has no id or text,
            or repeats an id. The message names file, line and reason.

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


def load_questions(path: str | os.PathLike, on_error: str = "raise", cache_dir: str | None = None) -> datasets.Dataset:
    r"""
    Load questions with answers or judgements: JSON lines, or one JSON array, of objects with `question` and optionally
    `id`, `lang`, `answers` and `passage_ids` (ids of the passages that answer it). XOR-TyDi's and NQ-open's files have
    this form.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `id` (by default the position in the file), `question`, `answers`, `lang` (empty by
        default), and `passage_ids` if any question has some.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is not such an object, or repeats an id.

    Example:
    ```python
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.data import load_questions

    >>> question = {"id": 7, "question": "Joki?", "answers": ["Seine"], "lang": " fi"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "questions.jsonl").write_text(json.dumps(question))
    ...     load_questions(Path(folder, "questions.jsonl"), cache_dir=folder)[0]
    {'id': '7', 'question': 'Joki?', 'answers': ['Seine'], 'lang': 'fi'}

    ```
    """
    questions = build_dataset(
        "questions", [path], JUDGED_QUESTION_FEATURES, _read_questions, on_error=on_error, cache_dir=cache_dir
    )
    return questions if any(questions["passage_ids"]) else questions.remove_columns("passage_ids")


def _read_questions(files, names, errors: RowErrors) -> Iterator[dict]:
    (path,), (name,) = files, names
    return unique(converted(read_json_objects(path, name, errors), _question, name, errors), name, errors)


def _question(row: dict, position: int) -> dict:
    question, language = question_of(row), row.get("lang") or ""
    if not isinstance(language, str):
        raise ValueError(f"`lang` is not text: {language!r:.60}")
    answers = row.get("answers", row.get("answer"))  # NQ-open has the latter
    lists = {"answers": answers or [], "passage_ids": row.get("passage_ids") or []}
    for column, value in lists.items():
        if not is_list_of_texts(value):
            raise ValueError(f"`{column}` is not a list of texts")
    question_id = str(position if row.get("id") is None else row["id"])
    return {"id": question_id, "question": question, "lang": language.strip(), **lists}


__all__ = ["PASSAGES", "load_passages", "load_queries", "load_questions"]
