"""The Trainer for retrievers: contrastive learning and distillation."""

import inspect

import torch
from datasets import Dataset, IterableDataset
from transformers import Trainer

from ..data.collators import RetrieverCollator
from ..models.late_interaction import maxsim_pair_scores, maxsim_scores
from ..models.processing_retriever import RetrieverProcessor
from .distributed import gather_with_gradient
from .losses import (
    embedding_distillation_loss,
    in_batch_nce_loss,
    listwise_cross_entropy_loss,
    score_distillation_loss,
    token_distillation_loss,
)
from .training_args import RetrieverTrainingArguments


class RetrieverTrainer(Trainer):
    r"""
    Trains a [`ColBERTXLMRModel`] or [`BiEncoderModel`] with the objective that its arguments name.

    Args:
        model (`RetrieverPreTrainedModel`):
            The model to train; with a teacher, the student.
        args (`RetrieverTrainingArguments`):
            Arguments.
        processing_class (`RetrieverProcessor`):
            The model's processor. Its settings are written to the model's configuration.
        teacher (`RetrieverPreTrainedModel`, *optional*):
            The model to distil from, which is neither trained nor saved. Its tokenizer may be another.
        teacher_processor (`RetrieverProcessor`, *optional*):
            The teacher's processor. Defaults to `processing_class`.
        data_collator (`Callable`, *optional*):
            Defaults to [`RetrieverCollator`], which says what columns the data needs.
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
        self, model, args, processing_class, teacher=None, teacher_processor=None, data_collator=None, **kwargs
    ):
        if not isinstance(args, RetrieverTrainingArguments):
            raise ValueError(f"`args` must be `RetrieverTrainingArguments`, got {type(args).__name__}.")
        _check_processor(processing_class, model)
        if teacher is not None:
            teacher_processor = teacher_processor or processing_class
            _check_processor(teacher_processor, teacher)
        _check_teacher(teacher, model, args)
        if data_collator is None:
            data_collator = RetrieverCollator(
                processing_class,
                None if teacher is None else teacher_processor,
                with_documents=args.encodes_documents,
                with_teacher_documents=not args.distils_queries_alone,
            )
            for name in ("train_dataset", "eval_dataset"):
                _check_columns(kwargs.get(name), name, args, teacher)
        for name in processing_class.settings:
            setattr(model.config, name, getattr(processing_class, name))
        super().__init__(model, args, data_collator, processing_class=processing_class, **kwargs)
        self.teacher = None if teacher is None else teacher.to(self.args.device).eval()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The objective's loss on one batch, with the query and document embeddings if `return_outputs`."""
        queries = model(**inputs["queries"])
        documents = model(**inputs["documents"]) if "documents" in inputs else None
        loss = getattr(self, f"_{self.args.objective}")(inputs, queries, documents)
        return (loss, {"queries": queries, "documents": documents}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The objective's loss; whole rankings are evaluated over an index instead."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None

    def _in_batch_nce(self, inputs, queries, documents):
        scores = _batch_scores(queries, documents)
        num_queries, own_keys, process = len(scores), inputs["document_keys"], self.accelerator.process_index
        marked = torch.stack([own_keys, torch.full_like(own_keys, process)], dim=1)
        keys, processes = gather_with_gradient(marked).unbind(dim=1)  # (num_documents,)
        first = (processes < process).sum()
        positives = first + torch.arange(num_queries, device=scores.device) * (len(own_keys) // num_queries)
        duplicates = keys == keys[positives][:, None]  # (num_queries, num_documents)
        duplicates.scatter_(1, positives[:, None], False)
        return in_batch_nce_loss(scores * self.args.score_scale, positives, duplicates)

    def _listwise(self, inputs, queries, documents):
        return listwise_cross_entropy_loss(_pair_scores(queries, documents) * self.args.score_scale)

    def _score_distillation(self, inputs, queries, documents):
        score = _batch_scores if self.args.distill_in_batch else _pair_scores
        teacher_scores = None if self.args.distill_in_batch else inputs.get("teacher_scores")
        if teacher_scores is None or self.args.teacher_documents:
            teacher_documents = self._taught(inputs, "documents")
            documents = teacher_documents if self.args.teacher_documents else documents
        if teacher_scores is None:
            teacher_scores = score(self._taught(inputs, "queries"), teacher_documents)
        scores = score(queries, documents)
        if scores.shape[1] == 1:
            raise ValueError("One document leaves nothing to distil: add `negatives`, or set `distill_in_batch=True`.")
        return score_distillation_loss(
            scores * self.args.score_scale, teacher_scores * self.args.teacher_score_scale, self.args.temperature
        )

    def _token_distillation(self, inputs, queries, documents):
        teacher_queries = self._taught(inputs, "queries")
        sides = [queries.embeddings, teacher_queries.embeddings, None, None]
        masks = [queries.embedding_mask, teacher_queries.embedding_mask, None, None]
        if documents is not None:
            teacher_documents = self._taught(inputs, "documents")
            sides[2:] = documents.embeddings, teacher_documents.embeddings
            masks[2:] = documents.embedding_mask, teacher_documents.embedding_mask
        return token_distillation_loss(
            *sides, *masks, query_weight=self.args.query_weight, distance=self.args.distance
        )

    def _embedding_distillation(self, inputs, queries, documents):
        student, teacher, equal = queries.embeddings, inputs.get("teacher_embeddings"), None
        if teacher is None:
            teacher = self._taught(inputs, "queries").embeddings
        if self.args.contrast_scale is not None:
            # the loss of the whole batch on every process: the teacher's vectors of all pairs are negatives
            student, teacher = gather_with_gradient(student), gather_with_gradient(teacher)
            keys = gather_with_gradient(inputs["teacher_query_keys"])
            equal = (keys == keys[:, None]).fill_diagonal_(False)
        return embedding_distillation_loss(student, teacher, self.args.distance, self.args.contrast_scale, equal)

    @torch.no_grad()
    def _taught(self, inputs, kind):
        """The teacher's output for the batch's `kind` of texts, `"queries"` or `"documents"`."""
        if self.teacher is None:
            raise ValueError("Score distillation needs a `teacher`, or rows with `teacher_scores`.")
        return self.teacher(**inputs[f"teacher_{kind}"])


def _batch_scores(queries, documents):
    """Scores of this process's queries against the documents of all processes, `(num_queries, num_documents)`."""
    embeddings = gather_with_gradient(documents.embeddings)
    if documents.embedding_mask is None:
        return queries.embeddings @ embeddings.T
    mask = gather_with_gradient(documents.embedding_mask)
    return maxsim_scores(queries.embeddings, embeddings, queries.embedding_mask, mask)


def _pair_scores(queries, documents):
    """Scores of each query's own documents, `(num_queries, nway)`."""
    of_query = documents.embeddings.unflatten(0, (len(queries.embeddings), -1))
    if documents.embedding_mask is None:
        return torch.einsum("qd,qnd->qn", queries.embeddings, of_query)
    mask = documents.embedding_mask.unflatten(0, (len(queries.embeddings), -1))
    return maxsim_pair_scores(queries.embeddings, of_query, queries.embedding_mask, mask)


def _check_processor(processor, model):
    """Raise unless the model takes what the processor gives, under the same settings and with an id for each piece."""
    if not isinstance(processor, RetrieverProcessor):
        raise ValueError(f"Expected the processor of `{type(model).__name__}`, got {type(processor).__name__}.")
    names = type(processor).__name__, type(model).__name__
    parameters = inspect.signature(model.forward).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)  # LoRA's wrapper
    unknown = set(processor.model_input_names) - {parameter.name for parameter in parameters}
    if unknown and not takes_any:
        raise ValueError(f"`{names[0]}` gives {sorted(unknown)}, which `{names[1]}` does not take: use its processor.")
    processor.check_config(model.config)
    num_pieces, vocab_size = len(processor.tokenizer), model.config.encoder_config.vocab_size
    if num_pieces > vocab_size:
        raise ValueError(f"The tokenizer of `{names[0]}` has {num_pieces} pieces, `{names[1]}` only {vocab_size}.")


def _check_teacher(teacher, model, args):
    reasons = [f"`{name}=True`" for name in ("distill_in_batch", "teacher_documents") if getattr(args, name)]
    if args.objective in ("token_distillation", "embedding_distillation"):
        reasons.append(f"`objective={args.objective!r}`")
    if teacher is None and reasons:
        raise ValueError(f"{reasons[0]} needs a `teacher`.")
    if teacher is model:
        raise ValueError("`teacher` and `model` are one object: give the teacher weights of its own.")
    if args.teacher_documents:
        shapes = [
            (config.model_type, config.embedding_dim or config.encoder_config.hidden_size)
            for config in (model.config, teacher.config)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`teacher_documents=True` needs a student of the teacher's kind and embedding size, got {shapes[0]} "
                f"for a teacher with {shapes[1]}."
            )


def _check_columns(dataset, name, args, teacher):
    """Raise if a dataset lacks a column that the objective needs, as far as it tells its columns."""
    columns = dataset.column_names if isinstance(dataset, Dataset | IterableDataset) else None
    if columns is None:
        return
    needed = ["query"]
    if not args.distils_queries_alone:
        needed.append("positive")
    if args.objective == "listwise" or (args.objective == "score_distillation" and not args.distill_in_batch):
        needed.append("negatives")
    if args.objective == "score_distillation" and teacher is None:
        needed.append("teacher_scores")
    missing = [column for column in needed if column not in columns]
    if missing:
        hint = " Or give a `teacher`." if missing == ["teacher_scores"] else ""
        raise ValueError(
            f"`{name}` lacks {missing}, which `objective={args.objective!r}` needs; it has {columns}.{hint}"
        )


__all__ = ["RetrieverTrainer"]
