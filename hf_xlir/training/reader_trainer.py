"""The trainer of Fusion-in-Decoder readers, which evaluates generated answers."""

import copy
from dataclasses import dataclass, field

import numpy as np
from torch.random import fork_rng
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from ..data.collators import ReaderCollator
from ..evaluation.reader_runs import ANSWER_LENGTH, answer_metrics, judge_answer, known_answers
from ..models.auto import FAMILIES
from ..models.processing_fid_t5 import FiDT5Processor
from .checkpoints import WholeCheckpointsMixin
from .publishing import PublishableArguments, PublishingMixin


@dataclass
class ReaderTrainingArguments(PublishableArguments, Seq2SeqTrainingArguments):
    r"""
    Arguments of [`ReaderTrainer`]: those of [`~transformers.Seq2SeqTrainingArguments`], of which five have other
    defaults:

    - `predict_with_generate` is `True`: evaluation computes exact match and F1 of generated answers. With `False` it
      computes the loss.
    - `metric_for_best_model` is `"exact_match"` with `load_best_model_at_end`.
    - `generation_max_length` is the processor's `answer_maxlength` plus the token that decoding starts from.
    - `remove_unused_columns` is `False`, since the collator reads columns that no model takes.
    - `ddp_find_unused_parameters` is `False`, since all parameters are used.

    `activation_checkpointing` (`gradient_checkpointing` before transformers 5.23) recomputes the layers in the
    backward pass instead of keeping their activations. Gradients are the same, and a hundred passages of 250 tokens
    need the memory of a few.

    Example:
    ```python
    >>> from hf_xlir.training import ReaderTrainingArguments

    >>> args = ReaderTrainingArguments(
    ...     "out", eval_strategy="steps", eval_steps=500, load_best_model_at_end=True, use_cpu=True
    ... )
    >>> args.metric_for_best_model, args.greater_is_better
    ('exact_match', True)

    ```
    """

    predict_with_generate: bool = field(
        default=True, metadata={"help": "Evaluate exact match and F1 of generated answers, else the loss."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator reads columns of text."})

    def __post_init__(self):
        if self.load_best_model_at_end and self.metric_for_best_model is None and self.predict_with_generate:
            self.metric_for_best_model = "exact_match"
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False
        super().__post_init__()


class ReaderTrainer(WholeCheckpointsMixin, PublishingMixin, Seq2SeqTrainer):
    r"""
    Trains a [`FiDT5ForConditionalGeneration`] to generate answers (https://huggingface.co/papers/2007.01282).

    Evaluation generates an answer to each question. Metrics are those of [`answer_metrics`], such as
    `eval_exact_match`, and for questions in several languages also `eval_ko_exact_match` and so on. Checkpoints are
    complete or absent, see [`WholeCheckpointsMixin`].

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader.
        args ([`ReaderTrainingArguments`]):
            Arguments.
        processing_class ([`FiDT5Processor`]):
            Its processor, which is saved with it.
        data_collator (`Callable`, *optional*):
            Defaults to [`ReaderCollator`].
        eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
            Records of [`load_reader_examples`] with `answers` or a `target`.
        kwargs:
            Other arguments of [`~transformers.Trainer`]: [`answer_rows`] as `train_dataset` and among `callbacks`.

    Raises:
        ValueError: If model, arguments or processor are of another type.

    Example:
    ```python
    >>> from hf_xlir.training import ReaderTrainer, ReaderTrainingArguments

    >>> rows = answer_rows(load_reader_examples("train.json", require_answers=True))  # doctest: +SKIP
    >>> trainer = ReaderTrainer(model, args, processor, train_dataset=rows, callbacks=[rows])  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP

    ```
    """

    # The loss is a mean over its batch, so gradient accumulation must average
    loss_is_scaled_for_ga = False

    def __init__(self, model, args, processing_class, data_collator=None, **kwargs):
        if not isinstance(args, ReaderTrainingArguments):
            raise ValueError(f"`args` must be `ReaderTrainingArguments`, got {type(args).__name__}.")
        if not isinstance(processing_class, FiDT5Processor):
            raise ValueError(f"`processing_class` must be a `FiDT5Processor`, got {type(processing_class).__name__}.")
        family = FAMILIES.get(model.config.model_type)
        if family is None or family.role != "reader":
            raise ValueError(f"`model` must be a reader, got a model of type {model.config.model_type!r}.")
        if args.generation_max_length is None:
            args.generation_max_length = 1 + (processing_class.answer_maxlength or ANSWER_LENGTH)
        data_collator = data_collator or ReaderCollator(processing_class)
        super().__init__(model, args, data_collator, processing_class=processing_class, **kwargs)

    def objective_facts(self):
        """The objective and the number of passages, for the model card."""
        return {
            "Objective": "cross-entropy of the answers' tokens",
            "Passages per question": f"at most {self.processing_class.n_context}",
        }

    def evaluate(self, *args, **kwargs):
        """Evaluate, and restore the random state, so that evaluation does not change the training."""
        with fork_rng(devices=[]):  # data loaders draw on the CPU
            return super().evaluate(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset=None):
        """The data loader of all questions: `dataloader_drop_last` is for training."""
        given, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = given

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """Generate and judge answers, or compute the loss; see [`~transformers.Trainer.evaluation_loop`]."""
        if not self.args.predict_with_generate:
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        generation_config = copy.deepcopy(self.model.generation_config)  # the parent changes it
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        self.model.generation_config = generation_config
        rows = dataloader.dataset.select_columns(["lang", "answers", "target"])  # passages are slow to read
        tokens, tokenizer = output.predictions[: len(rows)], self.processing_class.tokenizer  # the rest is padding
        texts = tokenizer.batch_decode(np.where(tokens < 0, tokenizer.pad_token_id, tokens), skip_special_tokens=True)
        judged = (
            {"lang": row["lang"], **judge_answer(text.strip(), known_answers(row))}
            for text, row in zip(texts, rows, strict=True)
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in answer_metrics(judged).items()}
        return output._replace(metrics={**output.metrics, **metrics})

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        """Token ids of answers, or the loss. Not both, since passages would be encoded twice."""
        if self.args.predict_with_generate and not prediction_loss_only:
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **gen_kwargs)


__all__ = ["ReaderTrainer", "ReaderTrainingArguments"]
