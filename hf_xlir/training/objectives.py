"""The training objectives as functions of embeddings: what a batch's loss is, whoever encoded it."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .distributed import gather_with_gradient, process_index
from .losses import (
    embedding_distillation_loss,
    in_batch_nce_loss,
    listwise_cross_entropy_loss,
    margin_mse_loss,
    reader_distillation_loss,
    score_distillation_loss,
    token_distillation_loss,
)
from .scoring import batch_scores, pair_scores, score_margin
from .tensor_checks import floating
from .token_distillation import count_distilled_tokens


class ObjectiveOutput(NamedTuple):
    """
    What an objective makes of a batch.

    Args:
        terms (`dict[str, torch.FloatTensor]`):
            Scalars whose sum is the loss. Each is a mean over this process's rows, or over its tokens, times its
            weight.
        margin (`torch.FloatTensor`, *optional*):
            See [`score_margin`]; `None` where the objective has no positive and negatives.
    """

    terms: dict
    margin: torch.Tensor | None = None


class Objective:
    r"""
    The loss of a batch as a function of embeddings alone. Every process calls it with its own part of the batch; what
    spans the batch spans all processes.

    Args:
        args (`RetrieverTrainingArguments`):
            Name the objective and its settings.
        align_documents (`bool`, *optional*, defaults to `False`):
            Whether token distillation aligns documents' tokens, as it does queries'; see [`token_distillation_loss`].

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir import RetrieverTrainingArguments
    >>> from hf_xlir.models.modeling_retriever import RetrieverOutput
    >>> from hf_xlir.training.objectives import Objective

    >>> objective = Objective(RetrieverTrainingArguments("out", objective="listwise", use_cpu=True))
    >>> outputs = {"queries": RetrieverOutput(torch.eye(2)), "documents": RetrieverOutput(torch.eye(2)[[0, 1, 1, 0]])}
    >>> objective(outputs, {})
    ObjectiveOutput(terms={'listwise': tensor(0.3133)}, margin=tensor(1.))

    ```
    """

    def __init__(self, args, align_documents=False):
        self.args = args
        self.align_documents = align_documents

    def __call__(self, outputs, inputs):
        """
        The loss of a batch.

        Args:
            outputs (`dict[str, RetrieverOutput]`):
                The student's `queries` and `documents` as far as it encodes them, and what [`Objective.teacher_texts`]
                names, as `teacher_queries` and `teacher_documents`.
            inputs (`dict`):
                The batch of [`RetrieverCollator`]: keys of texts and what the teacher or a reader said before.

        Returns:
            [`ObjectiveOutput`]

        Raises:
            ValueError: If the batch lacks what the objective compares.
        """
        return getattr(self, f"_{self.args.objective}")(outputs, inputs)

    def teacher_texts(self, inputs):
        """Which texts of a batch the teacher has to encode: some of `"queries"` and `"documents"`."""
        args = self.args
        needs_queries = needs_documents = False
        if args.objective in ("score_distillation", "margin_mse"):
            needs_queries = args.distill_in_batch or "teacher_scores" not in inputs
            needs_documents = needs_queries or args.teacher_documents
        elif args.objective == "token_distillation":
            needs_queries, needs_documents = True, "documents" in inputs
        elif args.objective == "embedding_distillation":
            needs_queries = "teacher_embeddings" not in inputs
        return ["queries"] * needs_queries + ["documents"] * needs_documents

    def count_items(self, inputs):
        """
        How many items each term of the loss is a mean over.

        Args:
            inputs (`dict`):
                The batch.

        Returns:
            `dict[str, torch.LongTensor]`: Scalars. `rows` counts for every term that has no number of its own.
        """
        queries = inputs["queries"]
        if self.args.objective != "token_distillation":
            mask = _mask(queries)
            return {"rows": torch.full((), len(mask), device=mask.device)}
        counts = {"queries": count_distilled_tokens(_mask(queries), _mask(inputs["teacher_queries"]), align=True)}
        if "documents" in inputs:
            masks = _mask(inputs["documents"]), _mask(inputs["teacher_documents"])
            counts["documents"] = count_distilled_tokens(*masks, self.align_documents)
        return counts

    def _in_batch_nce(self, outputs, inputs):
        scores = batch_scores(outputs["queries"], outputs["documents"]) * self.args.score_scale
        positives, copies = _own_columns(inputs["document_keys"], len(scores))
        loss = in_batch_nce_loss(scores, positives, copies)
        return ObjectiveOutput({"in_batch": loss}, score_margin(scores, positives, copies))

    def _listwise(self, outputs, inputs):
        scores = pair_scores(outputs["queries"], outputs["documents"]) * self.args.score_scale
        terms = {"listwise": listwise_cross_entropy_loss(scores)}
        if self.args.in_batch_weight:
            terms["in_batch"] = self.args.in_batch_weight * self._in_batch_nce(outputs, inputs).terms["in_batch"]
        return ObjectiveOutput(terms, _margin_of_first(scores))

    def _score_distillation(self, outputs, inputs):
        scores, teacher_scores = self._student_and_teacher_scores(outputs, inputs)
        loss = score_distillation_loss(scores, teacher_scores, self.args.temperature)
        if self.args.distill_in_batch:
            margin = score_margin(scores, *_own_columns(inputs["document_keys"], len(scores)))
        else:
            margin = _margin_of_first(scores)
        return ObjectiveOutput({"score_distillation": loss}, margin)

    def _margin_mse(self, outputs, inputs):
        scores, teacher_scores = self._student_and_teacher_scores(outputs, inputs)
        return ObjectiveOutput({"margin_mse": margin_mse_loss(scores, teacher_scores)}, _margin_of_first(scores))

    def _student_and_teacher_scores(self, outputs, inputs):
        score = batch_scores if self.args.distill_in_batch else pair_scores
        queries, documents = outputs["queries"], outputs.get("documents")
        if self.args.teacher_documents:
            documents = outputs["teacher_documents"]
        scores = score(queries, documents)
        if scores.shape[1] == 1:
            raise ValueError(
                "One document leaves nothing to distil: add `negatives`, or set `distill_in_batch=True` for "
                "`score_distillation`."
            )
        if "teacher_queries" in outputs:
            teacher_scores = score(outputs["teacher_queries"], outputs["teacher_documents"])
        else:
            teacher_scores = inputs["teacher_scores"]
        return scores * self.args.score_scale, teacher_scores * self.args.teacher_score_scale

    def _reader_distillation(self, outputs, inputs):
        if "reader_scores" not in inputs:
            raise ValueError("Reader distillation needs rows with `reader_scores`, and a collator that reads them.")
        reader_scores, queries = inputs["reader_scores"] * self.args.teacher_score_scale, outputs["queries"]
        scores = pair_scores(queries, outputs["documents"], reader_scores > -torch.inf) * self.args.score_scale
        if queries.embedding_mask is None:  # section 3.3 of the paper
            scores = scores / math.sqrt(queries.embeddings.shape[1])
        return ObjectiveOutput(
            {"reader_distillation": reader_distillation_loss(scores, reader_scores, self.args.reader_distillation)}
        )

    def _token_distillation(self, outputs, inputs):
        terms = {}
        for kind, side in (("queries", 0), ("documents", 2)):
            if kind not in outputs:
                continue
            student, teacher = outputs[kind], outputs[f"teacher_{kind}"]
            embeddings, masks = [None] * 4, [None] * 4
            embeddings[side : side + 2] = student.embeddings, teacher.embeddings
            masks[side : side + 2] = student.embedding_mask, teacher.embedding_mask
            terms[kind] = token_distillation_loss(
                *embeddings,
                *masks,
                query_weight=self.args.query_weight,
                distance=self.args.distance,
                align_documents=self.align_documents,
            )
        return ObjectiveOutput(terms)

    def _embedding_distillation(self, outputs, inputs):
        student, margin = floating(outputs["queries"].embeddings, "student"), None
        stored = "teacher_queries" not in outputs
        teacher = inputs["teacher_embeddings"] if stored else outputs["teacher_queries"].embeddings
        teacher = teacher.to(student.dtype)
        terms = {"regression": embedding_distillation_loss(student, teacher, self.args.distance)}
        if self.args.contrast_scale is not None:
            # the teacher's vectors of all pairs, of all processes, are negatives
            teacher = gather_with_gradient(F.normalize(teacher, dim=1))
            scores = F.normalize(student, dim=1) @ teacher.T * self.args.contrast_scale
            positives, copies = _own_columns(inputs["teacher_query_keys"], len(scores))
            terms["contrast"] = in_batch_nce_loss(scores, positives, copies)
            margin = score_margin(scores, positives, copies)
        return ObjectiveOutput(terms, margin)


def _own_columns(own_keys, num_queries):
    """
    Column of each query's positive among the texts of all processes, and which other columns are copies of it:
    `(num_queries,)` and `(num_queries, number of texts)`. A query's texts stand together, its positive first.
    """
    marked = torch.stack([own_keys, torch.full_like(own_keys, process_index())], dim=1)
    keys, processes = gather_with_gradient(marked).unbind(dim=1)
    first = (processes < process_index()).sum()
    positives = first + torch.arange(num_queries, device=keys.device) * (len(own_keys) // num_queries)
    copies = keys == keys[positives][:, None]
    return positives, copies.scatter(1, positives[:, None], False)


def _margin_of_first(scores):
    return score_margin(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def _mask(texts):
    """`True` for tokens whose vectors count, as the models take it."""
    return (texts["attention_mask"] if texts.get("embedding_mask") is None else texts["embedding_mask"]).bool()


__all__ = ["Objective", "ObjectiveOutput"]
