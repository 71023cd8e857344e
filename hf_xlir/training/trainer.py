"""The Trainer for retrievers: contrastive learning and distillation."""

import time
from contextlib import nullcontext
from functools import partial

import torch
from datasets import Dataset, IterableDataset
from transformers import Trainer, TrainerCallback

from ..data.collators import RetrieverCollator
from ..models.auto import check_processor
from .arguments import RetrieverTrainingArguments
from .checkpoints import WholeCheckpointsMixin
from .distributed import sum_over_processes, world_size
from .gradient_cache import cached_backward, encode_in_chunks
from .losses import floating
from .objectives import make_objective
from .publishing import PublishingMixin
from .retrieval_evaluation import RetrievalEvaluationMixin, check_evaluation_arguments
from .training_facts import name_of


class RetrieverTrainer(RetrievalEvaluationMixin, WholeCheckpointsMixin, PublishingMixin, Trainer):
    r"""
    Trains a [`ColBERTXLMRModel`], a [`BiEncoderModel`] or a retriever of another registered family.

    A step's loss is the mean over all rows, or in token distillation over all tokens, of all its processes and
    accumulated batches, so that neither changes the gradient. What spans a batch, negatives and contrasts, spans all
    processes, but not the batches that are accumulated: use `gradient_cache_chunk_size` for that.

    Beside the loss and the learning rate it logs `samples_per_second`, `loss_<name>` for each part of a loss with
    several, which add up to it, and `margin`: how far positives score above their best negative.

    [`~RetrieverTrainer.create_model_card`] writes what it knows of the training, and
    [`~RetrieverTrainer.push_to_hub`] shares the model with its code, in one commit.

    Args:
        model (`RetrieverPreTrainedModel`):
            The model to train; with a teacher, the student.
        args (`RetrieverTrainingArguments`):
            Arguments.
        processing_class (`RetrieverProcessor`):
            The model's processor. Its settings are written to the model's configuration.
        objective ([`Objective`], its class or its registered name, *optional*):
            What to learn. By default the `objective` of `args`. A class or name gets the settings of `args`; an object
            has its own.
        teacher (`RetrieverPreTrainedModel`, *optional*):
            The model to distil from, which is neither trained nor saved. Its encoder and tokenizer may be others: in
            token distillation documents' tokens are then aligned like queries', since their positions do not
            correspond.
        teacher_processor (`RetrieverProcessor`, *optional*):
            The teacher's processor. Defaults to `processing_class`.
        data_collator (`Callable`, *optional*):
            Defaults to [`RetrieverCollator`], which says what columns the data needs.
        eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
            Questions to find passages for (columns `id`, `question`, and `passage_ids` or `answers`), such as one
            dataset a language; or rows as for training, whose loss is computed.
        eval_passages (`datasets.Dataset`, *optional*):
            The passages (columns `id`, `text` and optionally `title`) that are ranked for each evaluation question.
            Metrics are those of [`retrieval_metrics`], `eval_recall@5` for instance, or what `compute_metrics` makes
            of a [`RetrievalPrediction`].
        kwargs:
            Other arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: If a processor does not fit its model, the objective needs a teacher, or a dataset lacks a column
            that it needs.

    Example:
    ```python
    >>> from hf_xlir import RetrieverTrainer, RetrieverTrainingArguments

    >>> args = RetrieverTrainingArguments("out", objective="listwise", max_steps=100)  # doctest: +SKIP
    >>> trainer = RetrieverTrainer(model, args, processing_class=processor, train_dataset=triples)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP

    ```
    """

    # Every objective is a mean over its batch, so that gradient accumulation has to average, too.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model,
        args,
        processing_class,
        teacher=None,
        teacher_processor=None,
        data_collator=None,
        eval_dataset=None,
        eval_passages=None,
        objective=None,
        **kwargs,
    ):
        if not isinstance(args, RetrieverTrainingArguments):
            raise ValueError(f"`args` must be `RetrieverTrainingArguments`, got {type(args).__name__}.")
        check_processor(processing_class, model)
        if teacher is not None:
            teacher_processor = teacher_processor or processing_class
            check_processor(teacher_processor, teacher)
        self.objective = make_objective(args.objective if objective is None else objective, args.given_settings())
        _check_models(self.objective, model, teacher)
        _settle_unused_parameters(args, self.objective)
        check_evaluation_arguments(args, eval_dataset, eval_passages, kwargs.get("compute_metrics"))
        self.objective.prepare(processing_class, teacher_processor)
        if data_collator is None:
            data_collator = RetrieverCollator(
                processing_class,
                None if teacher is None else teacher_processor,
                with_documents=self.objective.encodes_documents,
                with_teacher_documents=self.objective.teacher_encodes_documents,
                with_reader_scores="reader_scores" in self.objective.columns,
            )
            _check_columns(kwargs.get("train_dataset"), "train_dataset", self.objective, teacher)
            if eval_passages is None:
                _check_columns(eval_dataset, "eval_dataset", self.objective, teacher)
        for name in processing_class.settings:
            setattr(model.config, name, getattr(processing_class, name))
        super().__init__(
            model,
            args,
            data_collator,
            processing_class=processing_class,
            eval_dataset=eval_dataset,
            eval_passages=eval_passages,
            **kwargs,
        )
        self.teacher = None if teacher is None else teacher.to(self.args.device).eval()
        self.training_log = TrainingLog()
        self.add_callback(self.training_log)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The objective's loss on one batch, with the query and document embeddings if `return_outputs`."""
        outputs = {kind: model(**texts) for kind, texts in _student_texts(inputs).items()}
        loss = self._loss(outputs, inputs, num_items_in_batch)
        return (loss, {"documents": None, **outputs}) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Gradients of one batch, which `gradient_cache_chunk_size` encodes chunk by chunk. Returns its loss."""
        if self.args.gradient_cache_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # as schedule-free optimizers have it
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)

        def loss_function(outputs):
            return self._loss(outputs, inputs, num_items_in_batch) / self.current_gradient_accumulation_steps

        return cached_backward(
            model,
            _student_texts(inputs),
            self.args.gradient_cache_chunk_size,
            loss_function,
            self.accelerator.backward,
            partial(self.accelerator.no_sync, model) if self.accelerator.sync_gradients else nullcontext,
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """A step's batches, and how many rows or tokens they and those of the other processes have."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = [self.objective.count_items(batch) for batch in batches]
        totals = torch.stack([torch.stack([*of_batch.values()]) for of_batch in counts]).sum(dim=0)
        return batches, dict(zip(counts[0], sum_over_processes(totals.to(device)), strict=True))

    def log(self, logs, start_time=None):
        """Add the means since the last time to what the Trainer logs about training."""
        if "loss" in logs:
            logs.update(self.training_log.pop())
        super().log(logs, start_time)

    def objective_facts(self):
        """The objective, what of its settings is not the default, and the teacher."""
        changed = [f"`{name}={value!r}`" for name, value in self.objective.changed.items()]
        facts = {"Objective": ", ".join([f"`{self.objective.name}`", *changed])}
        if self.teacher is not None:
            name, is_on_the_hub = name_of(self.teacher)
            kind = self.teacher.config.model_type
            facts["Teacher"] = f"`{name}`" if is_on_the_hub else f"of type `{kind}`, not published"
        return facts

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The objective's loss; retrieval is evaluated over all passages instead."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None

    def _loss(self, outputs, inputs, num_items=None):
        """The loss of a batch's embeddings, as a part of a step with `num_items` rows or tokens of each kind."""
        _check_batch(self.objective, inputs)
        terms = _check_terms(self.objective, self.objective({**outputs, **self._teach(inputs)}, inputs))
        if num_items is not None:
            # A mean of this batch; the Trainer averages over batches, DistributedDataParallel over processes
            num_parts = self.current_gradient_accumulation_steps * world_size()
            counts = self.objective.count_items(inputs)
            for name, term in terms.items():
                kind = name if name in counts else "rows"
                share = (counts[kind] * num_parts).to(term.dtype) / num_items[kind].clamp(min=1).to(term.dtype)
                terms[name] = term * share
        if self.model.training:
            values = {f"loss_{name}": term for name, term in terms.items()} if len(terms) > 1 else {}
            if self.objective.margin is not None:
                values["margin"] = self.objective.margin
            self.training_log.add(values, len(outputs["queries"].embeddings))
        return sum(terms.values())

    def _teach(self, inputs):
        """The teacher's outputs that the objective compares with, as `teacher_queries` and `teacher_documents`."""
        kinds = self.objective.teacher_texts(inputs)
        if kinds and self.teacher is None:
            stored = " or ".join(f"`{column}`" for column in self.objective.stored_columns)
            raise ValueError(
                f"The objective `{self.objective.name}` needs a `teacher`{stored and f', or rows with {stored}'}."
            )
        outputs = {}
        for kind in kinds:
            with self.accelerator.autocast():
                output = encode_in_chunks(self.teacher, inputs[f"teacher_{kind}"], self.args.gradient_cache_chunk_size)
            output.embeddings = floating(output.embeddings, "teacher")
            outputs[f"teacher_{kind}"] = output
        return outputs


