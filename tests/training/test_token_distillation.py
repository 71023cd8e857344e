"""Token distillation in the sizes and number formats of training; its definition is tested in test_losses.py."""

import pytest
import torch

from hf_xlir.training.losses import align_tokens, token_distillation_loss


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def greedy(student, teacher):
    """One pair after another: the globally smallest cosine distance, then the lowest teacher row, then student row."""
    student, teacher = (torch.nn.functional.normalize(rows.double(), dim=-1) for rows in (student, teacher))
    distances = 1 - teacher @ student.T  # (teacher_length, student_length)
    partners = [-1] * len(student)
    for _ in range(min(distances.shape)):
        best = int(distances.argmin())  # the first of equal ones, row by row
        row, column = divmod(best, distances.shape[1])
        partners[column] = row
        distances[row], distances[:, column] = torch.inf, torch.inf
    return partners


@pytest.mark.parametrize("lengths", [(32, 32), (180, 180), (32, 180), (180, 32)])
def test_texts_as_long_as_queries_and_documents(lengths):
    student, teacher = normal(2, lengths[0], 24), normal(2, lengths[1], 24, seed=1)
    partners = align_tokens(student, teacher)
    for row in range(2):
        assert partners[row].tolist() == greedy(student[row], teacher[row])
        taken = [each for each in partners[row].tolist() if each >= 0]
        assert len(set(taken)) == len(taken) == min(lengths)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_float32(dtype):
    student, teacher = normal(4, 32, 16, dtype=dtype).requires_grad_(), normal(4, 32, 16, seed=1, dtype=dtype)
    documents = normal(4, 180, 16, seed=2, dtype=dtype), normal(4, 180, 16, seed=3, dtype=dtype)
    loss = token_distillation_loss(student, teacher, *documents)
    exact = token_distillation_loss(student.double(), teacher.double(), *(each.double() for each in documents))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)  # in the dtype itself the error would be 1e-3
    loss.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()


def test_partners_of_a_permuted_text_are_its_tokens():
    """A teacher that reads the student's tokens in another order is matched token by token, at no loss."""
    student = normal(3, 40, 16)
    order = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    teacher = student.gather(1, order[:, :, None].expand(-1, -1, 16))
    partners = align_tokens(student, teacher)
    assert torch.equal(order.gather(1, partners), torch.arange(40).expand(3, -1))
    assert token_distillation_loss(student, teacher, None, None).item() == 0


def test_tokens_left_over_get_no_gradient():
    student, teacher = normal(1, 6, 8).requires_grad_(), normal(1, 4, 8, seed=1)
    left = align_tokens(student, teacher)[0] < 0
    token_distillation_loss(student, teacher, None, None).backward()
    assert left.sum() == 2 and not student.grad[0, left].any() and student.grad[0, ~left].all(dim=1).all()
