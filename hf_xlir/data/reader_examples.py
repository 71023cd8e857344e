"""Examples for readers: a question with the passages that a retriever found, read from and written to JSON."""

import json
import os
from collections.abc import Iterator
from functools import partial

import numpy as np

from ..models.processing_text import is_blank
from ..utils.files import replacing
from .building import build_dataset
from .features import READER_EXAMPLE_FEATURES
from .ids import unique
from .reading import RowErrors, converted, is_list_of_texts, question_of, read_json_objects


EXAMPLES_PER_BATCH = 100  # of a hundred passages each
LARGEST_SCORE = np.finfo(np.float32).max.item()  # retrievers learn from scores in float32
QUESTION_COLUMNS = ("id", "question", "answers", "lang", "passage_ids")  # that a written example keeps


def load_reader_examples(
    path: str | os.PathLike,
    streaming: bool = False,
    on_error: str = "raise",
    cache_dir: str | None = None,
    require_answers: bool = False,
):
    r"""
    Load Fusion-in-Decoder's examples (https://huggingface.co/papers/2007.01282): a JSON array or JSON lines.

    Every object has `question` and `ctxs` (objects with `text` and optionally `id`, `title`, `score`), and optionally
    `id`, `answers`, `target` and `lang` (or `language`). Files of many gigabytes are read example by example. An
    example may have any number of passages, including none. From an empty `target` or answer a reader learns to write
    nothing.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file; by default the cache of `datasets`.
        require_answers (`bool`, *optional*, defaults to `False`):
            Whether a row with neither `target` nor `answers` is a bad row, since a reader cannot learn from it.

    Returns:
        `datasets.Dataset` of `id` (by default the position of the row), `question`, `target` (or `None`;
        [`answer_rows`] then draws one of the answers in each epoch), `answers`, `lang` (empty by default) and `ctxs`,
        passages with a `score` (or `None`) in the order of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is not such an object, or repeats an id.

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
    """`(object, example)` of each row: the JSON object with all its fields, and the example made of it."""
    convert = partial(_row_and_example, require_answers=require_answers)
    rows = converted(read_json_objects(path, name, errors), convert, name, errors)
    return (each["both"] for each in unique(rows, name, errors, EXAMPLES_PER_BATCH))


def _read_examples(files, names, errors: RowErrors, require_answers: bool) -> Iterator[dict]:
    (path,), (name,) = files, names
    return (example for _, example in read_reader_rows(path, name, errors, require_answers))


def _row_and_example(row: dict, position: int, require_answers: bool) -> dict:
    answers = row.get("answers") if row.get("answers") is not None else []
    contexts = row.get("ctxs") if row.get("ctxs") is not None else []
    language, row_id, target = row.get("lang") or row.get("language") or "", row.get("id"), row.get("target")
    question = question_of(row)
    if is_blank(question):
        raise ValueError("it has no question")
    if not isinstance(language, str):
        raise ValueError(f"`lang` is not text: {language!r:.60}")
    if not isinstance(row_id, str | int | None) or isinstance(row_id, bool):
        raise ValueError(f"`id` is neither text nor an integer: {row_id!r:.60}")
    if not isinstance(target, str | None):
        raise ValueError(f"`target` is not text: {target!r:.60}")
    if not is_list_of_texts(answers):
        raise ValueError(f"`answers` is not a list of texts: {answers!r:.60}")
    if not isinstance(contexts, list):
        raise ValueError(f"`ctxs` is not a list of passages: {contexts!r:.60}")
    example = {
        "id": str(position if row_id is None else row_id),
        "question": question,
        "target": target,
        "answers": answers,
        "lang": language.strip(),
        "ctxs": [_context(context, rank) for rank, context in enumerate(contexts, start=1)],
    }
    if require_answers and target is None and not answers:
        raise ValueError("it has neither `target` nor `answers`")
    return {"id": example["id"], "both": (row, example)}


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
        raise ValueError(f"entry {rank} of `ctxs` has the score {context['score']!r:.60}, not a float32 number")
    passage_id = context.get("id")
    return {
        "id": "" if passage_id is None else str(passage_id),
        "title": str(context.get("title") or ""),
        "text": context["text"],
        "score": score,
    }


def write_ranked_examples(path, questions, passages, rankings, n_context=100, scores=None):
    r"""
    Write a ranking as JSON lines for [`load_reader_examples`]: questions with the passages that were found for them.

    Args:
        path (`str` or `os.PathLike`):
            The file, which is replaced as a whole.
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `question` and optionally `answers`, `lang` and `passage_ids`, which are kept.
        passages (`datasets.Dataset`):
            Rows with `id`, `text` and optionally `title`.
        rankings (`dict[str, list[str]]`):
            Passage ids per question id, best first.
        n_context (`int`, *optional*, defaults to 100):
            Passages to write per question: the first ones.
        scores (`dict[str, list[float]]`, *optional*):
            The retriever's scores of the passages, in the same order, written as `retriever_score`; `score` is the
            reader's.

    Raises:
        ValueError: If a question has no ranking, or a ranking names an unknown passage; the file is then unchanged.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from datasets import Dataset
    >>> from hf_xlir.data import write_ranked_examples

    >>> passages = Dataset.from_dict({"id": ["a", "b"], "text": ["By Bell.", "It rained."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "examples.jsonl")
    ...     write_ranked_examples(file, [{"id": "1", "question": "Who?"}], passages, {"1": ["b", "a"]}, n_context=1)
    ...     print(file.read_text())
    {"id": "1", "question": "Who?", "ctxs": [{"id": "b", "title": "", "text": "It rained."}]}
    <BLANKLINE>

    ```
    """
    row_of_id = {id: row for row, id in enumerate(passages["id"])}
    columns = [name for name in ("id", "title", "text") if name in passages.column_names]
    passages = passages.select_columns(columns)
    without = [row["id"] for row in questions if row["id"] not in rankings]
    if without:
        raise ValueError(f"{len(without)} questions have no ranking, such as {without[:5]}.")
    with replacing(path) as draft, open(draft, "w", encoding="utf-8") as file:
        for question in questions:
            found = rankings[question["id"]][:n_context]
            unknown = [id for id in found if id not in row_of_id]
            if unknown:
                raise ValueError(f"The ranking of question `{question['id']}` names unknown passages: {unknown[:5]}.")
            rows = passages[[row_of_id[id] for id in found]] if found else {name: [] for name in columns}
            contexts = [
                {"id": id, "title": title or "", "text": text}
                for id, title, text in zip(found, rows.get("title", [""] * len(found)), rows["text"], strict=True)
            ]
            if scores is not None:
                for context, score in zip(contexts, scores[question["id"]], strict=False):
                    context["retriever_score"] = score
            kept = {name: question[name] for name in QUESTION_COLUMNS if question.get(name)}
            file.write(json.dumps({**kept, "ctxs": contexts}, ensure_ascii=False) + "\n")


__all__ = ["load_reader_examples", "read_reader_rows", "write_ranked_examples"]
