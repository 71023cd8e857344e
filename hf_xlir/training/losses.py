"""
Training losses: pure functions of scores, labels and embeddings.

Teacher tensors are constants: no gradient flows into them. Half-precision inputs are reduced in float32.
"""

import torch
import torch.nn.functional as F


READER_DISTILLATIONS = ("kl", "perplexity", "emdr2")
_TAKEN = 2.0**53  # above every key of `_strict_order`


def in_batch_nce_loss(scores, positive_indices, mask=None):
    """
    Cross-entropy of each query over all documents of the batch, with its own positive document as the label (DPR,
    equation 2, https://huggingface.co/papers/2004.04906).

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, num_documents)`):
            Score of each query with each document, higher is better.
        positive_indices (`torch.LongTensor` of shape `(num_queries,)`):
            Column of each query's positive document.
        mask (`torch.BoolTensor` of shape `(num_queries, num_documents)`, *optional*):
            `True` for documents to leave out of a query's softmax, such as another query's positive with the same
            text. A query's own positive must stay.

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
            f"`positive_indices` must hold one document index per query, {scores.shape[0]} in all, got a tensor of "
            f"shape {tuple(positive_indices.shape)} and dtype {positive_indices.dtype}."
        )
    positive_indices = positive_indices.long()
    if ((positive_indices < 0) | (positive_indices >= scores.shape[1])).any():
        raise ValueError(
            f"`positive_indices` must lie in [0, {scores.shape[1]}), the columns of `scores`, got "
            f"{positive_indices.tolist()}."
        )
    if mask is not None:
        _check_mask(mask, "mask", scores.shape)
        if mask.gather(1, positive_indices[:, None]).any():
            raise ValueError("`mask` excludes a query's own positive: set it to False at `positive_indices`.")
        scores = scores.masked_fill(mask, -torch.inf)
    return F.cross_entropy(scores, positive_indices)


def listwise_cross_entropy_loss(scores):
    """
    Cross-entropy over the candidates of each query, where the first is the positive (ColBERTv2,
    https://huggingface.co/papers/2112.01488). With two candidates it is the pairwise softmax loss of ColBERT.

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Scores of each query's candidates. Column 0 is the positive.

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
            "`scores` must have a column for the positive and at least one for a negative, got one column: the loss "
            "would always be 0. For rows without negatives use `in_batch_nce_loss`."
        )
    return F.cross_entropy(scores, scores.new_zeros(scores.shape[0], dtype=torch.long))


