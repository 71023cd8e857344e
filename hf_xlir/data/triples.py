"""Training triples: a query, a passage that answers it, and passages that do not, as texts or as ids."""

import os
from collections.abc import Iterator

import datasets

from .building import build_dataset
from .features import RANKED_EXAMPLE_FEATURES, TRIPLE_FEATURES
from .id_triples import read_id_triples
from .passages import load_passages
from .queries import load_queries
from .reading import RowErrors, peek
from .tables import Layout, load_table, read_table


TRIPLES = Layout(
    "triples", TRIPLE_FEATURES, {"query": ("query",), "positive": ("positive",), "negative": ("negative",)}
)
EXAMPLES_PER_BATCH = 1000  # of up to a hundred passages each


def load_triples(
    path: str | os.PathLike,
    queries: str | os.PathLike | datasets.Dataset | None = None,
    passages: str | os.PathLike | datasets.Dataset | None = None,
    num_negatives: int | None = None,
    streaming: bool = False,
    on_error: str = "raise",
    quoting: str = "raw",
    cache_dir: str | None = None,
):
    r"""
    Load training triples, gzipped or not, as texts or as ids of queries and passages.

    - Texts: lines of query, positive and negative with tabs between, with these names in a first line or without. JSON
      objects and parquet with these columns are recognised by their content.
    - Ids, if `queries` and `passages` are given: lines of a query's id, a positive's and those of one or more
      negatives, with tabs between (MS MARCO's `qidpidtriples`); or ColBERT's n-way JSON lines, `[query, positive,
      negative, ...]` without scores or `[query, [positive, score], [negative, score], ...]` with those of a teacher.

    Ids are looked up while the file is read, in memory that does not grow with it. The dataset then has every text as
    often as the file has its id; where that is too much for the disk, take fewer negatives, or stream.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        queries (`str`, `os.PathLike` or `datasets.Dataset`, *optional*):
            What [`load_queries`] reads, or a dataset with columns `id` and `question`.
        passages (`str`, `os.PathLike` or `datasets.Dataset`, *optional*):
            What [`load_passages`] reads, or a dataset with columns `id`, `text` and perhaps `title`.
        num_negatives (`int`, *optional*):
            Of a file of ids, keep the first so many negatives of each row; all by default.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.
        quoting (`str`, *optional*, defaults to `"raw"`):
            What quotes mean in lines of texts. `"raw"`: quotes are text, as ColBERT reads such files. `"csv"`: a field
            that is quoted as a whole is unquoted, which gives the original text of DR.DECR's files.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.

    Returns:
        `datasets.Dataset`. Of texts: `query`, `positive` and `negative` (`str`). Of ids: `query` (`str`), `positive`
        (a passage `{"id", "title", "text"}`), `negatives` (a list of these) and `teacher_scores` (of the positive and
        the negatives, or `None`). [`RetrieverCollator`] takes the rows of both.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If `queries` or `passages` is neither a path nor a dataset.
        ValueError: If the file has ids and only one or none of `queries` and `passages` is given; if a column is
            missing, or two records have one id. If a row is blank or not UTF-8, has an empty text or another number of
            columns than the first; if one has an unknown id, a passage twice, a score that is no number, or fewer than
            `num_negatives` negatives.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from datasets import Dataset
    >>> from hf_xlir.data import load_triples

    >>> queries = Dataset.from_dict({"id": ["7"], "question": ["Who invented the telephone?"]})
    >>> passages = Dataset.from_dict({"id": ["1", "2"], "text": ["Bell did.", "It rained."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "examples.jsonl").write_text("[7, [1, 12.5], [2, -3.0]]")
    ...     row = load_triples(Path(folder, "examples.jsonl"), queries, passages, cache_dir=folder)[0]
    >>> row["query"], row["negatives"], row["teacher_scores"]
    ('Who invented the telephone?', [{'id': '2', 'title': '', 'text': 'It rained.'}], [12.5, -3.0])

    ```
    """
    options = {"on_error": on_error, "streaming": streaming, "cache_dir": cache_dir}
    if queries is None and passages is None:
        if num_negatives is not None:
            raise ValueError("`num_negatives` is for files of ids. Pass `queries` and `passages`, or leave it out.")
        return load_table(path, TRIPLES, read=_read_texts, quoting=quoting, **options)
    if queries is None or passages is None:
        missing = "queries" if queries is None else "passages"
        raise ValueError(f"`{missing}` is missing: the ids of a file of triples are looked up in both. Pass it, too.")
    if num_negatives is not None and num_negatives < 1:
        raise ValueError(f"`num_negatives` is {num_negatives}. Pass 1 or more, or leave it out for all.")
    others = {
        "queries": _dataset("queries", queries, load_queries, ("id", "question"), on_error, cache_dir),
        "passages": _dataset("passages", passages, load_passages, ("id", "text"), on_error, cache_dir),
    }
    return build_dataset(
        "id_triples",
        [path],
        RANKED_EXAMPLE_FEATURES,
        read_id_triples,
        options={"num_negatives": num_negatives},
        others=others,
        batch_size=EXAMPLES_PER_BATCH,
        **options,
    )


def _read_texts(files, names, errors: RowErrors, layout: Layout, quoting: str) -> Iterator[dict]:
    start = peek(files[0], names[0]).lstrip()
    first = start.split(b"\n", 1)[0].split(b"\t")
    is_ids = len(first) > 2 and all(field.strip().removeprefix(b"-").isdigit() for field in first)
    if is_ids or (start.startswith(b"[") and not start[1:].lstrip().startswith(b"{")):
        raise ValueError(
            f"`{names[0]}` has ids and not texts in its first line. Pass `queries` and `passages` to look them up in."
        )
    yield from read_table(files, names, errors, layout, quoting)


def _dataset(argument: str, given, load, columns: tuple[str, ...], on_error: str, cache_dir) -> datasets.Dataset:
    if isinstance(given, str | os.PathLike):
        return load(given, on_error=on_error, cache_dir=cache_dir)
    if not isinstance(given, datasets.Dataset):
        raise TypeError(
            f"`{argument}` is a {type(given).__name__}. Pass a path, or a `datasets.Dataset` with the columns "
            f"{' and '.join(columns)}."
        )
    missing = [column for column in columns if column not in given.column_names]
    if missing:
        raise ValueError(
            f"`{argument}` has the columns {', '.join(given.column_names)}, and no {' and no '.join(missing)}. Rename "
            "them with `rename_column`."
        )
    if given.features["id"].dtype != "string":
        raise ValueError(
            f"The column `id` of `{argument}` is of type {given.features['id'].dtype}. Cast it to string with "
            "`cast_column`."
        )
    return given


__all__ = ["load_triples"]
