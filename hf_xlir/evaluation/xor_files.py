"""The prediction files of XOR-TyDi's three tasks, in the format for submission."""

import json
import os
from collections import Counter

from transformers.utils import logging

from ..data.building import resolve_file
from ..data.reading import RowErrors, decode, open_binary, read_json_objects, whole_gzip
from ..utils.files import write_text
from .rankings import by_query, ranked_ids, text_of_id, texts_by_id
from .xor_metrics import fault_of_retrieved


logger = logging.get_logger(__name__)


def xor_retrieve_predictions(rankings, questions, passages):
    r"""
    Convert rankings to predictions for XOR-Retrieve, with the texts of passages instead of their ids.

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            For each question id, the ids of the retrieved passages with the best first, or a score per id. The
            metrics look at 5,000 tokens: about fifty passages of a hundred words. Other questions are ignored.
        questions (`datasets.Dataset` or `list[dict]`):
            Questions with `id` and `lang`, such as `load_xor_tydi("retrieve", "validation")`.
        passages (`datasets.Dataset` or `list[dict]`):
            Passages with `id` and `text`. Titles are ignored.

    Returns:
        `list[dict]`: `id`, `lang` and `ctxs` for each question, for [`xor_retrieve_metrics`] and
        [`write_xor_retrieve_predictions`]. A question without a ranking has empty `ctxs`, so it counts as a failure
        and not as a question that was never asked.

    Raises:
        ValueError: If a question has no `id` or `lang`, no ranking belongs to a question, or a ranking names a passage
            twice or a passage that is not in `passages`.

    Example:
    ```python
    >>> from hf_xlir.evaluation import xor_retrieve_predictions

    >>> passages = [{"id": "a", "title": "Tokyo", "text": "It is the capital."}, {"id": "b", "text": "Busan."}]
    >>> questions = [{"id": "q1", "lang": "ja"}, {"id": "q2", "lang": "ko"}]
    >>> for row in xor_retrieve_predictions({"q1": ["b", "a"]}, questions, passages):
    ...     row
    {'id': 'q1', 'lang': 'ja', 'ctxs': ['Busan.', 'It is the capital.']}
    {'id': 'q2', 'lang': 'ko', 'ctxs': []}

    ```
    """
    asked = {}
    for position, row in enumerate(questions):
        if (fault := fault_of_retrieved({**row, "ctxs": []})) is not None:
            raise ValueError(f"`questions`, row {position}: {fault}.")
        asked[row["id"]] = row["lang"].strip()
    rankings = by_query(rankings)
    ranked = {id: ranked_ids(id, rankings[id]) for id in asked if id in rankings}
    if not ranked:
        raise ValueError(
            f"No ranking belongs to a question: `rankings` has {list(rankings)[:3]}, `questions` has "
            f"{list(asked)[:3]}. Use the same ids in both."
        )
    texts = texts_by_id({passage for ids in ranked.values() for passage in ids}, passages)
    return [
        {"id": id, "lang": language, "ctxs": [texts[passage] for passage in ranked.get(id, ())]}
        for id, language in asked.items()
    ]


def write_xor_retrieve_predictions(path, predictions):
    r"""
    Write the prediction file of XOR-Retrieve: a JSON array of objects with `id`, `lang` and `ctxs`.

    Args:
        path (`str` or `os.PathLike`):
            The file. It is written completely or not at all; its folder is created if missing.
        predictions (`list[dict]`):
            Rows with `id`, `lang` and `ctxs` (`list[str]`), see [`xor_retrieve_predictions`]. Other fields are
            ignored.

    Raises:
        ValueError: If a row lacks a field or an id occurs twice. Nothing is written then.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.evaluation import write_xor_retrieve_predictions

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "predictions.json")
    ...     write_xor_retrieve_predictions(path, [{"id": "1", "lang": "ja", "ctxs": ["Tokyo (東京)."]}])
    ...     path.read_text("utf-8")
    '[\n{"id": "1", "lang": "ja", "ctxs": ["Tokyo (東京)."]}\n]\n'

    ```
    """
    lines, seen = [], set()
    for position, row in enumerate(predictions):
        fault = fault_of_retrieved(row)
        if fault is None and row["id"] in seen:
            fault = f"the question `{row['id']}` occurred before"
        if fault is not None:
            raise ValueError(f"`predictions`, row {position}: {fault}.")
        seen.add(row["id"])
        lines.append(json.dumps({"id": row["id"], "lang": row["lang"], "ctxs": list(row["ctxs"])}, ensure_ascii=False))
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def load_xor_retrieve_predictions(path, on_error="raise"):
    r"""
    Read a prediction file of XOR-Retrieve: a JSON array, or JSON lines, of objects with `id`, `lang` and `ctxs`.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs their number and the first of them.

    Returns:
        `list[dict]` of `id` (numbers become `str`), `lang` and `ctxs` (`list[str]`), for [`xor_retrieve_metrics`].

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If there is no row, or a row is not JSON, lacks a field or repeats a question. The message gives
            file, line and reason.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.evaluation import load_xor_retrieve_predictions

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "predictions.json")
    ...     _ = path.write_text('[{"id": 12345, "lang": "ja", "ctxs": ["Tokyo is the capital."]}]')
    ...     load_xor_retrieve_predictions(path)
    [{'id': '12345', 'lang': 'ja', 'ctxs': ['Tokyo is the capital.']}]

    ```
    """
    name, errors = os.fspath(path), RowErrors(on_error)
    rows = {}
    for number, row in read_json_objects(resolve_file(path), name, errors):
        row = {"id": text_of_id(row.get("id")), "lang": row.get("lang"), "ctxs": row.get("ctxs")}
        fault = fault_of_retrieved(row)
        if fault is None and row["id"] in rows:
            fault = f"the question `{row['id']}` occurred before"
        if fault is None:
            rows[row["id"]] = row
        else:
            errors.bad(name, number, fault)
    if errors.count:
        logger.warning(errors.report())
    if not rows:
        raise ValueError(f"`{name}` has no predictions.")
    return list(rows.values())


