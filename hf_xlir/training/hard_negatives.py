"""Hard negatives: passages that a retriever ranks high for a question and that do not answer it."""

import random
from itertools import islice

from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.ids import RecordsById
from ..evaluation.answers import has_answer
from .negative_choice import NegativeChoice, ranking_of


logger = logging.get_logger(__name__)

PASSAGE = {"title": Value("string"), "text": Value("string")}
CARRIED_COLUMNS = ("id", "lang", "teacher_query")


def mine_hard_negatives(
    questions,
    passages,
    rankings,
    *,
    num_negatives=1,
    depth=(0, 100),
    absolute_margin=None,
    relative_margin=None,
    sampling="top",
    exclude_answers=True,
    seed=0,
    progress=True,
):
    r"""
    Training rows for [`RetrieverCollator`] whose negatives come from a ranking: that of the model in training
    (https://huggingface.co/papers/2007.00808) by [`rank_passages`], of BM25 (DPR,
    https://huggingface.co/papers/2004.04906) by [`rank_by_bm25`], or of any system by [`load_ranking`].

    A question's negatives are its best-ranked passages that are wrong: not one of its gold passages, no copy of one,
    and, with `exclude_answers`, without any of its answers. By default that is one: the first passage if it is wrong,
    else the next one that is. Where `depth` holds too few, random wrong passages of lower rank fill up, so that all
    rows have equally many; a log line says how many.

    Args:
        questions (`datasets.Dataset`):
            Columns `id`, `question`, `passage_ids` (the gold passages; the first one is the row's positive) and, for
            `exclude_answers`, `answers`.
        passages (`datasets.Dataset`):
            Columns `id`, `text` and optionally `title`.
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            For each question's id, passages' ids best first; or each passage's score, higher is better, of equal
            scores the first one first.
        num_negatives (`int`, *optional*, defaults to 1):
            Negatives a question.
        depth (`tuple[int, int]`, *optional*, defaults to `(0, 100)`):
            First rank to look at, from 0, and the one to stop before. Starting deeper avoids passages that are
            relevant but not known to be.
        absolute_margin (`float`, *optional*):
            How far a negative's score must at least be below the positive's. Where the positive is not ranked, no
            ranked passage is below it.
        relative_margin (`float`, *optional*):
            The same as a share of the positive's score: with 0.05 a negative has at most 95 % of it
            (https://huggingface.co/papers/2407.15831). If that is negative, a share of its absolute value.
        sampling (`"top"` or `"random"`, *optional*, defaults to `"top"`):
            Whether to take the first wrong passages within `depth`, or random ones of them, as ANCE does.
        exclude_answers (`bool`, *optional*, defaults to `True`):
            Whether a passage that holds one of the answers, by [`has_answer`], is no negative.
        seed (`int`, *optional*, defaults to 0):
            Of whatever is random. What a question gets does not depend on the other questions.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, unless the bars of Transformers are switched off.

    Returns:
        `datasets.Dataset`: In the order of `questions`, with columns `query`, `positive` (`{"title", "text"}`) and
        `negatives` (a list of the same), and `id`, `lang` and `teacher_query` where `questions` has them.

    Raises:
        ValueError: If there are no questions or passages, a column is missing, two passages have the same id, a
            question has no gold passage, no ranking, none with scores (for a margin) or (with `exclude_answers`) no
            answer, a ranking names a passage twice, an id is unknown, too few passages are wrong, or an argument is
            out of range.

    Example:
    ```python
    >>> from datasets import Dataset
    >>> from hf_xlir.training.hard_negatives import mine_hard_negatives

    >>> texts = ["Paris lies on the Seine.", "The Seine flows north.", "Lyon lies on the Rhône."]
    >>> passages = Dataset.from_dict({"id": ["a", "b", "c"], "text": texts})
    >>> question = {"id": "q", "question": "On which river is Paris?", "answers": ["Seine"], "passage_ids": ["a"]}
    >>> rows = mine_hard_negatives(Dataset.from_list([question]), passages, {"q": ["a", "b", "c"]}, progress=False)
    >>> rows[0]["negatives"]
    [{'title': '', 'text': 'Lyon lies on the Rhône.'}]

    ```
    """
    choice = NegativeChoice(num_negatives, depth, absolute_margin, relative_margin, sampling, exclude_answers, seed)
    negatives = choose_hard_negatives(questions, passages, rankings, choice, progress)
    return hard_negative_rows(questions, passages, negatives)


