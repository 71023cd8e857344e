"""A ranking of passages as examples for a reader."""

import json
import os


KEPT = ("id", "question", "answers", "lang", "passage_ids")  # of a question


def write_ranked_examples(path, questions, passages, rankings, n_context=100, scores=None):
    r"""
    Write questions with the passages that were found for them as [`load_reader_examples`] reads them: JSON lines,
    beside the file first, so that what has its name is whole.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `question` and perhaps `answers`, `lang` and `passage_ids`, which are kept.
        passages (`datasets.Dataset`):
            Rows with `id`, `text` and perhaps `title`.
        rankings (`dict[str, list[str]]`):
            For each question's id the passages' ids, best first.
        n_context (`int`, *optional*, defaults to 100):
            Passages a question, the first so many.
        scores (`dict[str, list[float]]`, *optional*):
            The retriever's scores of those, kept as `retriever_score`; `score` is the reader's.

    Raises:
        ValueError: If a question has no ranking, or a ranking names a passage that is none; the file is not touched.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from datasets import Dataset
    >>> from hf_xlir.data.ranked_examples import write_ranked_examples

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
    unfinished = f"{os.fspath(path)}.unfinished"
    with open(unfinished, "w", encoding="utf-8") as file:
        for question in questions:
            found = rankings[question["id"]][:n_context]
            unknown = [id for id in found if id not in row_of_id]
            if unknown:
                raise ValueError(f"The ranking of the question `{question['id']}` has no passages: {unknown[:5]}.")
            rows = passages[[row_of_id[id] for id in found]] if found else {name: [] for name in columns}
            contexts = [
                {"id": id, "title": title or "", "text": text}
                for id, title, text in zip(found, rows.get("title", [""] * len(found)), rows["text"], strict=True)
            ]
            if scores is not None:
                for context, score in zip(contexts, scores[question["id"]], strict=False):
                    context["retriever_score"] = score
            kept = {name: question[name] for name in KEPT if question.get(name)}
            file.write(json.dumps({**kept, "ctxs": contexts}, ensure_ascii=False) + "\n")
    os.replace(unfinished, path)


__all__ = ["write_ranked_examples"]