def write_xor_answers(path, answers):
    r"""
    Write the prediction file of XOR-EnglishSpan or XOR-Full: a JSON object from question ids to answers.

    Args:
        path (`str` or `os.PathLike`):
            The file. It is written completely or not at all; its folder is created if missing.
        answers (`dict[str, str]`):
            The answer for each question id.

    Raises:
        ValueError: If an id or an answer is not a string. Nothing is written then.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.evaluation import load_xor_answers, write_xor_answers

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_xor_answers(Path(folder, "predictions.json"), {"12345": "東京", "67890": "Москва"})
    ...     load_xor_answers(Path(folder, "predictions.json"))
    {'12345': '東京', '67890': 'Москва'}

    ```
    """
    for id, answer in answers.items():
        if not isinstance(id, str) or not isinstance(answer, str):
            raise ValueError(f"`answers` must map question ids to strings, got {answer!r} for the question {id!r}.")
    write_text(path, json.dumps(dict(answers), ensure_ascii=False, indent=0) + "\n")


def load_xor_answers(path):
    r"""
    Read a prediction file of XOR-EnglishSpan or XOR-Full: a JSON object from question ids to answers.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.

    Returns:
        `dict[str, str]`, for [`xor_english_span_metrics`] and [`xor_full_metrics`]. If the file has an object with
        `answer`, which the official script accepts too, this is its `answer`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not one JSON object in UTF-8, is empty, names a question twice, or has an answer
            that is not a string. The message gives file and question.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.evaluation import load_xor_answers

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "predictions.json").write_text('{"1": "Edo", "2": {"answer": "Seoul"}}')
    ...     load_xor_answers(Path(folder, "predictions.json"))
    {'1': 'Edo', '2': 'Seoul'}

    ```
    """
    name = os.fspath(path)
    with whole_gzip(name), open_binary(resolve_file(path)) as stream:
        text, reason = decode(stream.read())
    if text is None:
        raise ValueError(f"`{name}` cannot be read: {reason.replace(' of the line', '')}.")
    try:
        answers = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{name}` is not JSON: {error}.") from error
    if not isinstance(answers, _Pairs):
        raise ValueError(f"`{name}` must be one JSON object from question ids to answers, got {text[:60]!r}.")
    twice = [id for id, count in Counter(id for id, _ in answers).items() if count > 1]
    if twice:
        raise ValueError(f"`{name}` has the question `{twice[0]}` more than once: correct the file.")
    answers = {id: dict(answer).get("answer") if isinstance(answer, _Pairs) else answer for id, answer in answers}
    for id, answer in answers.items():
        if not isinstance(answer, str):
            raise ValueError(f"`{name}`, question `{id}`: the answer must be a string, got {answer!r}.")
    if not answers:
        raise ValueError(f"`{name}` has no predictions.")
    return answers


class _Pairs(list):
    """The names and values of a JSON object: a dictionary would hide a repeated name."""


__all__ = [
    "load_xor_answers",
    "load_xor_retrieve_predictions",
    "write_xor_answers",
    "write_xor_retrieve_predictions",
    "xor_retrieve_predictions",
]
