"""Reading passages from a `Dataset` or a list, checked."""

import json

from datasets import Dataset

from ..models.processing_text import fault_of
from .embeddings import first_duplicate


ROWS_PER_CHECK = 10_000


def check_passages(passages, digest=None):
    """
    The ids, after a look at every row: a mistake in the last one should not cost the embedding of the others.

    With `digest`, a hash of `hashlib`, all ids, titles and texts go into it.
    """
    if not isinstance(passages, Dataset | list | tuple):
        raise ValueError(
            f"`passages` must be a `datasets.Dataset` or a list of dictionaries, got {type(passages).__name__}."
        )
    if not len(passages):
        raise ValueError("`passages` is empty: give at least one.")
    ids = []
    for start in range(0, len(passages), ROWS_PER_CHECK):
        rows = read_rows(passages, start, start + ROWS_PER_CHECK)
        for position, (id, text) in enumerate(zip(rows["id"], rows["text"], strict=True), start):
            if not isinstance(id, str) or not id:
                raise ValueError(f"The passage in row {position} has the id {id!r}: ids are strings, not empty.")
            if not isinstance(text, str):
                raise ValueError(f"The text of passage `{id}` in row {position} is no string, got {text!r}.")
            if (fault := fault_of(text)) is not None:
                raise ValueError(f"The text of passage `{id}` in row {position} {fault}")
        ids += rows["id"]
        if digest is not None:
            digest.update(json.dumps([rows["id"], rows["text"], rows["title"]]).encode())
    duplicate = first_duplicate(ids)
    if duplicate is not None:
        raise ValueError(f"Two passages have the id `{duplicate}`: ids must be unique.")
    return ids


def read_rows(passages, start, stop):
    """Columns `id`, `text` and `title` (`None` if absent) of a range of rows, as lists."""
    names = ("id", "text", "title")
    if isinstance(passages, Dataset):
        present = [name for name in names if name in passages.column_names]
        _check_columns(present, "the dataset")
        with passages.formatted_as(columns=present):  # leaves other columns, such as vectors, undecoded
            rows = passages[start:stop]
    else:
        chunk = passages[start:stop]
        for position, row in enumerate(chunk, start):
            _check_columns(row, f"row {position}")
        rows = {name: [row.get(name) for row in chunk] for name in names}
    titles = [title or "" for title in rows.get("title", [])]
    return {"id": rows["id"], "text": rows["text"], "title": titles if any(titles) else None}


def _check_columns(present, where):
    missing = [name for name in ("id", "text") if name not in present]
    if missing:
        raise ValueError(f"Passages have `id`, `text` and optionally `title`, but {where} lacks {missing}.")


__all__ = ["check_passages", "read_rows"]
