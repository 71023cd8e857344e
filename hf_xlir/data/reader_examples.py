"""Examples for readers: a question with the passages that a retriever found."""

import os
from collections.abc import Iterator

import numpy as np

from ..models.processing_text import is_blank
from .building import build_dataset
from .features import READER_EXAMPLE_FEATURES
from .ids import unique
from .json_reading import read_json_objects
from .reading import RowErrors


EXAMPLES_PER_BATCH = 100  # of a hundred passages each
LARGEST_SCORE = np.finfo(np.float32).max.item()  # what a retriever can learn from


def load_reader_examples(
    path: str | os.PathLike,
    streaming: bool = False,
    on_error: str = "raise",
    cache_dir: str | None = None,
    require_answers: bool = False,
):
    r"""
    Load Fusion-in-Decoder's examples (https://huggingface.co/papers/2007.01282): a JSON array or JSON lines.

    Every object has `question` and `ctxs` (objects with `text` and perhaps `id`, `title`, `score`), and perhaps `id`,
    `answers`, `target` and `lang` (or `language`). Files of many gigabytes are read example by example. There may be
    any number of passages, none too: a question without is read alone. An empty `target` or answer is one: a reader
    learns to write nothing.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.
        require_answers (`bool`, *optional*, defaults to `False`):
            Whether a row with neither `target` nor `answers`, from which no reader can learn, is a bad one.

    Returns:
        `datasets.Dataset` of `id` (the position among the rows if there is none), `question`, `target` (`None` if
        there is none; [`answer_rows`] then draws one of the answers each epoch), `answers`, `lang` (empty if there is
        none) and `ctxs`, passages with a `score` (`None` if there is none) in the order of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is not such an object, or has the id of a row before.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.data import load_reader_examples

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.json").write_text('[{"question": "Who?", "ctxs": [{"text": "Me.", "score": "79.3"}]}]')
    ...     load_reader_examples(Path(folder, "a.json"), cache_dir=folder)[0]["ctxs"]
    [{'id': '', 'title': '', 'text': 'Me.', 'score': 79.3}]

    ```
    """
    return build_dataset(
        "reader_examples",
        [path],
        READER_EXAMPLE_FEATURES,
        _read_examples,
        options={"require_answers": require_answers},
        on_error=on_error,
        streaming=streaming,
        cache_dir=cache_dir,
        batch_size=EXAMPLES_PER_BATCH,
    )


def read_reader_rows(
    path: str, name: str, errors: RowErrors, require_answers: bool = False
) -> Iterator[tuple[dict, dict]]:
    """
    `(object, example)` of each row of a local file or URL: the object as the file has it, with whatever else it says,
    and the example that [`load_reader_examples`] makes of it. Memory does not grow with a file of JSON lines or with
    an array.
    """
    rows = _usable(path, name, errors, require_answers)
    keyed = ((number, {"id": example["id"], "both": (row, example)}) for number, row, example in rows)
    return (each["both"] for each in unique(keyed, name, errors, EXAMPLES_PER_BATCH))


def _read_examples(files, names, errors: RowErrors, require_answers: bool) -> Iterator[dict]:
    (path,), (name,) = files, names
    return (example for _, example in read_reader_rows(path, name, errors, require_answers))


def _usable(path, name, errors: RowErrors, require_answers: bool) -> Iterator[tuple[int, dict, dict]]:
    for position, (number, row) in enumerate(read_json_objects(path, name, errors)):
        try:
            example = _example(row, position)
            if require_answers and example["target"] is None and not example["answers"]:
                raise ValueError("it has neither `target` nor `answers`, so there is nothing to learn from it")
        except ValueError as error:
            errors.bad(name, number, str(error))
        else:
            yield number, row, example


def _example(row: dict, position: int) -> dict:
    question, target = row.get("question"), row.get("target")
    answers = row.get("answers") if row.get("answers") is not None else []
    contexts = row.get("ctxs") if row.get("ctxs") is not None else []
    language, row_id = row.get("lang") or row.get("language") or "", row.get("id")
    if not isinstance(question, str) or is_blank(question):
        raise ValueError("it has no question")
    if not isinstance(language, str):
        raise ValueError(f"`lang` is no text: {language!r:.60}")
    if not isinstance(row_id, str | int | None) or isinstance(row_id, bool):
        raise ValueError(f"`id` is neither a text nor a whole number: {row_id!r:.60}")
    if target is not None and not isinstance(target, str):
        raise ValueError(f"`target` is not a text: {target!r:.60}")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"`answers` is not a list of texts: {answers!r:.60}")
    if not isinstance(contexts, list):
        raise ValueError(f"`ctxs` is not a list of passages: {contexts!r:.60}")
    return {
        "id": str(position if row_id is None else row_id),
        "question": question,
        "target": target,
        "answers": answers,
        "lang": language.strip(),
        "ctxs": [_context(context, rank) for rank, context in enumerate(contexts, start=1)],
    }


def _context(context, rank: int) -> dict:
    if not isinstance(context, dict) or not isinstance(context.get("text"), str):
        raise ValueError(f"entry {rank} of `ctxs` is not an object with a `text`: {context!r:.60}")
    if is_blank(context["text"]):
        raise ValueError(f"entry {rank} of `ctxs` has an empty `text`")
    score = context.get("score")
    try:
        score = None if score is None else float(score)  # DPR writes numbers as text
        is_number = score is None or (abs(score) <= LARGEST_SCORE and not isinstance(context["score"], bool))
    except (TypeError, ValueError, OverflowError):
        is_number = False
    if not is_number:
        raise ValueError(f"entry {rank} of `ctxs` has the score {context['score']!r:.60}, no number of float32")
    passage_id = context.get("id")
    return {
        "id": "" if passage_id is None else str(passage_id),
        "title": str(context.get("title") or ""),
        "text": context["text"],
        "score": score,
    }


__all__ = ["load_reader_examples", "read_reader_rows"]
