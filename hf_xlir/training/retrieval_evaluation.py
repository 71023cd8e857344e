"""Retrieval during training: rankings that all processes compute together, and their metrics."""

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset, IterableDataset
from torch.random import fork_rng
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput, denumpify_detensorize

from ..evaluation import (
    RankedPassages,
    answer_recall_at_k,
    ndcg_at_k,
    rank_passages,
    recall_at_k,
    reciprocal_rank,
    success_at_k,
)
from ..evaluation.rankings import texts_by_id
from ..evaluation.retrieval_runs import QUESTIONS_PER_BLOCK, check_questions, search_exactly
from ..index import LateInteractionIndex, QueryEmbeddings, TokenEmbeddings, embed_passages, embed_queries
from ..index.checks import check_k
from ..index.passages import check_passages
from ..index.scoring import TopK
from ..utils.progress import progress_bar


CUTOFFS = (1, 5, 10, 20, 100)


class RetrievalPrediction(EvalPrediction):
    r"""
    What `compute_metrics` of [`RetrieverTrainer`] receives: `rankings, relevance = prediction` unpacks it.

    Args:
        predictions (`dict[str, list[str]]`):
            For each question's id the passages' ids, best first, over all evaluation passages.
        label_ids (`dict[str, list[str]]`, *optional*):
            For each question's id its gold passages' ids; `None` if the questions have answers instead.
        scores (`dict[str, list[float]]`):
            The ranked passages' scores, falling.
        questions (`datasets.Dataset`):
            The evaluation questions.
        passages (`datasets.Dataset`):
            The evaluation passages.

    Example:
    ```python
    >>> from hf_xlir.evaluation import recall_at_k

    >>> def compute_metrics(prediction):
    ...     rankings, relevance = prediction
    ...     return {"recall@3": recall_at_k(rankings, relevance, k=3)}

    ```
    """

    def __init__(self, predictions, label_ids, scores, questions, passages):
        super().__init__(predictions, label_ids)
        self.scores = scores
        self.questions = questions
        self.passages = passages


def retrieval_metrics(prediction):
    r"""
    What [`RetrieverTrainer`] computes by default: against gold passages `recall@k`, `success@k`, `mrr@10` and
    `ndcg@10`; for questions that have answers instead, `answer_recall@k`, the share of questions for which one of the
    first `k` passages contains an answer. `k` is 1, 5, 10, 20 and 100, as far as passages were ranked.

    Args:
        prediction ([`RetrievalPrediction`]):
            Rankings and what is relevant.

    Returns:
        `dict[str, float]`: Between 0 and 1.
    """
    rankings, relevance = prediction
    cutoffs = _cutoffs(max(map(len, rankings.values())))
    if relevance is None:
        recall = answer_recall_at_k(_texts(prediction), prediction.questions["answers"][:], k=cutoffs)
        return {f"answer_recall@{k}": value for k, value in recall.items()}
    metrics = {f"recall@{k}": recall_at_k(rankings, relevance, k) for k in cutoffs}
    metrics |= {f"success@{k}": success_at_k(rankings, relevance, k) for k in cutoffs}
    return metrics | {
        "mrr@10": reciprocal_rank(rankings, relevance, k=10),
        "ndcg@10": ndcg_at_k(rankings, relevance, k=10),
    }


