"""Hard negatives: passages that a retriever ranks high for a question and that do not answer it."""

import random
from itertools import islice

from datasets import Dataset, Features, List, Value, concatenate_datasets
from transformers.utils import logging

from ..evaluation.answers import has_answer


logger = logging.get_logger(__name__)

PASSAGE = {"title": Value("string"), "text": Value("string")}
CARRIED_COLUMNS = ("id", "lang", "teacher_query")
ROWS_PER_READ = 10_000


def mine_hard_negatives(
    questions, passages, rankings, *, num_negatives=1, depth=(0, 100), exclude_answers=True, seed=0
):
    r"""
    Training rows for [`RetrieverCollator`] whose negatives come from a ranking, such as that of the model in training
    (https://huggingface.co/papers/2007.00808) or BM25's (DPR, https://huggingface.co/papers/2004.04906).

    A question's negatives are its best-ranked passages that are wrong: not one of its gold passages, no copy of one,
    and, with `exclude_answers`, without any of its answers. Where `depth` holds too few, random wrong passages of
    lower rank fill up, so that all rows have equally many; a log line says how many.

    Args:
        questions (`datasets.Dataset`):
            Columns `id`, `question`, `passage_ids` (the gold passages; the first one is the row's positive) and, for
            `exclude_answers`, `answers`.
        passages (`datasets.Dataset`):
            Columns `id`, `text` and optionally `title`.
        rankings (`dict[str, list[str]]`):
            For each question's id, passages' ids best first, as [`rank_passages`] gives them.
        num_negatives (`int`, *optional*, defaults to 1):
            Negatives a question.
        depth (`tuple[int, int]`, *optional*, defaults to `(0, 100)`):
            First rank to look at, from 0, and the one to stop before. Starting deeper avoids passages that are
            relevant but not known to be.
        exclude_answers (`bool`, *optional*, defaults to `True`):
            Whether a passage that holds one of the answers, by [`has_answer`], is no negative.
        seed (`int`, *optional*, defaults to 0):
            Of the random passages. What a question gets does not depend on the other questions.

    Returns:
        `datasets.Dataset`: In the order of `questions`, with columns `query`, `positive` (`{"title", "text"}`) and
        `negatives` (a list of the same), and `id`, `lang` and `teacher_query` where `questions` has them.

    Raises:
        ValueError: If there are no questions or passages, a column is missing, two passages have the same id, a
            question has no gold passage, no ranking or (with `exclude_answers`) no answer, an id is unknown, too few
            passages are wrong, or an argument is out of range.

    Example:
    ```python
    >>> from datasets import Dataset
    >>> from hf_xlir.training.hard_negatives import mine_hard_negatives

    >>> texts = ["Paris lies on the Seine.", "The Seine flows north.", "Lyon lies on the Rhône."]
    >>> passages = Dataset.from_dict({"id": ["a", "b", "c"], "text": texts})
    >>> question = {"id": "q", "question": "On which river is Paris?", "answers": ["Seine"], "passage_ids": ["a"]}
    >>> rows = mine_hard_negatives(Dataset.from_list([question]), passages, {"q": ["a", "b", "c"]})
    >>> rows[0]["negatives"]
    [{'title': '', 'text': 'Lyon lies on the Rhône.'}]

    ```
    """
    _check_arguments(questions, passages, num_negatives, depth, exclude_answers)
    start, stop = depth
    asked = questions.select_columns(["id", "passage_ids"] + ["answers"] * exclude_answers).to_list()
    _check_questions(asked, rankings)
    ranked = {row["id"]: rankings[row["id"]][:stop] for row in asked}
    row_of_id = _rows_of_ids(passages, {id for row in asked for id in (*row["passage_ids"], *ranked[row["id"]])})

    read = _PassageReader(passages)
    positives, negatives, num_random = [], [], 0
    for row in asked:
        gold = [read(row_of_id[id]) for id in row["passage_ids"]]
        candidates = [row_of_id[id] for id in ranked[row["id"]]]
        chosen = list(islice(_wrong(candidates[start:], gold, row.get("answers"), read), num_negatives))
        missing = num_negatives - len(chosen)
        if missing:
            drawn = _draw(len(passages), random.Random(f"{seed} {row['id']}"))
            others = (i for i in drawn if i not in candidates)
            chosen += islice(_wrong(others, gold, row.get("answers"), read), missing)
            num_random += missing
        if len(chosen) < num_negatives:
            raise ValueError(
                f"The question `{row['id']}` has {len(chosen)} wrong passages from rank {start} on, but "
                f"`num_negatives` is {num_negatives}: ask for fewer, or give more passages."
            )
        positives.append(gold[0])
        negatives.append([read(i) for i in chosen])
    if num_random:
        logger.warning(
            f"{num_random} of {num_negatives * len(asked)} negatives are random passages, since ranks {start} to "
            f"{stop} held too few wrong ones. Rank more passages or widen `depth` if that is a large share."
        )
    mined = Dataset.from_dict(
        {"positive": positives, "negatives": negatives},
        features=Features({"positive": PASSAGE, "negatives": List(PASSAGE)}),
    )
    carried = [name for name in CARRIED_COLUMNS if name in questions.column_names]
    queries = questions.select_columns([*carried, "question"]).rename_column("question", "query")
    return concatenate_datasets([queries, mined], axis=1)


