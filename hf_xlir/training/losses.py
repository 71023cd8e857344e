"""
Training losses: pure tensor functions. They take scores, labels and embeddings, never a model.

Teacher tensors are constants: no gradient flows into them. Scores in half precision are reduced in float32.
"""

import torch
import torch.nn.functional as F

from .tensor_checks import check_mask, check_same_shape, floating
from .token_distillation import align_tokens, token_distillation_loss


READER_DISTILLATIONS = ("kl", "perplexity", "emdr2")


def in_batch_nce_loss(scores, positive_indices, mask=None):
    """
    Cross-entropy of every query over all documents of the batch, the label being its own positive document (DPR,
    equation 2, https://huggingface.co/papers/2004.04906).

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, num_documents)`):
            Score of every query with every document, higher is better.
        positive_indices (`torch.LongTensor` of shape `(num_queries,)`):
            Column of each query's positive document.
        mask (`torch.BoolTensor` of shape `(num_queries, num_documents)`, *optional*):
            `True` for documents left out of a query's softmax, such as another query's gold passage whose text equals
            this query's own. A query's positive may not be left out.

    Returns:
        `torch.FloatTensor`: The mean over queries, a scalar.

    Raises:
        ValueError: If shapes disagree, an index is out of range, or `mask` excludes a query's own positive.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import in_batch_nce_loss

    >>> queries, documents = torch.eye(2), torch.eye(4)[:, :2]  # a positive and a hard negative for each query
    >>> in_batch_nce_loss(queries @ documents.T, torch.tensor([0, 1]))
    tensor(0.7437)

    ```
    """
    scores = floating(scores, "scores", ("num_queries", "num_documents"))
    if positive_indices.shape != scores.shape[:1] or positive_indices.is_floating_point():
        raise ValueError(
            f"`positive_indices` must hold one document index for each of the {scores.shape[0]} queries, got a tensor "
            f"of shape {tuple(positive_indices.shape)} and dtype {positive_indices.dtype}."
        )
    positive_indices = positive_indices.long()
    if ((positive_indices < 0) | (positive_indices >= scores.shape[1])).any():
        raise ValueError(
            f"`positive_indices` must lie in [0, {scores.shape[1]}), the columns of `scores`, got "
            f"{positive_indices.tolist()}."
        )
    if mask is not None:
        check_mask(mask, "mask", scores.shape)
        if mask.gather(1, positive_indices[:, None]).any():
            raise ValueError("`mask` excludes a query's own positive: set it to False at `positive_indices`.")
        scores = scores.masked_fill(mask, -torch.inf)
    return F.cross_entropy(scores, positive_indices)


def listwise_cross_entropy_loss(scores):
    """
    Cross-entropy over the candidates of each query, the positive being the first (ColBERTv2,
    https://huggingface.co/papers/2112.01488; with two candidates, the pairwise softmax loss of ColBERT).

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Column 0 holds the positive's score, the others the negatives'.

    Returns:
        `torch.FloatTensor`: The mean over queries, a scalar.

    Raises:
        ValueError: If `scores` is not a matrix with at least two columns.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import listwise_cross_entropy_loss

    >>> listwise_cross_entropy_loss(torch.tensor([[2.0, 2.0]]))
    tensor(0.6931)

    ```
    """
    scores = floating(scores, "scores", ("num_queries", "nway"))
    if scores.shape[1] < 2:
        raise ValueError(
            "`scores` must hold the positive and at least one negative a query, got one column: the loss would be 0 "
            "whatever the score. For positives alone use `in_batch_nce_loss`."
        )
    return F.cross_entropy(scores, scores.new_zeros(scores.shape[0], dtype=torch.long))