class TrainingLog(TrainerCallback):
    """
    Sums up what [`RetrieverTrainer`] logs: the loss's terms, the scores' margin, and samples a second.

    Sums stay on the device until the Trainer logs; no step waits for a number. The clock stands still while the
    Trainer evaluates or saves.
    """

    def __init__(self):
        self._clear()

    def add(self, values, num_samples):
        """
        Add a batch.

        Args:
            values (`dict[str, torch.FloatTensor]`):
                Scalars, under the same names in each batch.
            num_samples (`int`):
                Rows of this process.
        """
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._batches += 1
        self._samples += num_samples

    def pop(self):
        """
        The means since the last call, over batches and processes, which all have to call this, and
        `samples_per_second` of all processes.

        Returns:
            `dict[str, float]`: Empty if there was no batch.
        """
        if self._batches == 0:
            return {}
        names = sorted(self._sums)
        logs = {"samples_per_second": round(self._samples * world_size() / max(self._seconds, 1e-9), 3)}
        if names:
            means = torch.stack([self._sums[name] for name in names]) / self._batches
            logs |= zip(names, (sum_over_processes(means) / world_size()).tolist(), strict=True)
        self._clear()
        return logs

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self._clear()
        self._mark = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Count the time since the last step's end, waiting for data included."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now

    def on_evaluate(self, args, state, control, **kwargs):
        """Leave out the time since the last step's end."""
        self._mark = time.perf_counter()

    on_save = on_evaluate

    def _clear(self):
        self._sums, self._batches, self._samples, self._seconds = {}, 0, 0, 0.0


