"""
Training losses: pure tensor functions. They take scores, labels and embeddings, never a model.

Teacher tensors are constants: no gradient flows into them. Scores in half precision are reduced in float32.
"""

import torch
import torch.nn.functional as F


READER_DISTILLATIONS = ("kl", "perplexity", "emdr2")
_TAKEN = 2.0**53  # above every key of `_strict_order`


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
        _check_mask(mask, "mask", scores.shape)
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
    _check_same_shape(student_scores, "student_scores", teacher_scores, "teacher_scores")
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
    _check_same_shape(student_scores, "student_scores", teacher_scores, "teacher_scores")
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
    _check_same_shape(retriever_scores, "retriever_scores", reader_scores, "reader_scores")
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
    _check_same_shape(student, "student", teacher, "teacher")
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


@torch.no_grad()
def align_tokens(student, teacher, student_mask=None, teacher_mask=None):
    """
    Greedy one-to-one alignment: repeatedly take the pair of the globally smallest cosine distance over the remaining
    teacher and student rows (DR.DECR, https://huggingface.co/papers/2112.08185). Among equal distances the lowest
    teacher row comes first, then the lowest student row.

    Pairs are found in rounds, not one by one: a pair that is the smallest of both its row and its column will be
    taken by the greedy procedure whatever happens elsewhere, so every round takes all such pairs at once. A batch of
    32 x 32 x 128 needs about 8 rounds.

    Distances are computed in float64, equal for equal rows whatever their position, and count as tied when they round
    to the same multiple of 2^-40 (2^-36 for 180 x 180 rows, so that a distance and its place fit into one float64). A
    row of zeros has distance 1 to every row; a row with NaN or infinity has distance 2: it takes a partner last and
    the loss shows it.

    Args:
        student (`torch.FloatTensor` of shape `(batch_size, student_length, embedding_dim)`):
            Need not be normalised.
        teacher (`torch.FloatTensor` of shape `(batch_size, teacher_length, embedding_dim)`):
            Need not be normalised.
        student_mask (`torch.BoolTensor` of shape `(batch_size, student_length)`, *optional*):
            `True` for rows that take part; all by default.
        teacher_mask (`torch.BoolTensor` of shape `(batch_size, teacher_length)`, *optional*):
            `True` for rows that take part; all by default.

    Returns:
        `torch.LongTensor` of shape `(batch_size, student_length)`: The teacher row of each student row. As many pairs
        are made as the side with fewer rows has; -1 marks a student row without a partner: masked, or left over when
        the teacher's rows ran out. Teacher rows left over appear nowhere.

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
    `w * d(Qs, Qt aligned) + (1 - w) * d(Ds, Dt)`: the student's token embeddings of a non-English query are drawn to
    the teacher's of its English translation, those of an English document to the teacher's of the same document
    (DR.DECR, https://huggingface.co/papers/2112.08185).

    Queries are aligned by [`align_tokens`]: a translation has its own order and number of tokens. Documents are the
    same text on both sides, so that under one tokenizer tokens correspond by position. Under two tokenizers they do
    not: `align_documents=True` then pairs the documents' tokens as it does the queries'. `d` is the mean over the
    dimensions of all tokens that count: student tokens with a partner on an aligned side, and tokens kept by both
    masks where they correspond by position. A side without such tokens adds 0.

    Args:
        student_queries (`torch.FloatTensor` of shape `(batch_size, student_query_length, embedding_dim)`):
            `None`, here and in `teacher_queries`, leaves the query term out; the document term keeps its weight.
        teacher_queries (`torch.FloatTensor` of shape `(batch_size, teacher_query_length, embedding_dim)`):
            Constants.
        student_documents (`torch.FloatTensor` of shape `(batch_size, document_length, embedding_dim)`):
            `None`, here and in `teacher_documents`, leaves the document term out.
        teacher_documents (`torch.FloatTensor` of shape `(batch_size, document_length, embedding_dim)`):
            Constants.
        student_query_mask (`torch.BoolTensor` of shape `(batch_size, student_query_length)`, *optional*):
            `True` for tokens that count; all by default, here and below.
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
            Whether documents are aligned, too. Their lengths may then differ between student and teacher.

    Returns:
        `torch.FloatTensor`: A scalar.

    Raises:
        ValueError: If shapes disagree, a side has only one of student and teacher, both sides are `None`, or
            `query_weight` or `distance` is not one of the values above.

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
        raise ValueError("Nothing to distil: pass queries, documents or both, of student and teacher.")

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
    """
    How many tokens of one side [`token_distillation_loss`] averages over, which the masks alone decide.

    Args:
        student_mask (`torch.BoolTensor` of shape `(batch_size, student_length)`):
            `True` for the student's tokens that count.
        teacher_mask (`torch.BoolTensor` of shape `(batch_size, teacher_length)`):
            `True` for the teacher's.
        align (`bool`):
            Whether the side is aligned, or its tokens correspond by position.

    Returns:
        `torch.LongTensor`: A scalar.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.losses import count_distilled_tokens

    >>> student, teacher = torch.tensor([[True, True, False]]), torch.tensor([[False, True, True]])
    >>> count_distilled_tokens(student, teacher, align=True), count_distilled_tokens(student, teacher, align=False)
    (tensor(2), tensor(1))

    ```
    """
    if align:  # as many pairs as the side with fewer tokens has
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
    One whole number below 2^53 for each pair, stored as float64 (whose minima are ten times faster than int64's):
    first the distance on a grid, then the teacher row, then the student row.
    """
    pairs = cosine.shape[1] * cosine.shape[2]
    grid = min(40, 51 - (pairs - 1).bit_length())
    distance = (1 - cosine).nan_to_num_(nan=2.0)
    positions = torch.arange(pairs, dtype=cosine.dtype, device=cosine.device).view(cosine.shape[1:])
    return distance.mul_(2**grid).round_().mul_(pairs).add_(positions)


def _reproducible_cosine(first, second):
    """
    Cosines `(batch, first_length, second_length)` in float64 that are bit for bit equal for equal rows.

    A matrix product adds in an order that depends on a row's position, so two copies of one row can get results that
    differ in the last bit, and a tie is lost. Here each unit row is split into a coarse part, a multiple of 2^-26, and
    a fine rest, a multiple of 2^-48: every partial sum of coarse x coarse, and of coarse x fine up to 4,096
    dimensions, then fits into the 53 bits of a float64, and a sum without rounding has no order. Fine x fine is below
    2^-42 and left out.
    """
    first_coarse, first_fine = _split(first)
    second_coarse, second_fine = (part.transpose(1, 2) for part in _split(second))
    # each product is free of rounding; the two additions round, but alike wherever a pair stands
    fine = torch.bmm(first_coarse, second_fine).add_(torch.bmm(first_fine, second_coarse))
    return torch.bmm(first_coarse, second_coarse).add_(fine)


def _split(rows):
    rows = rows.to(torch.float64, copy=True)  # in place from here: fresh pages cost more than the arithmetic
    rows.div_(rows.norm(dim=2, keepdim=True).clamp_(min=1e-300))
    coarse = (rows * 2**26).round_().mul_(2.0**-26)
    fine = rows.sub_(coarse).mul_(2.0**48).round_().mul_(2.0**-48)
    return coarse, fine


def _mean_distance(student, teacher, kept, distance):
    """Mean over kept tokens and dimensions of the squared or absolute difference; 0 where nothing is kept."""
    student, teacher = floating(student, "student"), floating(teacher.detach(), "teacher")
    # select before subtracting: whatever stands at a dropped token, NaN included, must not reach the gradient
    difference = student[kept] - teacher[kept]  # (num_kept, dim)
    total = difference.square().sum() if distance == "mse" else difference.abs().sum()
    return total / max(difference.numel(), 1)


def _has_side(name, student, teacher):
    if (student is None) != (teacher is None):
        raise ValueError(f"`student_{name}` and `teacher_{name}` go together: pass both, or `None` for both.")
    return student is not None


def floating(tensor, name, axes=None):
    """Checks axes and type; half precision goes up to float32, since a log-softmax in bfloat16 keeps 3 digits."""
    if not tensor.is_floating_point():
        raise ValueError(f"`{name}` must be a floating-point tensor, got {tensor.dtype}.")
    if axes is not None and (tensor.ndim != len(axes) or 0 in tensor.shape):
        raise ValueError(f"`{name}` must have shape ({', '.join(axes)}), none of them 0, got {tuple(tensor.shape)}.")
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_same_shape(first, first_name, second, second_name):
    """Raises a `ValueError` that names both tensors unless their shapes agree."""
    if first.shape != second.shape:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )


def _check_mask(mask, name, shape):
    """Raises a `ValueError` unless `mask` is a boolean tensor of that shape."""
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