class _PassageReader:
    """Passages as `{"title", "text"}` by row, each read once; whether one holds an answer is looked up once, too."""

    def __init__(self, passages):
        names = [name for name in ("title", "text") if name in passages.column_names]
        self.passages = passages.select_columns(names).with_format(None)
        self.seen = {}
        self.holds = {}

    def __call__(self, row):
        if row not in self.seen:
            passage = self.passages[row]
            self.seen[row] = {"title": passage.get("title") or "", "text": passage["text"]}
        return self.seen[row]

    def holds_answer(self, row, answers):
        key = (row, *answers)  # one fact is asked in many languages
        if key not in self.holds:
            self.holds[key] = has_answer(self(row)["text"], answers)
        return self.holds[key]


def _wrong(rows, gold, answers, read):
    """Those rows, in their order, whose passages are neither gold nor hold one of the answers (`None`: whatever)."""
    for row in rows:
        if read(row) not in gold and (answers is None or not read.holds_answer(row, answers)):
            yield row


def _draw(number, generator):
    """Yield every number below `number` once, in random order, without listing them."""
    seen = set()
    while len(seen) < number:
        drawn = generator.randrange(number)
        if drawn not in seen:
            seen.add(drawn)
            yield drawn


def _rows_of_ids(passages, wanted):
    """The rows of the passages with the wanted ids."""
    row_of_id = {}
    ids = passages.select_columns("id").with_format(None)
    for start in range(0, len(ids), ROWS_PER_READ):
        for row, id in enumerate(ids[start : start + ROWS_PER_READ]["id"], start):
            if id in row_of_id:
                raise ValueError(f"Two passages have the id `{id}`: ids must be unique.")
            if id in wanted:
                row_of_id[id] = row
    unknown = sorted(str(id) for id in wanted - row_of_id.keys())
    if unknown:
        raise ValueError(
            f"{len(unknown)} ids of gold or ranked passages are not in `passages`, such as {unknown[:5]}: rank the "
            "passages that are given here."
        )
    return row_of_id


def _check_arguments(questions, passages, num_negatives, depth, exclude_answers):
    columns = {"questions": ["id", "question", "passage_ids"] + ["answers"] * exclude_answers}
    columns["passages"] = ["id", "text"]
    for (name, needed), dataset in zip(columns.items(), (questions, passages), strict=True):
        if not isinstance(dataset, Dataset):
            raise ValueError(f"`{name}` must be a `datasets.Dataset`, got {type(dataset).__name__}.")
        missing = [column for column in needed if column not in dataset.column_names]
        if missing:
            raise ValueError(f"`{name}` lacks the columns {missing}; it has {dataset.column_names}.")
        if not len(dataset):
            raise ValueError(f"`{name}` is empty: give at least one row.")
    if num_negatives < 1:
        raise ValueError(f"`num_negatives` must be at least 1, got {num_negatives}.")
    if len(depth) != 2 or not 0 <= depth[0] < depth[1]:
        raise ValueError(f"`depth` must be a rank from 0 and a higher one to stop before, got {depth}.")


def _check_questions(questions, rankings):
    for row in questions:
        id = row["id"]
        if not row["passage_ids"]:
            raise ValueError(f"The question `{id}` has no gold passage in `passage_ids`: leave it out.")
        if "answers" in row and not row["answers"]:
            raise ValueError(f"The question `{id}` has no answers: leave it out, or set `exclude_answers=False`.")
        if id not in rankings:
            raise ValueError(f"The question `{id}` has no ranking: rank passages for all questions.")
        if not isinstance(rankings[id], list | tuple):
            raise ValueError(
                f"The ranking of question `{id}` must be a list of ids, got {type(rankings[id]).__name__}."
            )


__all__ = ["mine_hard_negatives"]
