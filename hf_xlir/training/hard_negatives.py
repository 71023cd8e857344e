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
from ..utils.checks import check_choice, check_integer
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
    Training rows for [`RetrieverCollator`] with negatives from a ranking. It may come from the model in training by
    [`rank_passages`] (https://huggingface.co/papers/2007.00808), from BM25 by [`rank_by_bm25`] (DPR,
    https://huggingface.co/papers/2004.04906), or from any system by [`load_ranking`].

    The negatives of a question are its best-ranked wrong passages. A passage is wrong if it is neither a gold passage
    nor a copy of one and, with `exclude_answers`, contains none of the answers. If `depth` has too few, random wrong
    passages of lower rank are added, so that all rows have equally many. A log line states their number.

    Args:
        questions (`datasets.Dataset`):
            Columns `id`, `question`, `passage_ids` (gold passages; the first is the row's positive) and, for
            `exclude_answers`, `answers`.
        passages (`datasets.Dataset`):
            Columns `id`, `text` and optionally `title`.
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            By question id, the ids of passages with the best first; or the score of each passage, higher is better.
            Passages with equal scores keep their order.
        num_negatives (`int`, *optional*, defaults to 1):
            Number of negatives per question.
        depth (`tuple[int, int]`, *optional*, defaults to `(0, 100)`):
            First rank to use, from 0, and the rank to stop before. A higher first rank avoids passages that are
            relevant but not marked as such.
        absolute_margin (`float`, *optional*):
            Minimum difference between the positive's score and a negative's. If the positive is not ranked, no ranked
            passage is used.
        relative_margin (`float`, *optional*):
            The same as a share of the absolute value of the positive's score: with 0.05, a negative has at most 95 %
            of it (https://huggingface.co/papers/2407.15831).
        sampling (`"top"` or `"random"`, *optional*, defaults to `"top"`):
            Whether to use the first wrong passages within `depth` or random ones, as ANCE does.
        exclude_answers (`bool`, *optional*, defaults to `True`):
            Whether to exclude passages that contain an answer by [`has_answer`].
        seed (`int`, *optional*, defaults to 0):
            Seed of random choices. Those for a question do not depend on other questions.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, unless those of transformers are disabled.

    Returns:
        `datasets.Dataset`: In the order of `questions`, with columns `query`, `positive` (`{"title", "text"}`),
        `negatives` (a list of the same), and `id`, `lang` and `teacher_query` if `questions` has them.

    Raises:
        ValueError: If there are no questions or passages, a column is missing, two passages have the same id, a
        question
            has no gold passage, no ranking, no scores (for a margin) or no answer (with `exclude_answers`), a ranking
            names a passage twice, an id is unknown, too few passages are wrong, or an argument is out of range.

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
    choice = _Choice(num_negatives, depth, absolute_margin, relative_margin, sampling, exclude_answers, seed)
    negatives = _choose_negatives(questions, passages, rankings, choice, progress)
    return _rows(questions, passages, negatives)


def _choose_negatives(questions, passages, rankings, choice, progress=True):
    """The ids of each question's negatives, best first, then those drawn at random."""
    _check_inputs(questions, passages, choice.exclude_answers)
    asked = questions.select_columns(["id", "passage_ids"] + ["answers"] * choice.exclude_answers).to_list()
    ranked = {row["id"]: _ranking_of(row["id"], rankings, choice.has_margin) for row in asked}
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
                f"The question `{row['id']}` has {len(chosen)} wrong passages from rank {choice.depth[0]} on, fewer "
                f"than `num_negatives={choice.num_negatives}`: ask for fewer negatives, or give more passages."
            )
        negatives.append([read.ids[row] for row in chosen])
    if num_random:
        start, stop = choice.depth
        logger.warning(
            f"{num_random} of {choice.num_negatives * len(asked)} negatives are random passages, because ranks "
            f"{start} to {stop} have too few wrong ones. If these are many, rank more passages or widen `depth`."
        )
    return negatives


def _rows(questions, passages, negatives):
    """The training rows, from the ids of each question's negatives."""
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
    """Passages as `{"title", "text"}` by row. Each is read once and searched for the same answers once."""

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
        key = (row, *answers)  # questions in several languages have the same answers
        if key not in self.holds:
            self.holds[key] = has_answer(self(row)["text"], answers)
        return self.holds[key]


def _wrong(rows, gold, answers, read):
    """The rows whose passages are not gold and contain none of the answers; `answers=None` allows them."""
    for row in rows:
        if read(row) not in gold and (answers is None or not read.holds_answer(row, answers)):
            yield row


def _draw(number, generator):
    """Each number below `number` once, in random order, without a list of them."""
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
            f"{len(unknown)} ids of gold or ranked passages are not in `passages`, such as {unknown[:5]}: rank these "
            "passages instead."
        )
    return row_of_id


def _check_inputs(questions, passages, exclude_answers):
    """Raise unless questions and passages can be mined."""
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
class _Choice:
    """Which passages of a ranking may be negatives: arguments of [`mine_hard_negatives`], which explains them."""

    num_negatives: int = 1
    depth: tuple[int, int] = (0, 100)
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: str = "top"
    exclude_answers: bool = True
    seed: int = 0

    def __post_init__(self):
        check_integer("num_negatives", self.num_negatives)
        if len(self.depth) != 2 or not 0 <= self.depth[0] < self.depth[1]:
            raise ValueError(
                f"`depth` must be a first rank from 0 and a higher rank to stop before, got {self.depth}."
            )
        for name in ("absolute_margin", "relative_margin"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        check_choice("sampling", self.sampling, SAMPLING)

    @property
    def has_margin(self):
        """Whether scores are needed."""
        return self.absolute_margin is not None or self.relative_margin is not None

    def highest_score(self, positive):
        """The highest score that a negative may have, given the positive's."""
        absolute, relative = self.absolute_margin or 0.0, self.relative_margin or 0.0
        return positive - max(absolute, relative * abs(positive))

    def candidates(self, ids, scores, positive):
        """
        The ids that may be negatives, best first, and those that may not even be drawn at random, because they rank
        above the end of `depth` or score too close to the positive.
        """
        start, stop = self.depth
        close = set()
        if self.has_margin:
            # an unranked positive is below all ranked passages
            highest = self.highest_score(scores[ids.index(positive)]) if positive in ids else -math.inf
            close = {id for id, score in zip(ids, scores, strict=True) if score > highest}
        return [id for id in ids[start:stop] if id not in close], close.union(ids[:stop])


def _ranking_of(question, rankings, needs_scores):
    """The passage ids of a question's ranking, best first, and their scores, which may be `None` unless needed."""
    ranked, scores = rankings, None
    if isinstance(rankings, RankedPassages):
        ranked, scores = rankings.rankings, rankings.scores.get(question)
    if question not in ranked:
        raise ValueError(f"The question `{question}` has no ranking: rank passages for all questions.")
    ids = ranked[question]
    if isinstance(ids, dict):
        if any(math.isnan(score) for score in ids.values()):
            raise ValueError(f"The ranking of the question `{question}` has a score that is NaN.")
        pairs = sorted(ids.items(), key=lambda pair: -pair[1])
        return [id for id, _ in pairs], [score for _, score in pairs]
    if not isinstance(ids, list | tuple):
        raise ValueError(
            f"The ranking of the question `{question}` must be a list of ids or scores by id, got "
            f"{type(ids).__name__}."
        )
    if len(set(ids)) < len(ids):
        twice = next(id for place, id in enumerate(ids) if id in ids[:place])
        raise ValueError(f"The ranking of the question `{question}` names the passage `{twice}` twice.")
    if needs_scores and (scores is None or len(scores) != len(ids)):
        raise ValueError(f"The ranking of the question `{question}` has no scores, which a margin needs.")
    return list(ids), scores


class HardNegativeRefresh(CheckpointedCallback):
    r"""
    A callback that mines the hard negatives of [`RetrieverTrainer`] again before an epoch, with the model as it is
    then (https://huggingface.co/papers/2007.00808). All processes share the work and train on the same rows.

    The trainer gets `rows` as its training dataset, whose content changes. Checkpoints contain the current negatives,
    so a run that is resumed within an epoch continues with them.

    Args:
        questions (`datasets.Dataset`):
            As for [`mine_hard_negatives`]. Each question is one row of every epoch.
        passages (`datasets.Dataset`):
            As for [`mine_hard_negatives`]. All of them are encoded each time.
        every (`int`, *optional*, defaults to 1):
            Number of epochs between two refreshes.
        first_rows (`datasets.Dataset`, *optional*):
            Rows to train on until the second mining, such as rows mined with BM25, one per question. By default the
            first epoch is mined with the model as well.
        batch_size (`int`, *optional*, defaults to 64):
            Number of texts to encode at once.
        choice:
            `num_negatives`, `depth`, `absolute_margin`, `relative_margin`, `sampling`, `exclude_answers` and `seed` of
            [`mine_hard_negatives`]. Passages are ranked to the end of `depth`. Random choices differ between epochs.

    Raises:
        ValueError: As [`mine_hard_negatives`] raises, or if the number of `first_rows` is not that of the questions.

    Example:
    ```python
    >>> from hf_xlir.training import HardNegativeRefresh, RetrieverTrainer

    >>> negatives = HardNegativeRefresh(questions, passages, depth=(0, 50))  # doctest: +SKIP
    >>> trainer = RetrieverTrainer(  # doctest: +SKIP
    ...     model, args, processor, train_dataset=negatives.rows, callbacks=[negatives]
    ... )

    ```
    """

    def __init__(self, questions, passages, *, every=1, first_rows=None, batch_size=64, **choice):
        self.choice = _Choice(**choice)
        _check_inputs(questions, passages, self.choice.exclude_answers)
        check_integer("every", every)
        if first_rows is not None and len(first_rows) != len(questions):
            raise ValueError(
                f"`first_rows` must have one row per question, {len(questions)} in all, got {len(first_rows)}."
            )
        self.questions, self.passages = questions, passages
        self.every, self.first_rows, self.batch_size = every, first_rows, batch_size
        self.rows = _MinedRows(len(questions))
        self.load_state(None)

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Check that the trainer uses the rows."""
        if train_dataloader.dataset is not self.rows:
            raise ValueError("The trainer's `train_dataset` must be the `rows` of its `HardNegativeRefresh`.")
        if args.dataloader_persistent_workers and args.dataloader_num_workers:
            raise ValueError("`dataloader_persistent_workers=True` keeps copies of old rows: leave it out.")

    def on_epoch_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        """Mine if the epoch needs new negatives."""
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
        self._use(epoch, _choose_negatives(self.questions, self.passages, rankings, choice, progress=False))
        logger.info(f"Mined the hard negatives of {len(self.questions)} questions for epoch {epoch}.")

    def save_state(self, folder):
        """Write the current negatives."""
        state = {"epoch": self.epoch, "questions": self.questions["id"][:], "negatives": self.negatives}
        (folder / STATE).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    def load_state(self, folder):
        """Read the negatives of a checkpoint, or begin anew."""
        if folder is None:
            self._use(None if self.first_rows is None else 0, None)
            return
        if not (folder / STATE).exists():
            raise ValueError(f"The checkpoint `{folder}` was written without `HardNegativeRefresh`: begin anew.")
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["questions"] != self.questions["id"][:]:
            raise ValueError(f"The checkpoint `{folder}` has negatives for other questions: begin anew.")
        self._use(state["epoch"], state["negatives"])

    def _use(self, epoch, negatives):
        """Train on the negatives of an epoch; `None` stands for the first rows."""
        self.epoch, self.negatives = epoch, negatives
        self.rows.current = self.first_rows
        if negatives is not None:
            self.rows.current = _rows(self.questions, self.passages, negatives)


class _MinedRows(torch.utils.data.Dataset):
    """The rows of the current epoch."""

    def __init__(self, number):
        self.number = number
        self.current = None

    def __len__(self):
        return self.number

    def __getitem__(self, place):
        return self._mined()[place]

    def __getitems__(self, places):
        """The rows at several positions, read at once."""
        return self._mined().__getitems__(places)

    def _mined(self):
        if self.current is None:
            raise ValueError("The rows are mined when an epoch begins: pass the `HardNegativeRefresh` to `callbacks`.")
        return self.current


__all__ = ["HardNegativeRefresh", "mine_hard_negatives"]
