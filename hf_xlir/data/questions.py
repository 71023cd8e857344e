"""Questions with what answers them, for evaluation and for hard negatives."""

import os
from collections.abc import Iterator

import datasets

from .building import build_dataset
from .features import JUDGED_QUESTION_FEATURES
from .ids import unique
from .json_reading import read_json_objects
from .reading import RowErrors


def load_questions(path: str | os.PathLike, on_error: str = "raise", cache_dir: str | None = None) -> datasets.Dataset:
    r"""
    Load questions: JSON lines, or one JSON array, of objects with `question`, and perhaps `id`, `lang`, `answers` and
    `passage_ids` (ids of the passages that answer it). XOR-TyDi's and NQ-open's files are such.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.

    Returns:
        `datasets.Dataset` of `id` (the position in the file if there is none), `question`, `answers`, `lang` (empty if
        there is none), and `passage_ids` unless no question has some.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is not such an object, or has the id of a row before.

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
    return unique(_usable(path, name, errors), name, errors)


def _usable(path, name, errors: RowErrors) -> Iterator[tuple[int, dict]]:
    for position, (number, row) in enumerate(read_json_objects(path, name, errors)):
        question, language = row.get("question"), row.get("lang") or ""
        answers = row.get("answers", row.get("answer"))  # NQ-open has the latter
        lists = {"answers": answers or [], "passage_ids": row.get("passage_ids") or []}
        wrong = [each for each, value in lists.items() if not _is_list_of_texts(value)]
        if not isinstance(question, str) or not question.strip():
            errors.bad(name, number, "it has no question")
        elif not isinstance(language, str):
            errors.bad(name, number, f"`lang` is no text: {language!r:.60}")
        elif wrong:
            errors.bad(name, number, f"`{wrong[0]}` is not a list of texts")
        else:
            question_id = str(position if row.get("id") is None else row["id"])
            yield number, {"id": question_id, "question": question, "lang": language.strip(), **lists}


def _is_list_of_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


__all__ = ["load_questions"]
