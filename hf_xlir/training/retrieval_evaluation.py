"""Retrieval during training: rankings that all processes compute together, and their metrics."""

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset, IterableDataset
from torch.random import fork_rng
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput, denumpify_detensorize

from ..data.passages import check_passages
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
from ..index.embed import both_forms
from ..index.scoring import TopK
from ..utils.progress import progress_bar


CUTOFFS = (1, 5, 10, 20, 100)


class RetrievalPrediction(EvalPrediction):
    r"""
    The argument of `compute_metrics` of [`RetrieverTrainer`]. `rankings, relevance = prediction` unpacks it.

    Args:
        predictions (`dict[str, list[str]]`):
            By question id, the ids of the evaluation passages, best first.
        label_ids (`dict[str, list[str]]`, *optional*):
            By question id, the ids of the gold passages. `None` if the questions have answers instead.
        scores (`dict[str, list[float]]`):
            By question id, the scores of the ranked passages, in falling order.
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
    The default metrics of [`RetrieverTrainer`]. For questions with gold passages: `recall@k`, `success@k`, `mrr@10`
    and `ndcg@10`. For questions with answers instead: `answer_recall@k`, the share of questions with an answer in the
    first `k` passages. `k` is 1, 5, 10, 20 and 100, up to the number of ranked passages.

    Args:
        prediction ([`RetrievalPrediction`]):
            Rankings, and gold passages or questions with answers.

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
    A [`~transformers.Trainer`] mixin with `eval_passages`, which are ranked for datasets with a column `question`.
    Evaluation restores the random state, so it does not change the training.
    """

    def __init__(self, *args, eval_passages=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_passages = eval_passages
        self._retrieval_metrics = {}  # the last ones of each dataset, by their prefix

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """
        Evaluate; see [`~transformers.Trainer.evaluate`].

        Args:
            eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
                Questions to find passages for, or rows to compute the loss of. For several datasets of questions, the
                means of their metrics are reported as well, under the names that a single dataset has.
            ignore_keys (`list[str]`, *optional*):
                Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`):
                Prefix of the metrics' names.

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
        """Evaluate retrieval if the dataset has questions; see [`~transformers.Trainer.evaluation_loop`]."""
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
    """Raise unless the questions can be evaluated over the passages."""
    if not isinstance(questions, Dataset):
        raise ValueError(f"Evaluation questions must be a `datasets.Dataset`, got {type(questions).__name__}.")
    if passages is None:
        raise ValueError("Evaluation questions need `eval_passages` to rank.")
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
    """Raise if the evaluation arguments of [`RetrieverTrainer`] do not fit together."""
    datasets = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
    questions = {name: dataset for name, dataset in datasets.items() if _has_questions(dataset)}
    for dataset in questions.values():
        check_evaluation(dataset, eval_passages)
    if eval_passages is not None and eval_dataset is not None and not questions:
        raise ValueError(
            "`eval_passages` needs an `eval_dataset` of questions, with columns `id`, `question`, and `passage_ids` "
            "or `answers`."
        )
    if compute_metrics is not None and eval_passages is None:
        raise ValueError("`compute_metrics` evaluates rankings of `eval_passages`: give both.")
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
    """The names of the default metrics for a `dict` of questions."""
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
    """The texts of the ranked passages, by question."""
    text_of_id = texts_by_id({id for ids in prediction.predictions.values() for id in ids}, prediction.passages)
    return [[text_of_id[id] for id in prediction.predictions[question]] for question in prediction.questions["id"]]


def rank_passages_together(
    encoder,
    *inputs,
    processor=None,
    questions=None,
    passages=None,
    k=None,
    share=True,
    batch_size=64,
    progress=True,
):
    r"""
    [`rank_passages`] with the work shared among processes. Each process encodes its part of the questions and
    passages, and searches its own passages for all questions. Processes exchange query vectors and their best
    passages.

    All processes must call it with the same arguments. Each receives the whole result, equal on all of them and, up to
    rounding, to that of one process. Without `torch.distributed` this is [`rank_passages`].

    Two forms: `rank_passages_together(encoder, questions, passages, k)` and `rank_passages_together(model, processor,
    questions, passages, k)`.

    Args:
        encoder ([`Encoder`], `str`, `os.PathLike`, `tuple` or an object with `encode_query` and `encode_document`):
            An encoder, a path or Hub id, `(model, processor)`, or a model with its processor as the next argument. A
            model must not be wrapped for distributed training.
        processor (`RetrieverProcessor`, *optional*):
            The model's processor.
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `question`.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.
        k (`int`, *optional*, defaults to 100):
            Number of passages per question, or all of them if there are fewer.
        share (`bool`, *optional*, defaults to `True`):
            Whether to share the work. Use `False` for a model whose weights are spread over processes (FSDP): all of
            them then take part in each batch.
        batch_size (`int`, *optional*, defaults to 64):
            Number of texts to encode at once.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars, unless those of transformers are disabled.

    Returns:
        [`RankedPassages`]: Passages with equal scores keep the order of `passages`.

    Raises:
        ValueError: As [`rank_passages`] raises.

    Example:
    ```python
    >>> from hf_xlir.training import rank_passages_together

    >>> rankings, scores = rank_passages_together(encoder, questions, passages, k=20)  # doctest: +SKIP

    ```
    """
    given = {"processor": processor, "questions": questions, "passages": passages, "k": k}
    encoder, questions, passages, k = both_forms(encoder, inputs, given)
    num_processes = dist.get_world_size() if share and dist.is_available() and dist.is_initialized() else 1
    if num_processes == 1:
        return rank_passages(encoder, questions, passages, k, batch_size=batch_size, progress=progress)
    k = check_k(100 if k is None else k)
    ids, texts = check_questions(questions)
    passage_ids = check_passages(passages)

    rank = dist.get_rank()
    start, stop = _part(len(passage_ids), rank, num_processes)
    own = None
    if start < stop:
        own = passages.select(range(start, stop)) if isinstance(passages, Dataset) else passages[start:stop]
        own = embed_passages(encoder, own, batch_size=batch_size, progress=progress)
        own = LateInteractionIndex.build(own, nbits=None) if isinstance(own, TokenEmbeddings) else own

    result = RankedPassages({}, {})
    with progress_bar(total=len(ids), desc="Ranking", unit="question", show=progress) as bar:
        for first in range(0, len(ids), QUESTIONS_PER_BLOCK):
            block = slice(first, first + QUESTIONS_PER_BLOCK)
            asked = texts[block][slice(*_part(len(texts[block]), rank, num_processes))]
            queries = embed_queries(encoder, asked, batch_size=batch_size) if asked else None
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
    """Start and end of a process's part. Parts follow each other, and differ in size by at most one."""
    return rank * number // num_processes, (rank + 1) * number // num_processes


def _gather(value):
    """The values of all processes, by rank."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _joined(parts):
    """The [`QueryEmbeddings`] of all processes as one, with token vectors padded to the longest."""
    if parts[0].mask is None:
        return QueryEmbeddings(torch.cat([part.embeddings for part in parts]), None)
    longest = max(part.mask.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return QueryEmbeddings(
        torch.cat([pad(part.embeddings, (0, 0, 0, longest - part.mask.shape[1])) for part in parts]),
        torch.cat([pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts]),
    )


def _best(parts, k):
    """The best `k` results of all processes, as [`TopK`]. Rows rise from one process to the next."""
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
