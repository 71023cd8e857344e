"""Two gloo processes against one, in float64."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hf_xlir.training.distributed import gather_with_gradient
from hf_xlir.training.losses import in_batch_nce_loss


DIM, WORLD = 4, 2
LENGTHS = (3, 5)  # tokens of a document on each process
NUM_ROWS = (3, 1)  # a ragged last batch


def batch():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(8, DIM, generator=generator, dtype=torch.float64)
    documents = torch.randn(8, DIM, generator=generator, dtype=torch.float64)
    weights = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    tokens = torch.randn(8, max(LENGTHS), DIM, generator=generator, dtype=torch.float64)
    return queries, documents, tokens, weights


def half(tensor, rank):
    return tensor[rank * 4 : rank * 4 + 4]


def token_mask(rank_of_row):
    return torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[rank_of_row][:, None]


def dense_loss(queries, documents, weights, first=0):
    scores = (queries @ weights) @ documents.T
    return in_batch_nce_loss(scores, first + torch.arange(len(queries)))


def token_scores(queries, tokens, mask):
    similarities = torch.einsum("qd,nld->qnl", queries, tokens)
    return similarities.masked_fill(~mask, -torch.inf).amax(dim=2)


def averaged(gradient):
    """What DistributedDataParallel does to gradients."""
    gradient = gradient.clone()
    dist.all_reduce(gradient)
    return gradient / WORLD


def worker(rank, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    queries, documents, tokens, weights = batch()
    out = {}

    # own queries against everybody's documents: the loss of this process's share
    w = weights.clone().requires_grad_()
    loss = dense_loss(half(queries, rank), gather_with_gradient(half(documents, rank) @ w), w, first=rank * 4)
    loss.backward()
    out["own queries"] = (averaged(loss.detach()), averaged(w.grad))

    # everybody's queries against everybody's documents: every process has the loss of the whole batch
    w = weights.clone().requires_grad_()
    all_queries = gather_with_gradient(half(queries, rank) @ w)
    all_documents = gather_with_gradient(half(documents, rank) @ w)
    loss = in_batch_nce_loss(all_queries @ all_documents.T, torch.arange(8))
    loss.backward()
    out["whole batch"] = (loss.detach(), averaged(w.grad))

    # a gradient that arrives transposed, and one that is expanded from a scalar
    w = weights.clone().requires_grad_()
    gathered = gather_with_gradient(half(documents, rank) @ w)
    loss = in_batch_nce_loss(gathered.T @ half(queries, rank).repeat(2, 1), torch.arange(DIM)) + gathered.sum()
    loss.backward()
    out["strided"] = (averaged(loss.detach()), averaged(w.grad))

    # token vectors of another length on each process, and their masks
    w = weights.clone().requires_grad_()
    own = half(tokens, rank)[:, : LENGTHS[rank]] @ w
    own_mask = torch.ones(own.shape[:2], dtype=torch.bool)
    gathered, mask = gather_with_gradient(own), gather_with_gradient(own_mask)
    scores = token_scores(half(queries, rank), gathered, mask)
    loss = in_batch_nce_loss(scores, rank * 4 + torch.arange(4))
    loss.backward()
    out["tokens"] = (averaged(loss.detach()), averaged(w.grad))
    out["mask"] = mask
    out["pad value"] = gather_with_gradient(own, pad_value=-1.0).detach()[:, 3:]

    # another number of rows on each process
    x = torch.full((NUM_ROWS[rank], 2), float(rank + 1), requires_grad=True)
    gathered = gather_with_gradient(x)
    (gathered * torch.arange(8.0).view(4, 2) * (rank + 1)).sum().backward()
    out["ragged"], out["ragged gradient"] = gathered.detach(), x.grad

    out["integers"] = gather_with_gradient(torch.tensor([rank, 10 + rank]))
    out["no gradient"] = gather_with_gradient(half(documents, rank)).requires_grad
    try:
        gather_with_gradient(torch.zeros((2, 3) if rank else (2,)))
    except ValueError as error:
        out["error"] = str(error)
    results[rank] = out
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        shared = manager.dict()
        mp.spawn(worker, args=(port, shared), nprocs=WORLD)
        return [shared[rank] for rank in range(WORLD)]


def assert_equal_to_one_process(results, name, loss, weights):
    loss.backward()
    for rank in range(WORLD):
        torch.testing.assert_close(results[rank][name][0], loss.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(results[rank][name][1], weights.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["own queries", "whole batch"])
def test_in_batch_nce_equals_one_process(results, name):
    queries, documents, _, weights = batch()
    weights.requires_grad_()
    if name == "own queries":
        loss = dense_loss(queries, documents @ weights, weights)
    else:
        loss = in_batch_nce_loss((queries @ weights) @ (documents @ weights).T, torch.arange(8))
    assert_equal_to_one_process(results, name, loss, weights)


def test_gradients_that_are_not_contiguous(results):
    queries, documents, _, weights = batch()
    weights.requires_grad_()
    embedded = documents @ weights
    loss = embedded.sum()
    for rank in range(WORLD):
        scores = embedded.T @ half(queries, rank).repeat(2, 1)
        loss = loss + in_batch_nce_loss(scores, torch.arange(DIM)) / WORLD
    assert_equal_to_one_process(results, "strided", loss, weights)


def test_token_vectors_of_different_lengths(results):
    queries, _, tokens, weights = batch()
    weights.requires_grad_()
    mask = token_mask([0] * 4 + [1] * 4)
    loss = in_batch_nce_loss(token_scores(queries, tokens @ weights, mask), torch.arange(8))
    assert_equal_to_one_process(results, "tokens", loss, weights)
    for rank in range(WORLD):
        assert results[rank]["mask"].dtype == torch.bool and torch.equal(results[rank]["mask"], mask)
        padding = results[rank]["pad value"]
        assert (padding[:4] == -1).all() and not (padding[4:] == -1).any()


def test_different_numbers_of_rows(results):
    for rank in range(WORLD):
        assert results[rank]["ragged"].tolist() == [[1, 1], [1, 1], [1, 1], [2, 2]]
    # both processes' gradients add up: weights 1 and 2 of the same numbers
    assert results[0]["ragged gradient"].tolist() == [[0, 3], [6, 9], [12, 15]]
    assert results[1]["ragged gradient"].tolist() == [[18, 21]]


def test_integers_and_tensors_without_gradient(results):
    for rank in range(WORLD):
        assert results[rank]["integers"].tolist() == [0, 10, 1, 11]
        assert results[rank]["no gradient"] is False


def test_another_number_of_axes_is_an_error_on_every_process(results):
    for rank in range(WORLD):
        assert "same number of axes on every process, got [1, 2] by rank" in results[rank]["error"]


def test_identity_without_processes():
    tensor = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(tensor) is tensor
    with pytest.raises(ValueError, match="1 to 8 axes, got 0"):
        gather_with_gradient(torch.tensor(1.0))