def choose_hard_negatives(questions, passages, rankings, choice, progress=True):
    r"""
    The negatives of [`mine_hard_negatives`], as ids.

    Args:
        questions (`datasets.Dataset`):
            As for [`mine_hard_negatives`].
        passages (`datasets.Dataset`):
            As for [`mine_hard_negatives`].
        rankings ([`RankedPassages`] or `dict`):
            As for [`mine_hard_negatives`].
        choice ([`NegativeChoice`]):
            The rest of its arguments.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `list[list[str]]`: For each question the ids of its negatives, best first, then those drawn at random.
    """
    check_questions_and_passages(questions, passages, choice.exclude_answers)
    asked = questions.select_columns(["id", "passage_ids"] + ["answers"] * choice.exclude_answers).to_list()
    ranked = {row["id"]: ranking_of(row["id"], rankings, choice.has_margin) for row in asked}
    looked_up = {id for row in asked for id in (*row["passage_ids"], *ranked[row["id"]][0])}
    row_of_id = _rows_of_ids(passages, looked_up)

    read = _PassageReader(passages)
    negatives, num_random = [], 0
    show = progress and logging.is_progress_bar_enabled()
    for row in tqdm(asked, desc="Hard negatives", unit="question", disable=not show):
        generator = random.Random(f"{choice.seed} {row['id']}")
        gold = [read(row_of_id[id]) for id in row["passage_ids"]]
        candidates, excluded = choice.candidates(*ranked[row["id"]], row["passage_ids"][0])
        if choice.sampling == "random":
            generator.shuffle(candidates)
        candidates = (row_of_id[id] for id in candidates)
        chosen = list(islice(_wrong(candidates, gold, row.get("answers"), read), choice.num_negatives))
        missing = choice.num_negatives - len(chosen)
        if missing:
            excluded = {row_of_id[id] for id in excluded}
            others = (drawn for drawn in _draw(len(passages), generator) if drawn not in excluded)
            chosen += islice(_wrong(others, gold, row.get("answers"), read), missing)
            num_random += missing
        if len(chosen) < choice.num_negatives:
            raise ValueError(
                f"The question `{row['id']}` has {len(chosen)} wrong passages from rank {choice.depth[0]} on, but "
                f"`num_negatives` is {choice.num_negatives}: ask for fewer, or give more passages."
            )
        negatives.append([read.ids[row] for row in chosen])
    if num_random:
        start, stop = choice.depth
        logger.warning(
            f"{num_random} of {choice.num_negatives * len(asked)} negatives are random passages, since ranks {start} "
            f"to {stop} held too few wrong ones. Rank more passages or widen `depth` if that is a large share."
        )
    return negatives


def hard_negative_rows(questions, passages, negatives):
    r"""
    Training rows from the ids of their negatives.

    Args:
        questions (`datasets.Dataset`):
            As for [`mine_hard_negatives`].
        passages (`datasets.Dataset`):
            As for [`mine_hard_negatives`].
        negatives (`list[list[str]]`):
            Of each question, equally many.

    Returns:
        `datasets.Dataset`: What [`mine_hard_negatives`] returns.
    """
    positives = [of_row[0] for of_row in questions["passage_ids"]]
    row_of_id = _rows_of_ids(passages, {*positives, *(id for of_row in negatives for id in of_row)})
    read = _PassageReader(passages)
    mined = Dataset.from_dict(
        {
            "positive": [read(row_of_id[id]) for id in positives],
            "negatives": [[read(row_of_id[id]) for id in of_row] for of_row in negatives],
        },
        features=Features({"positive": PASSAGE, "negatives": List(PASSAGE)}),
    )
    carried = [name for name in CARRIED_COLUMNS if name in questions.column_names]
    queries = questions.select_columns([*carried, "question"]).rename_column("question", "query")
    return concatenate_datasets([queries, mined], axis=1)


class _PassageReader:
    """Passages as `{"title", "text"}` by row, each read once; whether one holds an answer is looked up once, too."""

    def __init__(self, passages):
        names = [name for name in ("id", "title", "text") if name in passages.column_names]
        self.passages = passages.select_columns(names).with_format(None)
        self.seen = {}
        self.ids = {}
        self.holds = {}

    def __call__(self, row):
        if row not in self.seen:
            passage = self.passages[row]
            self.seen[row] = {"title": passage.get("title") or "", "text": passage["text"]}
            self.ids[row] = passage["id"]
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
    row_of_id = RecordsById(passages).find_rows(wanted)
    unknown = sorted(str(id) for id in wanted - row_of_id.keys())
    if unknown:
        raise ValueError(
            f"{len(unknown)} ids of gold or ranked passages are not in `passages`, such as {unknown[:5]}: rank the "
            "passages that are given here."
        )
    return row_of_id


def check_questions_and_passages(questions, passages, exclude_answers):
    """Raise unless they can be mined."""
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
    for id, gold in zip(questions["id"], questions["passage_ids"], strict=True):
        if not gold:
            raise ValueError(f"The question `{id}` has no gold passage in `passage_ids`: leave it out.")
    for id, answers in zip(questions["id"], questions["answers"], strict=True) if exclude_answers else ():
        if not answers:
            raise ValueError(f"The question `{id}` has no answers: leave it out, or set `exclude_answers=False`.")


__all__ = ["choose_hard_negatives", "hard_negative_rows", "mine_hard_negatives"]
