"""Greedy alignment of token embeddings, vectorised over the batch."""

import torch

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
    >>> student = torch.tensor([[[0.0, 1.0], [1.0, 0.1]]])
    >>> teacher = torch.tensor([[[1.0, 0.0], [0.5, 1.0]]])
    >>> align_tokens(student, teacher)
    tensor([[1, 0]])
    ```
    """
    _check(student, teacher, student_mask, teacher_mask)
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
    a fine rest, a multiple of 2^-48: every partial sum of coarse x coarse, and of coarse x fine up to 1,024
    dimensions, then fits into the 53 bits of a float64, and a sum without rounding has no order. Fine x fine is below
    2^-44 and left out.
    """
    first_coarse, first_fine = _split(first)
    second_coarse, second_fine = _split(second)
    cosine = torch.bmm(first_coarse, second_coarse.transpose(1, 2))
    left = torch.cat([first_coarse, first_fine], dim=2)
    right = torch.cat([second_fine, second_coarse], dim=2)
    return cosine.add_(torch.bmm(left, right.transpose(1, 2)))


def _split(rows):
    rows = torch.nn.functional.normalize(rows.double(), dim=2)
    coarse = torch.round(rows * 2**26).mul_(2**-26)
    fine = torch.round((rows - coarse).mul_(2.0**48)).mul_(2.0**-48)
    return coarse, fine


def _check(student, teacher, student_mask, teacher_mask):
    for name, tensor in (("student", student), ("teacher", teacher)):
        if tensor.ndim != 3 or not tensor.is_floating_point():
            raise ValueError(
                f"`{name}` must be a floating-point tensor of shape (batch_size, {name}_length, embedding_dim), got "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}."
            )
    if student.shape[0] != teacher.shape[0] or student.shape[2] != teacher.shape[2]:
        raise ValueError(
            "Student and teacher must agree in batch size and embedding size, got shapes "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    for name, mask, rows in (("student_mask", student_mask, student), ("teacher_mask", teacher_mask, teacher)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != rows.shape[:2]):
            raise ValueError(
                f"`{name}` must be a boolean tensor of shape {tuple(rows.shape[:2])}, got {mask.dtype} of shape "
                f"{tuple(mask.shape)}."
            )


__all__ = ["align_tokens"]