def score_distillation_loss(student_scores, teacher_scores, temperature=1.0):
    r"""
    `KL(softmax(t / T) || softmax(s / T)) * T^2`, the mean over queries (DR.DECR,
    https://huggingface.co/papers/2112.08185, which trains with `T = 2`; the factor keeps the size of the gradient
    independent of `T`, https://huggingface.co/papers/1503.02531).

    Args:
        student_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Scores of the model in training.
        teacher_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Scores of the same candidates by the teacher; constants.
        temperature (`float`, *optional*, defaults to 1.0):
            `T`, positive.

    Returns:
        `torch.FloatTensor`: A scalar, 0 where the two distributions agree.

    Raises:
        ValueError: If shapes disagree or `temperature` is not positive.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import score_distillation_loss

    >>> score_distillation_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]]))  # only differences count
    tensor(0.)

    ```
    """
    student_scores = floating(student_scores, "student_scores", ("num_queries", "nway"))
    teacher_scores = floating(teacher_scores.detach(), "teacher_scores", ("num_queries", "nway"))
    check_same_shape(student_scores, "student_scores", teacher_scores, "teacher_scores")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    log_student = F.log_softmax(student_scores / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_scores / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def margin_mse_loss(student_scores, teacher_scores):
    """
    Mean squared error of the margins between the positive and each negative (Margin-MSE,
    https://huggingface.co/papers/2010.02666): the student may score on a scale of its own, as long as the differences
    are the teacher's.

    Args:
        student_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Scores of the model in training; column 0 holds the positive's, the others the negatives'.
        teacher_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Scores of the same candidates by the teacher; constants.

    Returns:
        `torch.FloatTensor`: The mean over queries and negatives, a scalar.

    Raises:
        ValueError: If shapes disagree or there is no negative.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import margin_mse_loss

    >>> margin_mse_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 6.0]]))  # margins of 1 and 3
    tensor(4.)

    ```
    """
    student_scores = floating(student_scores, "student_scores", ("num_queries", "nway"))
    teacher_scores = floating(teacher_scores.detach(), "teacher_scores", ("num_queries", "nway"))
    check_same_shape(student_scores, "student_scores", teacher_scores, "teacher_scores")
    if student_scores.shape[1] < 2:
        raise ValueError("`student_scores` must hold the positive and at least one negative a query, got one column.")
    difference = student_scores - teacher_scores
    # (s_0 - s_j) - (t_0 - t_j): the difference of margins is the margin of differences
    return (difference[:, :1] - difference[:, 1:]).square().mean()


def reader_distillation_loss(retriever_scores, reader_scores, kind="kl"):
    """
    The retriever learns which passages helped the reader; the mean over questions.

    Args:
        retriever_scores (`torch.FloatTensor` of shape `(num_questions, num_passages)`):
            The retriever's scores; a dual encoder divides its inner product by `sqrt(dim)` first.
        reader_scores (`torch.FloatTensor` of shape `(num_questions, num_passages)`):
            Constants, what they are is told by `kind`. `-inf` marks an absent passage (a question with fewer passages
            than its neighbours): it leaves both distributions, whatever the retriever's score.
        kind (`"kl"`, `"perplexity"` or `"emdr2"`, *optional*, defaults to `"kl"`):
            - `"kl"`: `KL(softmax(reader) || softmax(retriever))` of the reader's aggregated cross-attention scores
              (FiD-KD, equation 4, https://huggingface.co/papers/2012.04584).
            - `"perplexity"`: the same divergence, of the log-likelihoods of the answer given each passage alone, which
              are the posterior of passages under a uniform prior (Atlas' perplexity distillation,
              https://huggingface.co/papers/2208.03299):
              [`~hf_xlir.evaluation.answer_likelihood.answer_log_likelihoods`].
            - `"emdr2"`: `-log(sum(softmax(retriever) * exp(reader)))` of the same log-likelihoods: the answer's
              likelihood with the passage as a latent variable (Atlas' EMDR2, first of
              https://huggingface.co/papers/2106.05346).

    Returns:
        `torch.FloatTensor`: A scalar.

    Raises:
        ValueError: If shapes disagree, a question has no passage at all, there is no such `kind`, or `"emdr2"` is
            given scores above 0, which are no log-likelihoods.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import reader_distillation_loss

    >>> reader = torch.tensor([[0.0, 0.0, float("-inf")]])
    >>> reader_distillation_loss(torch.tensor([[1.0, 1.0, 9.0]]), reader)
    tensor(0.)

    ```
    """
    if kind not in READER_DISTILLATIONS:
        raise ValueError(f"`kind` must be one of {READER_DISTILLATIONS}, got {kind!r}.")
    axes = ("num_questions", "num_passages")
    retriever_scores = floating(retriever_scores, "retriever_scores", axes)
    reader_scores = floating(reader_scores.detach(), "reader_scores", axes)
    check_same_shape(retriever_scores, "retriever_scores", reader_scores, "reader_scores")
    absent = reader_scores == -torch.inf
    if absent.all(dim=1).any():
        rows = absent.all(dim=1).nonzero().flatten().tolist()
        raise ValueError(
            f"`reader_scores` has no passage (all -inf) for the questions in rows {rows}: leave such questions out."
        )
    log_retriever = F.log_softmax(retriever_scores.masked_fill(absent, -torch.inf), dim=1).masked_fill(absent, 0)
    if kind == "emdr2":
        if (reader_scores > 0).any():
            raise ValueError(
                f"`emdr2` needs log-likelihoods of answers, at most 0, got {float(reader_scores.max()):.3g}: "
                'attention scores are for `kind="kl"`.'
            )
        return -torch.logsumexp(log_retriever + reader_scores, dim=1).mean()
    log_reader = F.log_softmax(reader_scores, dim=1)
    # log_target=False takes 0 * log 0 as 0, which is what an absent passage needs
    return F.kl_div(log_retriever, log_reader.exp(), reduction="batchmean")


def embedding_distillation_loss(student, teacher, distance="mse", contrast_scale=None, contrast_mask=None):
    """
    Regression of sentence vectors onto the teacher's vectors of the same sentences, or of their translations
    (https://huggingface.co/papers/2004.09813), plus an optional in-batch contrast against them.

    The contrast is the cross-entropy of `cosine(student_i, teacher_j) * contrast_scale` with label `i`: the teacher's
    vectors of the other pairs are the negatives.

    Args:
        student (`torch.FloatTensor` of shape `(batch_size, embedding_dim)`):
            Vectors of the model in training.
        teacher (`torch.FloatTensor` of shape `(batch_size, embedding_dim)`):
            Vectors to reach; constants.
        distance (`str`, *optional*, defaults to `"mse"`):
            `"mse"`: mean squared difference over all dimensions. `"cosine"`: mean of 1 - cosine.
        contrast_scale (`float`, *optional*):
            Factor of the cosines in the contrast, an inverse temperature (20 is usual); `None` leaves the contrast
            out.
        contrast_mask (`torch.BoolTensor` of shape `(batch_size, batch_size)`, *optional*):
            `True` where the teacher's vector `j` is no negative for student `i`, as with two pairs of equal text.

    Returns:
        `torch.FloatTensor`: A scalar, the sum of the two terms.

    Raises:
        ValueError: If shapes disagree, or `distance` or `contrast_scale` is not one of the values above.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import embedding_distillation_loss

    >>> student, teacher = torch.eye(2), torch.eye(2) * 3
    >>> embedding_distillation_loss(student, teacher, distance="cosine", contrast_scale=1.0)
    tensor(0.3133)

    ```
    """
    student = floating(student, "student", ("batch_size", "embedding_dim"))
    teacher = floating(teacher.detach(), "teacher", ("batch_size", "embedding_dim"))
    check_same_shape(student, "student", teacher, "teacher")
    if distance == "mse":
        loss = F.mse_loss(student, teacher)
    elif distance == "cosine":
        loss = (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
    else:
        raise ValueError(f'`distance` must be "mse" or "cosine", got {distance!r}.')
    if contrast_scale is None:
        if contrast_mask is not None:
            raise ValueError("`contrast_mask` has no use without `contrast_scale`: set it, or drop the mask.")
        return loss
    if not contrast_scale > 0:
        raise ValueError(f"`contrast_scale` must be positive, got {contrast_scale}.")
    cosines = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T  # (batch, batch)
    labels = torch.arange(student.shape[0], device=student.device)
    return loss + in_batch_nce_loss(cosines * contrast_scale, labels, contrast_mask)


__all__ = [
    "READER_DISTILLATIONS",
    "align_tokens",
    "embedding_distillation_loss",
    "in_batch_nce_loss",
    "listwise_cross_entropy_loss",
    "margin_mse_loss",
    "reader_distillation_loss",
    "score_distillation_loss",
    "token_distillation_loss",
]
