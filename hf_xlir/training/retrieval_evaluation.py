"""Evaluation during training: each evaluation question against all evaluation passages."""

from datasets import Dataset, IterableDataset
from torch.random import fork_rng
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput, denumpify_detensorize

from ..evaluation import answer_recall_at_k, ndcg_at_k, recall_at_k, reciprocal_rank, success_at_k
from ..evaluation.texts import texts_by_id
from ..index.passages import check_passages
from .shared_ranking import rank_passages_together


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


__all__ = ["RetrievalEvaluationMixin", "RetrievalPrediction", "check_evaluation_arguments", "retrieval_metrics"]
