"""Training examples written as ids: MS MARCO's lines, and ColBERT's n-way JSON lines with a teacher's scores."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import datasets

from .building import blocks
from .ids import RecordsById
from .json_reading import read_json_lists
from .reading import RowErrors, peek, read_lines


EXAMPLES_PER_LOOKUP = 1000


class _IdExample(NamedTuple):
    line: int
    query: str
    passages: list[str]  # positive first
    scores: list[float] | None  # as many


def read_id_triples(
    files, names, errors: RowErrors, num_negatives: int | None, queries: datasets.Dataset, passages: datasets.Dataset
) -> Iterator[dict]:
    """Rows of `query`, `positive`, `negatives` and `teacher_scores`; see [`load_triples`]."""
    (path,), (name,) = files, names
    find_queries = RecordsById(queries.select_columns(["id", "question"]))
    columns = [column for column in ("id", "title", "text") if column in passages.column_names]
    find_passages = RecordsById(passages.select_columns(columns))
    for block in blocks(_read_ids(path, name, errors, num_negatives), EXAMPLES_PER_LOOKUP):
        texts = find_queries.find(example.query for example in block)
        records = find_passages.find(passage_id for example in block for passage_id in example.passages)
        for example in block:
            unknown = [passage_id for passage_id in example.passages if passage_id not in records]
            if example.query not in texts:
                errors.bad(name, example.line, f"no query has the id `{example.query}`")
            elif unknown:
                errors.bad(name, example.line, f"no passage has the id `{unknown[0]}`")
            else:
                found = [{"title": "", **records[passage_id]} for passage_id in example.passages]
                yield {
                    "query": texts[example.query]["question"],
                    "positive": found[0],
                    "negatives": found[1:],
                    "teacher_scores": example.scores,
                }


def _read_ids(path, name: str, errors: RowErrors, num_negatives: int | None) -> Iterator[_IdExample]:
    """The examples with as many negatives as asked for, or as the first of them has."""
    expected = None if num_negatives is None else num_negatives + 1
    has_scores = None
    is_json = peek(path, name).lstrip()[:1] in (b"[", b"{")
    for number, query, entries in _read_json(path, name, errors) if is_json else _read_tsv(path, name, errors):
        try:
            passage_ids, scores = _split_scores(entries)
            if num_negatives is not None:
                passage_ids, scores = passage_ids[:expected], scores and scores[:expected]
            example = _IdExample(number, _checked_id(query), passage_ids, scores)
            if len(passage_ids) < 2:
                raise ValueError("it has no negative")
            if len(set(passage_ids)) < len(passage_ids):
                raise ValueError("it has a passage twice")
            if len(passage_ids) != (expected or len(passage_ids)):
                raise ValueError(f"expected {expected - 1} negative(s), got {len(passage_ids) - 1}")
            if (scores is not None) != (has_scores if has_scores is not None else scores is not None):
                raise ValueError(f"it has {'no ' * has_scores}scores, unlike the first row")
        except (ValueError, OverflowError) as error:
            errors.bad(name, number, str(error))
            continue
        expected, has_scores = len(passage_ids), scores is not None
        yield example


def _read_tsv(path, name, errors: RowErrors) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in read_lines(path, name, errors):
        query, *passage_ids = (field.strip() for field in line.split("\t"))
        yield number, query, passage_ids


def _read_json(path, name, errors: RowErrors) -> Iterator[tuple[int, object, list]]:
    for number, row in read_json_lists(path, name, errors):
        yield number, (row[0] if row else None), row[1:]


def _split_scores(entries: list) -> tuple[list[str], list[float] | None]:
    if not any(isinstance(entry, list) for entry in entries):
        return [_checked_id(entry) for entry in entries], None
    passage_ids, scores = [], []
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"expected a passage's id and its score, got {entry!r:.60}")
        passage_id, score = entry
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"the score {score!r:.60} is not a number")
        passage_ids.append(_checked_id(passage_id))
        scores.append(float(score))
    return passage_ids, scores


def _checked_id(value) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected an id, got {value!r:.60}")
    return value


__all__ = ["read_id_triples"]