class RetrievalEvaluationMixin:
    """
    A [`~transformers.Trainer`] with `eval_passages`, whose evaluation of a dataset with the column `question` is
    retrieval. Evaluation leaves the random state as it was: training is the same however often it is evaluated.
    """

    def __init__(self, *args, eval_passages=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_passages = eval_passages
        self._retrieval_metrics = {}  # the last of each dataset, by the prefix of their names

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """
        Evaluate; see [`~transformers.Trainer.evaluate`].

        Args:
            eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
                Questions to find passages for, or rows to compute the loss of. Of several datasets of questions the
                means of their metrics are reported, too, under the names that one dataset has.
            ignore_keys (`list[str]`, *optional*):
                Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`):
                What the metrics' names begin with.

        Returns:
            `dict[str, float]`: The metrics.
        """
        datasets = self.eval_dataset if eval_dataset is None else eval_dataset
        with fork_rng(devices=[]):  # data loaders draw on the CPU
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if isinstance(datasets, dict):
            names = [name for name, dataset in datasets.items() if _has_questions(dataset)]
            means = _means([self._retrieval_metrics[f"{metric_key_prefix}_{name}"] for name in names])
            if means:
                means = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
                self.log(means)
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, means)
                metrics |= means
        return metrics

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
        """Retrieval, if the data loader's dataset has questions; see [`~transformers.Trainer.evaluation_loop`]."""
        questions = dataloader.dataset
        if not _has_questions(questions):
            return super().evaluation_loop(
                dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
        check_evaluation(questions, self.eval_passages)
        with self.accelerator.autocast():
            rankings, scores = rank_passages_together(
                self.model,
                self.processing_class,
                questions,
                self.eval_passages,
                self.args.eval_k,
                share=not self.is_fsdp_enabled,
                batch_size=self.args.per_device_eval_batch_size,
                progress=self.is_world_process_zero() and not self.args.disable_tqdm,
            )
        relevance = None
        if "passage_ids" in questions.column_names:
            relevance = dict(zip(questions["id"], questions["passage_ids"], strict=True))
        compute = self.compute_metrics or retrieval_metrics
        metrics = compute(RetrievalPrediction(rankings, relevance, scores, questions, self.eval_passages))
        metrics = denumpify_detensorize(metrics)
        self._retrieval_metrics[metric_key_prefix] = metrics
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(rankings, relevance, metrics, len(questions))


def check_evaluation(questions, passages):
    r"""
    Raise unless the questions can be evaluated over the passages.

    Args:
        questions (`datasets.Dataset`):
            Columns `id`, `question`, and `passage_ids` (gold passages) or `answers`.
        passages (`datasets.Dataset`):
            Columns `id`, `text` and optionally `title`.

    Raises:
        ValueError: If there are no passages, a column is missing, a question has nothing to be found, or a gold
            passage is not among the passages.
    """
    if not isinstance(questions, Dataset):
        raise ValueError(f"Evaluation questions must be a `datasets.Dataset`, got {type(questions).__name__}.")
    if passages is None:
        raise ValueError("Evaluation questions need `eval_passages`, in which to find what answers them.")
    names = questions.column_names
    target = next((name for name in ("passage_ids", "answers") if name in names), None)
    if "id" not in names or target is None:
        raise ValueError(
            f"Evaluation questions need the columns `id`, `question`, and `passage_ids` or `answers`, got {names}."
        )
    ids = set(check_passages(passages)) if target == "passage_ids" else None
    for id, wanted in zip(questions["id"], questions[target], strict=True):
        if not wanted:
            raise ValueError(f"The evaluation question `{id}` has no {target}: leave it out.")
        unknown = [] if ids is None else [passage for passage in wanted if passage not in ids]
        if unknown:
            raise ValueError(f"The evaluation question `{id}` has gold passages not in `eval_passages`: {unknown}.")


def check_evaluation_arguments(args, eval_dataset, eval_passages, compute_metrics):
    """Raise if the trainer's arguments about evaluation do not go together; see [`RetrieverTrainer`]."""
    datasets = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
    questions = {name: dataset for name, dataset in datasets.items() if _has_questions(dataset)}
    for dataset in questions.values():
        check_evaluation(dataset, eval_passages)
    if eval_passages is not None and eval_dataset is not None and not questions:
        raise ValueError(
            "`eval_passages` need an `eval_dataset` of questions: columns `id`, `question`, and `passage_ids` or "
            "`answers`."
        )
    if compute_metrics is not None and eval_passages is None:
        raise ValueError("`compute_metrics` receives retrieval over `eval_passages`: give them, too.")
    if args.metric_for_best_model is None or compute_metrics is not None or not questions:
        return
    best = args.metric_for_best_model.removeprefix("eval_")
    known = _default_names(questions, min(args.eval_k, len(eval_passages)))
    known += [f"{name}_loss".lstrip("_") for name in datasets if name not in questions]
    if best not in known:
        raise ValueError(
            f"`metric_for_best_model` is {args.metric_for_best_model!r}, but evaluation computes {known}. Choose one "
            "of these, or give `compute_metrics`."
        )


def _has_questions(dataset):
    names = (dataset.column_names or ()) if isinstance(dataset, Dataset | IterableDataset) else ()
    return "question" in names and "query" not in names


def _cutoffs(depth):
    return [k for k in CUTOFFS if k <= depth] or [depth]


def _default_names(questions, depth):
    """Names of the metrics that are computed by default for a `dict` of questions."""
    cutoffs, by_dataset = _cutoffs(depth), {}
    for dataset_name, dataset in questions.items():
        kinds = ["recall", "success"] if "passage_ids" in dataset.column_names else ["answer_recall"]
        names = [f"{kind}@{k}" for kind in kinds for k in cutoffs] + ["mrr@10", "ndcg@10"] * (len(kinds) == 2)
        by_dataset[dataset_name] = dict.fromkeys(names, 0.0)
    if list(by_dataset) == [""]:
        return list(by_dataset[""])
    own = [f"{dataset_name}_{name}" for dataset_name, names in by_dataset.items() for name in names]
    return [*_means(list(by_dataset.values())), *own]


def _means(by_dataset):
    """The mean of each metric that all datasets have."""
    in_common = [name for name in (by_dataset or [{}])[0] if all(name in metrics for metrics in by_dataset)]
    return {name: sum(metrics[name] for metrics in by_dataset) / len(by_dataset) for name in in_common}


def _texts(prediction):
    """The texts of each question's ranked passages."""
    text_of_id = texts_by_id({id for ids in prediction.predictions.values() for id in ids}, prediction.passages)
    return [[text_of_id[id] for id in prediction.predictions[question]] for question in prediction.questions["id"]]


def rank_passages_together(model, processor, questions, passages, k=100, *, share=True, batch_size=64, progress=True):
    r"""
    [`rank_passages`], shared among processes: each one encodes its part of the questions and of the passages, and
    searches its own passages for all questions; what leaves a process are vectors of questions and its best passages.

    Every process must call it with the same arguments, and each one receives the whole result: up to rounding that of
    one process, and the same on all of them. Without `torch.distributed` this is [`rank_passages`].

    Args:
        model (`RetrieverPreTrainedModel`):
            Encodes where it is; not wrapped for distributed training.
        processor (`RetrieverProcessor`):
            The model's processor.
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `question`.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.
        k (`int`, *optional*, defaults to 100):
            Number of passages a question; all of them, ranked, if there are fewer.
        share (`bool`, *optional*, defaults to `True`):
            Whether to share the work. Without, every process does all of it: a model whose weights are spread over
            processes (FSDP) needs all of them for each batch.
        batch_size (`int`, *optional*, defaults to 64):
            How many texts to encode at once.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars, unless the bars of Transformers are switched off.

    Returns:
        [`RankedPassages`]: Of equal scores the passage that comes first in `passages` is first.

    Raises:
        ValueError: As [`rank_passages`] raises.

    Example:
    ```python
    >>> from hf_xlir.training import rank_passages_together

    >>> rankings, scores = rank_passages_together(model, processor, questions, passages, k=20)  # doctest: +SKIP

    ```
    """
    num_processes = dist.get_world_size() if share and dist.is_available() and dist.is_initialized() else 1
    if num_processes == 1:
        return rank_passages(model, processor, questions, passages, k, batch_size=batch_size, progress=progress)
    k = check_k(k)
    ids, texts = check_questions(questions)
    passage_ids = check_passages(passages)

    rank = dist.get_rank()
    start, stop = _part(len(passage_ids), rank, num_processes)
    own = None
    if start < stop:
        own = passages.select(range(start, stop)) if isinstance(passages, Dataset) else passages[start:stop]
        own = embed_passages(model, processor, own, batch_size=batch_size, progress=progress)
        own = LateInteractionIndex.build(own, nbits=None) if isinstance(own, TokenEmbeddings) else own

    result = RankedPassages({}, {})
    with progress_bar(total=len(ids), desc="Ranking", unit="question", show=progress) as bar:
        for first in range(0, len(ids), QUESTIONS_PER_BLOCK):
            block = slice(first, first + QUESTIONS_PER_BLOCK)
            asked = texts[block][slice(*_part(len(texts[block]), rank, num_processes))]
            queries = embed_queries(model, processor, asked, batch_size=batch_size) if asked else None
            queries = _joined([part for part in _gather(queries) if part is not None])
            found = TopK.empty(len(queries.embeddings)) if own is None else search_exactly(own, queries, k)
            scores, rows = (np.asarray(part) for part in found)
            scores, rows = _best(_gather((scores, rows + start)), k)
            for id, best, values in zip(ids[block], rows.tolist(), scores.tolist(), strict=True):
                result.rankings[id] = [passage_ids[row] for row in best]
                result.scores[id] = values
            bar.update(len(rows))
    return result


def _part(number, rank, num_processes):
    """Where a process's part starts and ends: parts follow each other, and their sizes differ by one at most."""
    return rank * number // num_processes, (rank + 1) * number // num_processes


def _gather(value):
    """What all processes have, in their order."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _joined(parts):
    """The [`QueryEmbeddings`] of all processes, one after another; token vectors padded to the longest."""
    if parts[0].mask is None:
        return QueryEmbeddings(torch.cat([part.embeddings for part in parts]), None)
    longest = max(part.mask.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return QueryEmbeddings(
        torch.cat([pad(part.embeddings, (0, 0, 0, longest - part.mask.shape[1])) for part in parts]),
        torch.cat([pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts]),
    )


def _best(parts, k):
    """The best `k` of what each process found, as [`TopK`]: rows rise from one process to the next."""
    scores, rows = (torch.from_numpy(np.concatenate(each, axis=1)) for each in zip(*parts, strict=True))
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return TopK(scores[:, :k], rows.gather(1, order[:, :k]))


__all__ = [
    "RetrievalEvaluationMixin",
    "RetrievalPrediction",
    "check_evaluation_arguments",
    "rank_passages_together",
    "retrieval_metrics",
]
