"""How a training script runs: from the last checkpoint to a saved model, and what that model finds."""

from dataclasses import dataclass, field

from transformers.utils import logging

from hf_xlir.data import load_passages, load_questions
from hf_xlir.training import PublishingMixin, RetrievalPrediction, retrieval_metrics


logger = logging.get_logger(__name__)


@dataclass
class EvaluationArguments:
    """
    Data for evaluation by retrieval.

    Args:
        eval_questions (`str`, *optional*):
            What [`load_questions`] reads.
        eval_passages (`str`, *optional*):
            What [`load_passages`] reads, to be ranked for each question.

    Raises:
        ValueError: If there is one without the other.
    """

    eval_questions: str | None = field(
        default=None, metadata={"help": "JSON of questions with `answers` or `passage_ids`, for evaluation."}
    )
    eval_passages: str | None = field(default=None, metadata={"help": "Passages to be ranked for each of them."})

    def __post_init__(self):
        if (self.eval_questions is None) != (self.eval_passages is None):
            missing = "eval_questions" if self.eval_questions is None else "eval_passages"
            raise ValueError(f"Evaluation needs `eval_questions` and `eval_passages`: give `{missing}`, too.")

    def load(self, cache_dir=None):
        """
        The data.

        Args:
            cache_dir (`str`, *optional*):
                Where Arrow files go.

        Returns:
            `dict`: Arguments of [`RetrieverTrainer`]; empty if there are no data.
        """
        if self.eval_questions is None:
            return {}
        return {
            "eval_dataset": load_questions(self.eval_questions, cache_dir=cache_dir),
            "eval_passages": load_passages(self.eval_passages, cache_dir=cache_dir),
            "compute_metrics": metrics_by_language,
        }


def metrics_by_language(prediction):
    r"""
    The metrics of [`retrieval_metrics`], and where questions are in several languages the recall of each, such as
    `ko_recall@5`. The others are then means of the languages' metrics, as XOR-TyDi has them.

    Args:
        prediction ([`RetrievalPrediction`]):
            Rankings and what is relevant; a column `lang` of the questions, unless they have none, tells languages.

    Returns:
        `dict[str, float]`: Between 0 and 1.
    """
    questions = prediction.questions
    rows = {}
    for row, language in enumerate(questions["lang"] if "lang" in questions.column_names else ()):
        rows.setdefault(language or "other", []).append(row)
    if len(rows) < 2:
        return retrieval_metrics(prediction)
    metrics = {language: retrieval_metrics(_part(prediction, rows[language])) for language in sorted(rows)}
    names = next(iter(metrics.values()))
    means = {name: sum(of_one[name] for of_one in metrics.values()) / len(metrics) for name in names}
    return means | {
        f"{language}_{name}": value
        for language, of_one in metrics.items()
        for name, value in of_one.items()
        if "recall" in name
    }


def _part(prediction, rows):
    """The part of some rows' questions."""
    questions = prediction.questions.select(rows)
    ids = questions["id"][:]
    parts = [
        None if of_all is None else {id: of_all[id] for id in ids}
        for of_all in (prediction.predictions, prediction.label_ids, prediction.scores)
    ]
    return RetrievalPrediction(*parts, questions, prediction.passages)


def train_and_save(trainer):
    r"""
    Train, from the last whole checkpoint in the output folder if there is one, and save the model and its processor
    there, with a model card. With evaluation data, evaluate the result. Metrics are printed, and written to
    `train_results.json` and `eval_results.json`. With `push_to_hub` among the arguments, all of it is published.

    Args:
        trainer (`Trainer`):
            One with [`WholeCheckpointsMixin`]. `resume_from_checkpoint` of its arguments names another checkpoint.

    Returns:
        `dict[str, float]`: The metrics of the evaluation, empty without.
    """
    args = trainer.args
    checkpoint = args.resume_from_checkpoint or trainer.last_whole_checkpoint()
    if checkpoint is not None:
        logger.warning(f"Training goes on from `{checkpoint}`. For a new run give another `output_dir`.")
    metrics = {"train": trainer.train(resume_from_checkpoint=checkpoint).metrics}
    trainer.save_model()
    trainer.save_state()
    if trainer.eval_dataset is not None:
        metrics["eval"] = trainer.evaluate()
    for split, of_split in metrics.items():
        trainer.log_metrics(split, of_split)
        trainer.save_metrics(split, of_split)
    if args.push_to_hub:
        trainer.push_to_hub()
    elif isinstance(trainer, PublishingMixin):  # the Trainer's own card asks the Hub
        trainer.create_model_card()
    return metrics.get("eval", {})


__all__ = ["EvaluationArguments", "metrics_by_language", "train_and_save"]