def score_distillation_loss(student_scores, teacher_scores, temperature=1.0):
    r"""
    `KL(softmax(t / T) || softmax(s / T)) * T^2`, the mean over queries (DR.DECR,
    https://huggingface.co/papers/2112.08185, with `T = 2`). The factor `T^2` keeps the size of the gradient
    independent of `T` (https://huggingface.co/papers/1503.02531).

    Args:
        student_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Scores of the model in training.
        teacher_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            The teacher's scores of the same candidates.
        temperature (`float`, *optional*, defaults to 1.0):
            `T`, positive.

    Returns:
        `torch.FloatTensor`: A scalar, 0 if the two distributions agree.

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
    _check_same_shape(student_scores, "student_scores", teacher_scores, "teacher_scores")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    log_student = F.log_softmax(student_scores / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_scores / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def margin_mse_loss(student_scores, teacher_scores):
    """
    Mean squared error between the student's and the teacher's margins, where a margin is the score of the positive
    minus that of a negative (Margin-MSE, https://huggingface.co/papers/2010.02666).

    Args:
        student_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            Scores of the model in training. Column 0 is the positive.
        teacher_scores (`torch.FloatTensor` of shape `(num_queries, nway)`):
            The teacher's scores of the same candidates.

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
    _check_same_shape(student_scores, "student_scores", teacher_scores, "teacher_scores")
    if student_scores.shape[1] < 2:
        raise ValueError(
            "`student_scores` must have a column for the positive and at least one for a negative, got one column."
        )
    difference = student_scores - teacher_scores
    # (s_0 - s_j) - (t_0 - t_j): the difference of margins is the margin of differences
    return (difference[:, :1] - difference[:, 1:]).square().mean()


def reader_distillation_loss(retriever_scores, reader_scores, kind="kl"):
    """
    Teaches a retriever which passages helped a reader. The loss is a mean over questions.

    Args:
        retriever_scores (`torch.FloatTensor` of shape `(num_questions, num_passages)`):
            The retriever's scores. Inner products of a dual encoder are divided by `sqrt(dim)` first.
        reader_scores (`torch.FloatTensor` of shape `(num_questions, num_passages)`):
            The reader's scores, in the unit that `kind` needs. `-inf` marks an absent passage, where a question has
            fewer passages than others. It is left out of both distributions.
        kind (`"kl"`, `"perplexity"` or `"emdr2"`, *optional*, defaults to `"kl"`):
            - `"kl"`: `KL(softmax(reader) || softmax(retriever))` of the reader's aggregated cross-attention scores
              (FiD-KD, equation 4, https://huggingface.co/papers/2012.04584).
            - `"perplexity"`: the same divergence of the log-likelihoods of the answer given each passage alone (Atlas'
              perplexity distillation, https://huggingface.co/papers/2208.03299). Their softmax is the posterior of the
              passages under a uniform prior.
            - `"emdr2"`: `-log(sum(softmax(retriever) * exp(reader)))` of the same log-likelihoods, the likelihood of
              the answer with the passage as a latent variable (Atlas' EMDR2, from
              https://huggingface.co/papers/2106.05346).

    Returns:
        `torch.FloatTensor`: A scalar.

    Raises:
        ValueError: If shapes disagree, a question has no passage, `kind` is unknown, or `"emdr2"` gets scores above
            0, which cannot be log-likelihoods.

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
    _check_same_shape(retriever_scores, "retriever_scores", reader_scores, "reader_scores")
    absent = reader_scores == -torch.inf
    if absent.all(dim=1).any():
        rows = absent.all(dim=1).nonzero().flatten().tolist()
        raise ValueError(
            f"`reader_scores` marks all passages of the questions in rows {rows} as absent (-inf): leave them out."
        )
    log_retriever = F.log_softmax(retriever_scores.masked_fill(absent, -torch.inf), dim=1).masked_fill(absent, 0)
    if kind == "emdr2":
        if (reader_scores > 0).any():
            raise ValueError(
                f"`emdr2` needs log-likelihoods of answers, at most 0, got {float(reader_scores.max()):.3g}. For "
                'attention scores use `kind="kl"`.'
            )
        return -torch.logsumexp(log_retriever + reader_scores, dim=1).mean()
    log_reader = F.log_softmax(reader_scores, dim=1)
    # log_target=False computes 0 * log 0 as 0, as absent passages need
    return F.kl_div(log_retriever, log_reader.exp(), reduction="batchmean")


def embedding_distillation_loss(student, teacher, distance="mse", contrast_scale=None, contrast_mask=None):
    """
    Regression of sentence vectors onto the teacher's vectors of the same sentences or their translations
    (https://huggingface.co/papers/2004.09813), plus an optional contrastive term.

    The contrastive term is the cross-entropy of `cosine(student_i, teacher_j) * contrast_scale` with label `i`. The
    teacher's vectors of the other rows are the negatives.

    Args:
        student (`torch.FloatTensor` of shape `(batch_size, embedding_dim)`):
            Vectors of the model in training.
        teacher (`torch.FloatTensor` of shape `(batch_size, embedding_dim)`):
            Vectors to reach.
        distance (`str`, *optional*, defaults to `"mse"`):
            `"mse"` is the mean squared difference over all dimensions, `"cosine"` the mean of 1 - cosine.
        contrast_scale (`float`, *optional*):
            Factor on the cosines, an inverse temperature; 20 is usual. `None` leaves the contrastive term out.
        contrast_mask (`torch.BoolTensor` of shape `(batch_size, batch_size)`, *optional*):
            `True` where the teacher's vector `j` must not be a negative for student `i`, such as for equal texts.

    Returns:
        `torch.FloatTensor`: A scalar, the sum of the two terms.

    Raises:
        ValueError: If shapes disagree, or `distance` or `contrast_scale` is invalid.

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
    _check_same_shape(student, "student", teacher, "teacher")
    if distance == "mse":
        loss = F.mse_loss(student, teacher)
    elif distance == "cosine":
        loss = (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
    else:
        raise ValueError(f'`distance` must be "mse" or "cosine", got {distance!r}.')
    if contrast_scale is None:
        if contrast_mask is not None:
            raise ValueError("`contrast_mask` has no effect without `contrast_scale`: set it, or drop the mask.")
        return loss
    if not contrast_scale > 0:
        raise ValueError(f"`contrast_scale` must be positive, got {contrast_scale}.")
    cosines = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T  # (batch, batch)
    labels = torch.arange(student.shape[0], device=student.device)
    return loss + in_batch_nce_loss(cosines * contrast_scale, labels, contrast_mask)


@torch.no_grad()
def align_tokens(student, teacher, student_mask=None, teacher_mask=None):
    """
    Greedy one-to-one alignment: repeatedly take the pair with the smallest cosine distance among the remaining teacher
    and student rows (DR.DECR, https://huggingface.co/papers/2112.08185). Ties go to the lowest teacher row, then to
    the lowest student row.

    Pairs are found in rounds. A pair that is the smallest of both its row and its column is certain to be taken, so
    each round takes all such pairs at once. A batch of 32 x 32 x 128 needs about 8 rounds.

    Distances are computed in float64. Equal rows give equal distances at any position. Two distances tie if they
    round to the same multiple of 2^-40 (2^-36 for 180 x 180 rows, so that a distance and its position fit into one
    float64). A row of zeros has distance 1 to each row. A row with NaN or infinity has distance 2: it gets its partner
    last, and the loss is then not finite.

    Args:
        student (`torch.FloatTensor` of shape `(batch_size, student_length, embedding_dim)`):
            Need not be normalized.
        teacher (`torch.FloatTensor` of shape `(batch_size, teacher_length, embedding_dim)`):
            Need not be normalized.
        student_mask (`torch.BoolTensor` of shape `(batch_size, student_length)`, *optional*):
            `True` for rows that take part; all by default.
        teacher_mask (`torch.BoolTensor` of shape `(batch_size, teacher_length)`, *optional*):
            `True` for rows that take part; all by default.

    Returns:
        `torch.LongTensor` of shape `(batch_size, student_length)`: The teacher row of each student row, or -1 for a
        student row without a partner. The number of pairs is that of the rows on the smaller side.

    Raises:
        ValueError: If batch sizes or embedding sizes differ, or a mask is not boolean or has another shape.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import align_tokens

    >>> student = torch.tensor([[[0.0, 1.0], [1.0, 0.1]]])
    >>> teacher = torch.tensor([[[1.0, 0.0], [0.5, 1.0]]])
    >>> align_tokens(student, teacher)
    tensor([[1, 0]])

    ```
    """
    for name, rows, mask in (("student", student, student_mask), ("teacher", teacher, teacher_mask)):
        if rows.ndim != 3 or not rows.is_floating_point():
            raise ValueError(
                f"`{name}` must be a floating-point tensor of shape (batch_size, {name}_length, embedding_dim), got "
                f"{rows.dtype} of shape {tuple(rows.shape)}."
            )
        if mask is not None:
            _check_mask(mask, f"{name}_mask", rows.shape[:2])
    if student.shape[0] != teacher.shape[0] or student.shape[2] != teacher.shape[2]:
        raise ValueError(
            "`student` and `teacher` must agree in batch size and embedding size, got shapes "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    device = student.device
    if device.type == "mps":  # has no float64
        student, teacher, student_mask, teacher_mask = (
            x if x is None else x.cpu() for x in (student, teacher, student_mask, teacher_mask)
        )
    partners = torch.full(student.shape[:2], -1, dtype=torch.long, device=student.device)
    if student.shape[1] == 0 or teacher.shape[1] == 0:
        return partners.to(device)
    cosine = _reproducible_cosine(teacher, student)  # (batch, teacher_length, student_length)
    keys = _strict_order(cosine)
    if teacher_mask is not None:
        keys.masked_fill_(~teacher_mask[:, :, None], _TAKEN)
    if student_mask is not None:
        keys.masked_fill_(~student_mask[:, None, :], _TAKEN)

    while True:
        smallest_of_teacher = keys.amin(dim=2)  # (batch, teacher_length)
        smallest_of_student = keys.amin(dim=1)  # (batch, student_length)
        nearest = (smallest_of_teacher % student.shape[1]).long()  # a key ends in its pair's position
        chosen = (smallest_of_student.gather(1, nearest) == smallest_of_teacher) & (smallest_of_teacher < _TAKEN)
        batch_row, teacher_row = chosen.nonzero(as_tuple=True)
        if len(batch_row) == 0:
            return partners.to(device)
        student_row = nearest[batch_row, teacher_row]
        partners[batch_row, student_row] = teacher_row
        keys[batch_row, teacher_row] = _TAKEN
        keys[batch_row, :, student_row] = _TAKEN


def token_distillation_loss(
    student_queries,
    teacher_queries,
    student_documents,
    teacher_documents,
    student_query_mask=None,
    teacher_query_mask=None,
    student_document_mask=None,
    teacher_document_mask=None,
    query_weight=0.5,
    distance="mse",
    align_documents=False,
):
    """
    `w * d(Qs, Qt aligned) + (1 - w) * d(Ds, Dt)`: the student's token embeddings of a non-English query approach the
    teacher's of its English translation, and those of an English document the teacher's of the same document (DR.DECR,
    https://huggingface.co/papers/2112.08185).

    Queries are aligned by [`align_tokens`], since a translation has its own order and number of tokens. Documents are
    the same text on both sides, so their tokens correspond by position under one tokenizer. Under two tokenizers use
    `align_documents=True`, which aligns them as well. `d` is a mean over the dimensions of all tokens that count: on
    an aligned side student tokens with a partner, otherwise tokens that both masks keep. A side without such tokens
    adds 0.

    Args:
        student_queries (`torch.FloatTensor` of shape `(batch_size, student_query_length, embedding_dim)`):
            `None` for both this and `teacher_queries` leaves the query term out. The document term keeps its weight.
        teacher_queries (`torch.FloatTensor` of shape `(batch_size, teacher_query_length, embedding_dim)`):
            Token embeddings of the translations.
        student_documents (`torch.FloatTensor` of shape `(batch_size, document_length, embedding_dim)`):
            `None` for both this and `teacher_documents` leaves the document term out.
        teacher_documents (`torch.FloatTensor` of shape `(batch_size, document_length, embedding_dim)`):
            Token embeddings of the same documents.
        student_query_mask (`torch.BoolTensor` of shape `(batch_size, student_query_length)`, *optional*):
            `True` for tokens that count. All by default, as for the other masks.
        teacher_query_mask (`torch.BoolTensor` of shape `(batch_size, teacher_query_length)`, *optional*):
            The same for the teacher's queries.
        student_document_mask (`torch.BoolTensor` of shape `(batch_size, document_length)`, *optional*):
            The same for the student's documents.
        teacher_document_mask (`torch.BoolTensor` of shape `(batch_size, document_length)`, *optional*):
            The same for the teacher's documents.
        query_weight (`float`, *optional*, defaults to 0.5):
            `w`, in [0, 1]; the default is the published one.
        distance (`str`, *optional*, defaults to `"mse"`):
            `"mse"` for squared or `"l1"` for absolute differences.
        align_documents (`bool`, *optional*, defaults to `False`):
            Whether to align documents as well. Their lengths may then differ between student and teacher.

    Returns:
        `torch.FloatTensor`: A scalar.

    Raises:
        ValueError: If shapes disagree, a side has only one of student and teacher, both sides are `None`, or
            `query_weight` or `distance` is invalid.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import token_distillation_loss

    >>> teacher = torch.eye(3)[None]
    >>> token_distillation_loss(teacher.roll(1, dims=1), teacher, teacher, teacher)  # word order costs nothing
    tensor(0.)

    ```
    """
    if not 0 <= query_weight <= 1:
        raise ValueError(f"`query_weight` must lie in [0, 1], got {query_weight}.")
    if distance not in ("mse", "l1"):
        raise ValueError(f'`distance` must be "mse" or "l1", got {distance!r}.')
    has_queries = _has_side("queries", student_queries, teacher_queries)
    has_documents = _has_side("documents", student_documents, teacher_documents)
    if not has_queries and not has_documents:
        raise ValueError("There is nothing to distil: pass queries, documents or both, for student and teacher.")

    loss = 0.0
    if has_queries:
        masks = student_query_mask, teacher_query_mask
        loss = loss + query_weight * _aligned_distance(student_queries, teacher_queries, *masks, distance)
    if has_documents:
        masks = student_document_mask, teacher_document_mask
        distance_of_side = _aligned_distance if align_documents else _distance_by_position
        loss = loss + (1 - query_weight) * distance_of_side(student_documents, teacher_documents, *masks, distance)
    return loss


def count_distilled_tokens(student_mask, teacher_mask, align):
    """How many tokens of one side [`token_distillation_loss`] averages over, a scalar: the masks alone decide it."""
    if align:  # one pair per token of the shorter side
        return torch.minimum(student_mask.sum(dim=1), teacher_mask.sum(dim=1)).sum()
    return (student_mask & teacher_mask).sum()


def _aligned_distance(student, teacher, student_mask, teacher_mask, distance):
    partners = align_tokens(student, teacher, student_mask, teacher_mask)
    rows = partners.clamp(min=0)[:, :, None].expand(-1, -1, teacher.shape[2])
    return _mean_distance(student, teacher.gather(1, rows), partners >= 0, distance)


def _distance_by_position(student, teacher, student_mask, teacher_mask, distance):
    student = floating(student, "student_documents", ("batch", "length", "dim"))
    _check_same_shape(student, "student_documents", teacher, "teacher_documents")
    kept = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    for name, mask in (("student", student_mask), ("teacher", teacher_mask)):
        if mask is not None:
            _check_mask(mask, f"{name}_document_mask", kept.shape)
            kept = kept & mask
    return _mean_distance(student, teacher, kept, distance)


def _strict_order(cosine):
    """
    One whole number below 2^53 per pair: first the distance on a grid, then the teacher row, then the student row. It
    is stored as float64, whose minima are ten times faster than those of int64.
    """
    pairs = cosine.shape[1] * cosine.shape[2]
    grid = min(40, 51 - (pairs - 1).bit_length())
    distance = (1 - cosine).nan_to_num_(nan=2.0)
    positions = torch.arange(pairs, dtype=cosine.dtype, device=cosine.device).view(cosine.shape[1:])
    return distance.mul_(2**grid).round_().mul_(pairs).add_(positions)


def _reproducible_cosine(first, second):
    """
    Cosines `(batch, first_length, second_length)` in float64 that are bit for bit equal for equal rows.

    A matrix product adds in an order that depends on a row's position, so the results of two equal rows can differ in
    the last bit, and a tie is lost. Here each unit row is split into a coarse part, a multiple of 2^-26, and a fine
    part, a multiple of 2^-48. The partial sums of coarse x coarse, and of coarse x fine up to 4,096 dimensions, then
    fit into the 53 bits of a float64: nothing is rounded, and the order does not matter. Fine x fine is below 2^-42
    and left out.
    """
    first_coarse, first_fine = _split(first)
    second_coarse, second_fine = (part.transpose(1, 2) for part in _split(second))
    # the products are exact; the two additions round equally for equal rows
    fine = torch.bmm(first_coarse, second_fine).add_(torch.bmm(first_fine, second_coarse))
    return torch.bmm(first_coarse, second_coarse).add_(fine)


def _split(rows):
    rows = rows.to(torch.float64, copy=True)  # in place from here: new pages cost more than the arithmetic
    rows.div_(rows.norm(dim=2, keepdim=True).clamp_(min=1e-300))
    coarse = (rows * 2**26).round_().mul_(2.0**-26)
    fine = rows.sub_(coarse).mul_(2.0**48).round_().mul_(2.0**-48)
    return coarse, fine


def _mean_distance(student, teacher, kept, distance):
    """Mean over kept tokens and dimensions of the squared or absolute difference; 0 where nothing is kept."""
    student, teacher = floating(student, "student"), floating(teacher.detach(), "teacher")
    # select before subtracting: values of dropped tokens, NaN included, must not reach the gradient
    difference = student[kept] - teacher[kept]  # (num_kept, dim)
    total = difference.square().sum() if distance == "mse" else difference.abs().sum()
    return total / max(difference.numel(), 1)


def _has_side(name, student, teacher):
    if (student is None) != (teacher is None):
        raise ValueError(f"`student_{name}` and `teacher_{name}` belong together: pass both, or `None` for both.")
    return student is not None


def floating(tensor, name, axes=None):
    """The tensor after a check of axes and type. Half precision becomes float32: bfloat16 keeps 3 digits."""
    if not tensor.is_floating_point():
        raise ValueError(f"`{name}` must be a floating-point tensor, got {tensor.dtype}.")
    if axes is not None and (tensor.ndim != len(axes) or 0 in tensor.shape):
        raise ValueError(f"`{name}` must have shape ({', '.join(axes)}), no axis empty, got {tuple(tensor.shape)}.")
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_same_shape(first, first_name, second, second_name):
    """Raise unless the shapes are equal."""
    if first.shape != second.shape:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have the same shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )


def _check_mask(mask, name, shape):
    """Raise unless `mask` is a boolean tensor of that shape."""
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"`{name}` must be a boolean tensor of shape {tuple(shape)}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )


__all__ = [
    "READER_DISTILLATIONS",
    "align_tokens",
    "count_distilled_tokens",
    "embedding_distillation_loss",
    "floating",
    "in_batch_nce_loss",
    "listwise_cross_entropy_loss",
    "margin_mse_loss",
    "reader_distillation_loss",
    "score_distillation_loss",
    "token_distillation_loss",
]