def _check_models(objective, model, teacher):
    """Raise unless the models are what the objective needs."""
    if teacher is None and objective.needs_teacher:
        raise ValueError(f"`objective={objective!r}` needs a `teacher`.")
    if teacher is model:
        raise ValueError("`teacher` and `model` are one object: give the teacher weights of its own.")
    kind, vectors = model.config.model_type, _vectors_of(model)
    if objective.vectors not in (None, vectors):
        raise ValueError(
            f"`objective={objective!r}` needs a model that returns {objective.vectors!r}, got {kind!r}, which returns "
            f"{vectors!r}."
        )
    if teacher is None or not objective.compares_vectors:
        return
    shapes = [
        (config.model_type, config.embedding_dim or config.encoder_config.hidden_size)
        for config in (model.config, teacher.config)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`objective={objective!r}` needs a student of the teacher's family and embedding size, got {shapes[0]} "
            f"for a teacher with {shapes[1]}."
        )


def _check_columns(dataset, name, objective, teacher):
    """Raise if a dataset lacks a column that the objective declares, as far as it tells its columns."""
    row = dataset[0] if isinstance(dataset, list | Dataset) and len(dataset) else None
    if row is not None:
        columns = [column for column, value in row.items() if value is not None and value != []]
    else:
        columns = dataset.column_names if isinstance(dataset, Dataset | IterableDataset) else None
    if columns is None:
        return
    found = set(columns)
    if "negative" in found:
        found.add("negatives")
    if "documents" in found:
        found |= {"positive", "negatives"} if row is None or len(row["documents"]) > 1 else {"positive"}
    needed = [*objective.columns, *(objective.stored_columns if teacher is None else ())]
    missing = [column for column in needed if column not in found]
    if missing:
        hint = " Or give a `teacher`." if set(missing) <= set(objective.stored_columns) else ""
        raise ValueError(f"`{name}` lacks {missing}, which `objective={objective!r}` needs; it has {columns}.{hint}")


def _check_batch(objective, batch):
    """Raise if an objective of negatives gets a batch without."""
    keys = batch.get("document_keys")
    if "negatives" in objective.columns and keys is not None and len(keys) == len(batch["queries"]["input_ids"]):
        raise ValueError(
            f"`objective={objective!r}` needs rows with at least one negative, got a batch of one document per query."
        )


def _check_terms(objective, terms):
    """A copy of an objective's terms, which must be scalars by name."""
    if not isinstance(terms, dict) or not terms or any(torch.numel(term) != 1 for term in terms.values()):
        shapes = terms
        if isinstance(terms, dict):
            shapes = {name: tuple(term.shape) for name, term in terms.items()}
        raise ValueError(f"`{type(objective).__name__}` must return scalars by name, got {shapes}.")
    return dict(terms)


def _vectors_of(model):
    return "token_vectors" if model.config.model_type == "colbert_xlmr" else "vectors"


def _settle_unused_parameters(args, objective):
    """DistributedDataParallel cannot look for unused parameters through two forward passes."""
    if objective.encodes_documents and args.ddp_find_unused_parameters:
        raise ValueError(
            "`ddp_find_unused_parameters=True` does not work with two forward passes before the gradient: freeze the "
            "parameters that have no part in the loss with `requires_grad_(False)`."
        )
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = not objective.encodes_documents


def _student_texts(inputs):
    return {kind: inputs[kind] for kind in ("queries", "documents") if kind in inputs}


__all__ = ["RetrieverTrainer", "TrainingLog"]
