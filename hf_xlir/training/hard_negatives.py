"""Hard negatives: passages that a retriever ranks high for a question and that do not answer it."""

import json
import math
import random
from dataclasses import dataclass, replace
from itertools import islice

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from datasets import Dataset, Features, List, Value, concatenate_datasets
from transformers.utils import logging

from ..data.ids import RecordsById
from ..evaluation import RankedPassages
from ..evaluation.answers import has_answer
from ..utils.progress import progress_bar
from .checkpoints import CheckpointedCallback
from .retrieval_evaluation import rank_passages_together


logger = logging.get_logger(__name__)

PASSAGE = {"title": Value("string"), "text": Value("string")}
CARRIED_COLUMNS = ("id", "lang", "teacher_query")
SAMPLING = ("top", "random")
STATE = "hard_negatives.json"


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
    >>> from hf_xlir.training import mine_hard_negatives

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
    for row in progress_bar(asked, desc="Hard negatives", unit="question", show=progress):
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


@dataclass(frozen=True)
class NegativeChoice:
    r"""
    How negatives are chosen from a ranking. [`mine_hard_negatives`] says what the fields mean, and has their defaults.

    Args:
        num_negatives (`int`):
            Negatives a question.
        depth (`tuple[int, int]`):
            First rank to look at, from 0, and the one to stop before.
        absolute_margin (`float`, *optional*):
            How far a negative's score must at least be below the positive's.
        relative_margin (`float`, *optional*):
            The same as a share of the positive's score.
        sampling (`"top"` or `"random"`):
            Whether to take the first, or random ones.
        exclude_answers (`bool`):
            Whether a passage that holds an answer is no negative.
        seed (`int`):
            Of whatever is random.

    Raises:
        ValueError: If a field is out of range.
    """

    num_negatives: int = 1
    depth: tuple[int, int] = (0, 100)
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: str = "top"
    exclude_answers: bool = True
    seed: int = 0

    def __post_init__(self):
        if self.num_negatives < 1:
            raise ValueError(f"`num_negatives` must be at least 1, got {self.num_negatives}.")
        if len(self.depth) != 2 or not 0 <= self.depth[0] < self.depth[1]:
            raise ValueError(f"`depth` must be a rank from 0 and a higher one to stop before, got {self.depth}.")
        for name in ("absolute_margin", "relative_margin"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be a number from 0, got {getattr(self, name)}.")
        if self.sampling not in SAMPLING:
            raise ValueError(f"`sampling` must be one of {SAMPLING}, got {self.sampling!r}.")

    @property
    def has_margin(self):
        """Whether scores matter."""
        return self.absolute_margin is not None or self.relative_margin is not None

    def highest_score(self, positive):
        """The highest score that a negative may have, from the positive's."""
        absolute, relative = self.absolute_margin or 0.0, self.relative_margin or 0.0
        return positive - max(absolute, relative * abs(positive))

    def candidates(self, ids, scores, positive):
        r"""
        What rank and score allow.

        Args:
            ids (`list[str]`):
                A question's passages, best first.
            scores (`list[float]`, *optional*):
                Their scores; needed for a margin.
            positive (`str`):
                The id of the question's positive.

        Returns:
            `tuple[list[str], set[str]]`: Passages that may be negatives, best first; and those that may not even be
            drawn at random, since they rank above the depth's end or are too close to the positive.
        """
        start, stop = self.depth
        close = set()
        if self.has_margin:
            # an unranked positive is below all ranked passages, so that none of them is below it
            highest = self.highest_score(scores[ids.index(positive)]) if positive in ids else -math.inf
            close = {id for id, score in zip(ids, scores, strict=True) if score > highest}
        return [id for id in ids[start:stop] if id not in close], close.union(ids[:stop])


def ranking_of(question, rankings, needs_scores):
    r"""
    The ranking of one question, whatever holds it.

    Args:
        question (`str`):
            The question's id.
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            Rankings of questions.
        needs_scores (`bool`):
            Whether one without scores is an error.

    Returns:
        `tuple[list[str], list[float] | None]`: Passages' ids, best first, and their scores, falling.

    Raises:
        ValueError: If there is none, it has no scores or a score that is NaN, or names a passage twice.
    """
    ranked, scores = rankings, None
    if isinstance(rankings, RankedPassages):
        ranked, scores = rankings.rankings, rankings.scores.get(question)
    if question not in ranked:
        raise ValueError(f"The question `{question}` has no ranking: rank passages for all questions.")
    ids = ranked[question]
    if isinstance(ids, dict):
        if any(math.isnan(score) for score in ids.values()):
            raise ValueError(f"The ranking of question `{question}` has a score that is NaN.")
        pairs = sorted(ids.items(), key=lambda pair: -pair[1])
        return [id for id, _ in pairs], [score for _, score in pairs]
    if not isinstance(ids, list | tuple):
        raise ValueError(
            f"The ranking of question `{question}` must be a list of ids, or scores by id, got {type(ids).__name__}."
        )
    if len(set(ids)) < len(ids):
        twice = next(id for place, id in enumerate(ids) if id in ids[:place])
        raise ValueError(f"The ranking of question `{question}` names the passage `{twice}` twice.")
    if needs_scores and (scores is None or len(scores) != len(ids)):
        raise ValueError(f"The ranking of question `{question}` has no scores, which a margin needs.")
    return list(ids), scores


class HardNegativeRefresh(CheckpointedCallback):
    r"""
    Mines the hard negatives of [`RetrieverTrainer`] anew before an epoch, with the model as it is then
    (https://huggingface.co/papers/2007.00808). All processes share the work, and train on the same rows.

    The trainer takes `rows` as its training dataset, which stays one object while what it holds changes. Checkpoints
    have the negatives in use, so that a run which is resumed within an epoch goes on with them.

    Args:
        questions (`datasets.Dataset`):
            As for [`mine_hard_negatives`]: each one is a row of every epoch.
        passages (`datasets.Dataset`):
            As for [`mine_hard_negatives`]; all of them are encoded each time.
        every (`int`, *optional*, defaults to 1):
            Epochs between two refreshes.
        first_rows (`datasets.Dataset`, *optional*):
            Rows for the epochs before the second mining, such as those mined with BM25, as many as questions. By
            default the first epoch is mined with the model, too.
        batch_size (`int`, *optional*, defaults to 64):
            How many texts to encode at once.
        choice:
            Arguments of [`mine_hard_negatives`] that say which passages are negatives. `depth` ends where the
            ranking does; what is random differs from epoch to epoch.

    Raises:
        ValueError: As [`mine_hard_negatives`] raises, or if `first_rows` are not as many as the questions.

    Example:
    ```python
    >>> from hf_xlir import RetrieverTrainer
    >>> from hf_xlir.training import HardNegativeRefresh

    >>> negatives = HardNegativeRefresh(questions, passages, depth=(0, 50))  # doctest: +SKIP
    >>> trainer = RetrieverTrainer(  # doctest: +SKIP
    ...     model, args, processor, train_dataset=negatives.rows, callbacks=[negatives]
    ... )

    ```
    """

    def __init__(self, questions, passages, *, every=1, first_rows=None, batch_size=64, **choice):
        self.choice = NegativeChoice(**choice)
        check_questions_and_passages(questions, passages, self.choice.exclude_answers)
        if every < 1:
            raise ValueError(f"`every` must be a number of epochs from 1, got {every}.")
        if first_rows is not None and len(first_rows) != len(questions):
            raise ValueError(
                f"`first_rows` must be as many as `questions`, {len(questions)}, since an epoch has a fixed length; "
                f"got {len(first_rows)}."
            )
        self.questions, self.passages = questions, passages
        self.every, self.first_rows, self.batch_size = every, first_rows, batch_size
        self.rows = MinedRows(len(questions))
        self.load_state(None)

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Check that the trainer trains on the rows."""
        if train_dataloader.dataset is not self.rows:
            raise ValueError("The trainer's `train_dataset` must be the `rows` of its `HardNegativeRefresh`.")
        if args.dataloader_persistent_workers and args.dataloader_num_workers:
            raise ValueError("`dataloader_persistent_workers=True` keeps copies of old rows: leave it out.")

    def on_epoch_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        """Mine, if the epoch wants other negatives than there are."""
        epoch = int(state.epoch or 0)
        epoch -= epoch % self.every
        if epoch == self.epoch:
            return
        rankings = rank_passages_together(
            model,
            processing_class,
            self.questions,
            self.passages,
            self.choice.depth[1],
            share=AcceleratorState().distributed_type is not DistributedType.FSDP,
            batch_size=self.batch_size,
            progress=args.process_index == 0 and not args.disable_tqdm,
        )
        choice = replace(self.choice, seed=self.choice.seed + epoch)
        self._use(epoch, choose_hard_negatives(self.questions, self.passages, rankings, choice, progress=False))
        logger.info(f"Mined the hard negatives of {len(self.questions)} questions for epoch {epoch}.")

    def save_state(self, folder):
        """Write the negatives in use."""
        state = {"epoch": self.epoch, "questions": self.questions["id"][:], "negatives": self.negatives}
        (folder / STATE).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    def load_state(self, folder):
        """Take the negatives of a checkpoint, or begin anew."""
        if folder is None:
            self._use(None if self.first_rows is None else 0, None)
            return
        if not (folder / STATE).exists():
            raise ValueError(f"The checkpoint `{folder}` is of a training without `HardNegativeRefresh`.")
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["questions"] != self.questions["id"][:]:
            raise ValueError(f"The checkpoint `{folder}` has the hard negatives of other questions.")
        self._use(state["epoch"], state["negatives"])

    def _use(self, epoch, negatives):
        """Train on these negatives, mined for that epoch; `None` stands for the first rows."""
        self.epoch, self.negatives = epoch, negatives
        self.rows.current = self.first_rows
        if negatives is not None:
            self.rows.current = hard_negative_rows(self.questions, self.passages, negatives)


class MinedRows(torch.utils.data.Dataset):
    """The rows of the present epoch, as many in each."""

    def __init__(self, number):
        self.number = number
        self.current = None

    def __len__(self):
        return self.number

    def __getitem__(self, place):
        return self._mined()[place]

    def __getitems__(self, places):
        """The rows at several places, read at once."""
        return self._mined().__getitems__(places)

    def _mined(self):
        if self.current is None:
            raise ValueError("Hard negatives are mined when the epoch begins: add the `HardNegativeRefresh` callback.")
        return self.current


__all__ = ["HardNegativeRefresh", "mine_hard_negatives"]
