"""The trainer of retrievers, for contrastive learning and distillation."""

import time
from contextlib import nullcontext
from functools import partial

import torch
from datasets import Dataset, IterableDataset
from transformers import Trainer, TrainerCallback

from ..data.collators import RetrieverCollator
from ..models.auto import check_processor, family_of
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

    The loss of a step is the mean over the rows (in token distillation, the tokens) of all processes and accumulated
    batches, so the number of processes and batches does not change the gradient. In-batch negatives come from all
    processes, but not from accumulated batches: for larger batches use `gradient_cache_chunk_size`.

    In addition to the loss and the learning rate, the trainer logs `samples_per_second`, `margin` (the mean difference
    between the score of the positive and that of the best negative) and, if the loss has several terms, each of them
    as `loss_<name>`.

    [`~RetrieverTrainer.create_model_card`] writes a model card with the setup of the training, and
    [`~RetrieverTrainer.push_to_hub`] uploads the model with its code in one commit.

    Args:
        model (`RetrieverPreTrainedModel`):
            The model to train, which is the student if there is a teacher.
        args (`RetrieverTrainingArguments`):
            Arguments.
        processing_class (`RetrieverProcessor`):
            The model's processor. Its settings are written to the model's configuration.
        teacher (`RetrieverPreTrainedModel`, *optional*):
            The model to distil from, which is neither trained nor saved. It may have another encoder and tokenizer.
        teacher_processor (`RetrieverProcessor`, *optional*):
            The teacher's processor. Defaults to `processing_class`.
        data_collator (`Callable`, *optional*):
            Defaults to [`RetrieverCollator`], which lists the columns of the data.
        eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
            Questions to find passages for (columns `id`, `question`, and `passage_ids` or `answers`), such as one
            dataset per language. Or rows as for training, whose loss is computed.
        eval_passages (`datasets.Dataset`, *optional*):
            The passages to rank for each evaluation question (columns `id`, `text` and optionally `title`). Metrics
            are those of [`retrieval_metrics`], such as `eval_recall@5`, or what `compute_metrics` returns for a
            [`RetrievalPrediction`].
        objective ([`Objective`], its class or its registered name, *optional*):
            What to learn. By default the `objective` of `args`. A class or a name gets the settings in `args`, an
            object has its own.
        kwargs:
            Other arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: If a processor does not fit its model, or the objective needs a teacher, a column or another model
            type.

    Example:
    ```python
    >>> from hf_xlir import RetrieverTrainer, RetrieverTrainingArguments

    >>> args = RetrieverTrainingArguments("out", objective="listwise", max_steps=100)  # doctest: +SKIP
    >>> trainer = RetrieverTrainer(model, args, processing_class=processor, train_dataset=triples)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP

    ```
    """

    # Each objective is a mean over its batch, so gradient accumulation must average
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
        """Compute the gradients of a batch, in chunks with `gradient_cache_chunk_size`, and return its loss."""
        if self.args.gradient_cache_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers
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
        """The batches of a step, and the number of rows or tokens in those of all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = [self.objective.count_items(batch) for batch in batches]
        totals = torch.stack([torch.stack([*of_batch.values()]) for of_batch in counts]).sum(dim=0)
        return batches, dict(zip(counts[0], sum_over_processes(totals.to(device)), strict=True))

    def log(self, logs, start_time=None):
        """Log the means since the last call along with the loss."""
        if "loss" in logs:
            logs.update(self.training_log.pop())
        super().log(logs, start_time)

    def objective_facts(self):
        """The objective, its changed settings and the teacher, for the model card."""
        changed = [f"`{name}={value!r}`" for name, value in self.objective.changed.items()]
        facts = {"Objective": ", ".join([f"`{self.objective.name}`", *changed])}
        if self.teacher is not None:
            name, is_on_the_hub = name_of(self.teacher)
            kind = self.teacher.config.model_type
            facts["Teacher"] = f"`{name}`" if is_on_the_hub else f"of type `{kind}`, not published"
        return facts

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss of the objective."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None

    def _loss(self, outputs, inputs, num_items=None):
        """The loss of a batch, as a share of a step with `num_items` rows or tokens."""
        _check_batch(self.objective, inputs)
        terms = _check_terms(self.objective, self.objective({**outputs, **self._teach(inputs)}, inputs))
        if num_items is not None:
            # The Trainer averages over batches, DistributedDataParallel over processes
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
        """The teacher's outputs for the texts that the objective names."""
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
    Sums up the terms, the margin and the samples per second of [`RetrieverTrainer`]. Sums stay on the device until the
    trainer logs. Evaluation and saving are not timed.
    """

    def __init__(self):
        self._clear()

    def add(self, values, num_samples):
        """Add a batch: scalars by name, the same names in each batch, and the number of rows of this process."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._batches += 1
        self._samples += num_samples

    def pop(self):
        """Means over batches and processes since the last call, empty without a batch. All processes must call it."""
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
        """Count the time since the last step, which includes waiting for data."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now

    def on_evaluate(self, args, state, control, **kwargs):
        """Leave out the time since the last step."""
        self._mark = time.perf_counter()

    on_save = on_evaluate

    def _clear(self):
        self._sums, self._batches, self._samples, self._seconds = {}, 0, 0, 0.0


def _check_models(objective, model, teacher):
    """Raise unless the models fit the objective."""
    if teacher is None and objective.needs_teacher:
        raise ValueError(f"`objective={objective!r}` needs a `teacher`.")
    if teacher is model:
        raise ValueError("`teacher` and `model` are one object: give the teacher weights of its own.")
    if objective.vectors is not None and objective.vectors != family_of(model).vectors:
        raise ValueError(
            f"`objective={objective!r}` needs a model that returns {objective.vectors!r}, got "
            f"{model.config.model_type!r}, which returns {family_of(model).vectors!r}."
        )
    if teacher is None or not objective.compares_vectors:
        return
    student, expected = (
        (family_of(each).vectors, each.config.embedding_dim or each.config.get_text_config().hidden_size)
        for each in (model, teacher)
    )
    if student != expected:
        raise ValueError(
            f"`objective={objective!r}` compares vectors, so the student must give the teacher's kind and size, got "
            f"{student} for a teacher with {expected}."
        )


def _check_columns(dataset, name, objective, teacher):
    """Raise if a dataset whose columns are known lacks one that the objective declares."""
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
    """Raise if a batch has no negatives although the objective declares them."""
    keys = batch.get("document_keys")
    if "negatives" in objective.columns and keys is not None and len(keys) == len(batch["queries"]["input_ids"]):
        raise ValueError(
            f"`objective={objective!r}` needs rows with at least one negative, got a batch of one document per query."
        )


def _check_terms(objective, terms):
    """A copy of the terms of an objective, after a check that they are scalars by name."""
    if not isinstance(terms, dict) or not terms or any(torch.numel(term) != 1 for term in terms.values()):
        shapes = terms
        if isinstance(terms, dict):
            shapes = {name: tuple(term.shape) for name, term in terms.items()}
        raise ValueError(f"`{type(objective).__name__}` must return scalars by name, got {shapes}.")
    return dict(terms)


def _settle_unused_parameters(args, objective):
    """DistributedDataParallel cannot look for unused parameters through two forward passes."""
    if objective.encodes_documents and args.ddp_find_unused_parameters:
        raise ValueError(
            "`ddp_find_unused_parameters=True` does not work with two forward passes per step. Freeze parameters that "
            "the loss does not use with `requires_grad_(False)` instead."
        )
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = not objective.encodes_documents


def _student_texts(inputs):
    return {kind: inputs[kind] for kind in ("queries", "documents") if kind in inputs}


__all__ = ["RetrieverTrainer", "TrainingLog"]
