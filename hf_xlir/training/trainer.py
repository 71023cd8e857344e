"""The Trainer for retrievers: contrastive learning and distillation."""

import torch
from transformers import Trainer

from ..data.collators import RetrieverCollator
from ..models.late_interaction import maxsim_pair_scores, maxsim_scores
from .distributed import gather_with_gradient
from .losses import (
    embedding_distillation_loss,
    in_batch_nce_loss,
    listwise_cross_entropy_loss,
    score_distillation_loss,
    token_distillation_loss,
)


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
            The model to distil from, which stays as it is and is not saved. Its tokenizer may be another.
        teacher_processor (`RetrieverProcessor`, *optional*):
            The teacher's processor. Defaults to `processing_class`.
        data_collator (`Callable`, *optional*):
            Defaults to [`RetrieverCollator`], which says what columns the data needs.
        kwargs:
            Other arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: If the processor does not fit the model, or the objective needs what is not given.

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
        model=None,
        args=None,
        processing_class=None,
        teacher=None,
        teacher_processor=None,
        data_collator=None,
        **kwargs,
    ):
        if processing_class is None:
            raise ValueError("`RetrieverTrainer` needs the model's processor as `processing_class`.")
        processing_class.check_config(model.config)
        for name in processing_class.settings:
            setattr(model.config, name, getattr(processing_class, name))
        if teacher is None and args.objective in ("token_distillation", "embedding_distillation"):
            raise ValueError(f"`objective={args.objective!r}` needs a `teacher`.")
        if data_collator is None:
            data_collator = RetrieverCollator(
                processing_class,
                None if teacher is None else teacher_processor or processing_class,
                with_documents=args.objective != "embedding_distillation",
            )
        super().__init__(model, args, data_collator, processing_class=processing_class, **kwargs)
        self.teacher = None
        if teacher is not None:
            self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)

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
        scores, positives, keys = self._scores_over_batch(inputs, queries, documents)
        duplicates = keys[None, :] == keys[positives][:, None]  # (num_queries, num_documents)
        duplicates.scatter_(1, positives[:, None], False)
        return in_batch_nce_loss(scores * self.args.score_scale, positives, duplicates)

    def _listwise(self, inputs, queries, documents):
        return listwise_cross_entropy_loss(_pair_scores(queries, documents) * self.args.score_scale)

    def _score_distillation(self, inputs, queries, documents):
        in_batch = self.args.distill_in_batch
        if "teacher_scores" in inputs:
            if in_batch:
                raise ValueError("`distill_in_batch=True` needs a live `teacher`: stored scores are of own documents.")
            teacher_scores = inputs["teacher_scores"]
        elif self.teacher is None:
            raise ValueError("Score distillation needs a `teacher`, or rows with `teacher_scores`.")
        else:
            with torch.no_grad():
                teacher_queries = self.teacher(**inputs["teacher_queries"])
                teacher_documents = self.teacher(**inputs["teacher_documents"])
            if in_batch:
                teacher_scores, _, _ = self._scores_over_batch(inputs, teacher_queries, teacher_documents)
            else:
                teacher_scores = _pair_scores(teacher_queries, teacher_documents)
        if in_batch:
            scores, _, _ = self._scores_over_batch(inputs, queries, documents)
        else:
            scores = _pair_scores(queries, documents)
        return score_distillation_loss(
            scores * self.args.score_scale, teacher_scores * self.args.teacher_score_scale, self.args.temperature
        )

    def _token_distillation(self, inputs, queries, documents):
        with torch.no_grad():
            teacher_queries = self.teacher(**inputs["teacher_queries"])
            teacher_documents = self.teacher(**inputs["teacher_documents"])
        return token_distillation_loss(
            queries.embeddings,
            teacher_queries.embeddings,
            documents.embeddings,
            teacher_documents.embeddings,
            queries.embedding_mask,
            teacher_queries.embedding_mask,
            documents.embedding_mask,
            teacher_documents.embedding_mask,
            query_weight=self.args.query_weight,
            distance=self.args.distance,
        )

    def _embedding_distillation(self, inputs, queries, documents):
        with torch.no_grad():
            teacher = self.teacher(**inputs["teacher_queries"]).embeddings
        return embedding_distillation_loss(
            queries.embeddings, teacher, distance=self.args.distance, contrast_scale=self.args.contrast_scale
        )

    def _scores_over_batch(self, inputs, queries, documents):
        """
        Scores of this process's queries against the documents of all processes.

        Returns scores of shape `(num_queries, num_documents)`, and the positions of the queries' positives and the
        keys of the documents among those.
        """
        embeddings, mask = documents.embeddings, documents.embedding_mask
        num_queries, num_documents = len(queries.embeddings), len(embeddings)
        keys = inputs["document_keys"]
        if self.accelerator.num_processes > 1:
            if mask is not None:
                embeddings = self.accelerator.pad_across_processes(embeddings, dim=1)
                mask = self.accelerator.gather(self.accelerator.pad_across_processes(mask, dim=1))
            embeddings = gather_with_gradient(embeddings)
            keys = self.accelerator.gather(keys)
        if mask is None:
            scores = queries.embeddings @ embeddings.T
        else:
            scores = maxsim_scores(queries.embeddings, embeddings, queries.embedding_mask, mask)
        first = self.accelerator.process_index * num_documents
        positives = first + torch.arange(num_queries, device=scores.device) * (num_documents // num_queries)
        return scores, positives, keys


def _pair_scores(queries, documents):
    """Scores of each query's own documents, `(num_queries, nway)`."""
    of_query = documents.embeddings.unflatten(0, (len(queries.embeddings), -1))
    if documents.embedding_mask is None:
        return torch.einsum("qd,qnd->qn", queries.embeddings, of_query)
    mask = documents.embedding_mask.unflatten(0, (len(queries.embeddings), -1))
    return maxsim_pair_scores(queries.embeddings, of_query, queries.embedding_mask, mask)


__all__ = ["RetrieverTrainer"]
