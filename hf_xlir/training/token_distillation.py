"""Distillation of token embeddings: the greedy alignment of two texts' tokens, and the loss over aligned tokens."""

import torch

from .tensor_checks import check_mask, check_same_shape, floating


_TAKEN = 2.0**53  # above every key of `_strict_order`


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
            check_mask(mask, f"{name}_mask", rows.shape[:2])
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
    >>> from hf_xlir.training.token_distillation import count_distilled_tokens

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
    check_same_shape(student, "student_documents", teacher, "teacher_documents")
    kept = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    for name, mask in (("student", student_mask), ("teacher", teacher_mask)):
        if mask is not None:
            check_mask(mask, f"{name}_document_mask", kept.shape)
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


__all__ = ["align_tokens", "count_distilled_tokens", "token_distillation_loss"]
