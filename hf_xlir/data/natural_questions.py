"""Natural Questions for open-domain question answering: NQ-open, and DPR's training data."""

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..utils.checks import check_choice
from .building import SPLITS, build_dataset, official_file
from .features import QUESTION_FEATURES, RETRIEVAL_EXAMPLE_FEATURES
from .reading import (
    RowErrors,
    converted,
    is_list_of_texts,
    question_of,
    read_json_objects,
    read_lines,
    split_tsv,
)


OPEN_URL = "https://raw.githubusercontent.com/google-research-datasets/natural-questions/master/nq_open"
DPR_URL = "https://dl.fbaipublicfiles.com/dpr/data/retriever"
# The test set is hidden, and papers report "test" results on the development set: both splits are that file
FILES = {
    "open": {
        "train": f"{OPEN_URL}/NQ-open.train.jsonl",
        "validation": f"{OPEN_URL}/NQ-open.dev.jsonl",
        "test": f"{OPEN_URL}/NQ-open.dev.jsonl",
    },
    "dpr": {
        "train": f"{DPR_URL}/biencoder-nq-train.json.gz",
        "validation": f"{DPR_URL}/biencoder-nq-dev.json.gz",
        "test": f"{DPR_URL}/nq-test.qa.csv",
    },
}


def load_natural_questions(
    task: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    streaming: bool = False,
    on_error: str = "raise",
    cache_dir: str | None = None,
):
    r"""
    Load Natural Questions: questions with short answers (`"open"`), or with the passages that DPR trains on (`"dpr"`).

    Args:
        task (`str`):
            `"open"`: NQ-open (https://huggingface.co/papers/1906.00300). `"dpr"`: DPR's training data
            (https://huggingface.co/papers/2004.04906), a JSON array of several gigabytes that is read item by item.
        split (`str`):
            `"train"`, `"validation"` or `"test"`. NQ-open's test set is hidden: `"validation"` and `"test"` are both
            its 3,610 development questions, which papers call the test set, so select models on other data. DPR takes
            its validation set from the training questions, and its test set has only questions and answers.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder with the official file, gzipped or not, or the path of one file in the same format. For `"dpr"`,
            a file may also have objects with `question`, `answers`, `gold_context` and optionally `hard_negative`,
            where a context is a text, an object with `title` and `text`, or a list of these. By default the file is
            downloaded.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file and the download; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `id` (the position of the row in the file), `question`, `answers` and `lang` (`"en"`);
        for `"dpr"` also `positive_ctxs`, `hard_negative_ctxs` and `negative_ctxs`, lists of `{"id", "title", "text"}`.

    Raises:
        FileNotFoundError: If `data_dir` does not have the file.
        ConnectionError: If it cannot be downloaded.
        ValueError: If task or split is unknown, or a row cannot be read.

    Example:
    ```python
    >>> from hf_xlir.data import load_natural_questions

    >>> load_natural_questions("open", "validation")[0]["answers"]  # doctest: +SKIP
    ['14 December 1972 UTC', 'December 1972']

    ```
    """
    check_choice("task", task, tuple(FILES))
    check_choice("split", split, SPLITS)
    url = FILES[task][split]
    if data_dir is not None and Path(data_dir).expanduser().is_file():
        file = data_dir
    else:
        name = url.rsplit("/", 1)[1]
        file = official_file(data_dir, [name, name.removesuffix(".gz")], url)
    is_open = task == "open"
    return build_dataset(
        "natural_questions",
        [file],
        QUESTION_FEATURES if is_open else RETRIEVAL_EXAMPLE_FEATURES,
        _read,
        options={"convert": _open_record if is_open else _dpr_record},
        split=split,
        on_error=on_error,
        streaming=streaming,
        cache_dir=cache_dir,
        batch_size=10_000 if is_open else 100,  # one of DPR's examples has more than a hundred passages
    )


def _read(files, names, errors: RowErrors, convert: Callable[[dict, int], dict]) -> Iterator[dict]:
    (path,), (name,) = files, names
    read = _read_questions_csv if name.removesuffix(".gz").endswith(".csv") else read_json_objects
    return (record for _, record in converted(read(path, name, errors), convert, name, errors))


def _open_record(row: dict, position: int) -> dict:
    question, answers = question_of(row), row.get("answer", row.get("answers"))
    if not is_list_of_texts(answers):
        raise ValueError("its answers are not a list of texts")
    return {"id": str(position), "question": question, "answers": answers, "lang": "en"}


def _dpr_record(row: dict, position: int) -> dict:
    record = _open_record(row, position)
    if "positive_ctxs" not in row and "gold_context" not in row:
        raise ValueError("it has neither `positive_ctxs` nor `gold_context`")
    return {
        **record,
        "positive_ctxs": _contexts(row, "positive_ctxs", "gold_context"),
        "hard_negative_ctxs": _contexts(row, "hard_negative_ctxs", "hard_negative"),
        "negative_ctxs": _contexts(row, "negative_ctxs"),
    }


def _contexts(row: dict, *names: str) -> list[dict]:
    contexts = next((row[name] for name in names if row.get(name) is not None), [])
    return [_context(context) for context in (contexts if isinstance(contexts, list) else [contexts])]


def _context(context) -> dict:
    if isinstance(context, str):
        context = {"text": context}
    if not isinstance(context, dict) or not isinstance(context.get("text"), str) or not context["text"].strip():
        raise ValueError("it has a context without text")
    passage_id = next((context[name] for name in ("id", "passage_id", "psg_id") if context.get(name) is not None), "")
    return {"id": str(passage_id), "title": str(context.get("title") or ""), "text": context["text"]}


def _read_questions_csv(path, name, errors: RowErrors) -> Iterator[tuple[int, dict]]:
    """Lines of a question, a tab and a Python list of answers, with the quotes of CSV."""
    for number, line in read_lines(path, name, errors):
        try:
            question, answers = split_tsv(line, "csv")
            row = {"question": question, "answers": ast.literal_eval(answers), "positive_ctxs": []}
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # all errors of `literal_eval`
            errors.bad(name, number, "expected a question, a tab and a list of answers")
        else:
            yield number, row


__all__ = ["load_natural_questions"]
