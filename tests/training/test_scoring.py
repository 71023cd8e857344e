"""Scores in training against plain loops, with queries that have different numbers of documents."""

import pytest
import torch

from hf_xlir.models.late_interaction import maxsim_scores
from hf_xlir.models.modeling_retriever import RetrieverOutput
from hf_xlir.training import objectives
from hf_xlir.training.objectives import batch_scores, pair_scores, score_margin


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def outputs(num_queries, num_documents, tokens):
    """Random embeddings that require a gradient, of tokens or of texts."""
    if not tokens:
        vectors = normal(num_queries, 5), normal(num_documents, 5, seed=1)
        return [RetrieverOutput(embeddings.requires_grad_()) for embeddings in vectors]
    vectors = normal(num_queries, 4, 5), normal(num_documents, 7, 5, seed=1)
    masks = torch.ones(num_queries, 4, dtype=torch.bool), torch.ones(num_documents, 7, dtype=torch.bool)
    masks[0][1, 2:] = masks[1][0, 1:5] = masks[1][2, :3] = False
    return [
        RetrieverOutput(embeddings.requires_grad_(), mask) for embeddings, mask in zip(vectors, masks, strict=True)
    ]


def score_of(queries, documents, i, j):
    if queries.embedding_mask is None:
        return queries.embeddings[i] @ documents.embeddings[j]
    tokens = documents.embeddings[j][documents.embedding_mask[j]]
    return sum(max(tokens @ token) for token in queries.embeddings[i][queries.embedding_mask[i]])


@pytest.mark.parametrize("tokens", [False, True])
def test_scores_of_all_pairs(tokens):
    queries, documents = outputs(3, 4, tokens)
    expected = [[score_of(queries, documents, i, j).item() for j in range(4)] for i in range(3)]
    torch.testing.assert_close(batch_scores(queries, documents), torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [False, True])
def test_scores_of_own_documents(tokens):
    queries, documents = outputs(2, 6, tokens)
    expected = [[score_of(queries, documents, i, 3 * i + j).item() for j in range(3)] for i in range(2)]
    torch.testing.assert_close(pair_scores(queries, documents), torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [False, True])
def test_different_numbers_of_documents(tokens):
    queries, documents = outputs(3, 6, tokens)
    present = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    scores = pair_scores(queries, documents, present)
    places = {(0, 0): 0, (0, 2): 1, (1, 0): 2, (1, 1): 3, (1, 2): 4, (2, 1): 5}
    for (i, j), document in places.items():
        assert scores[i, j].item() == pytest.approx(score_of(queries, documents, i, document).item(), abs=1e-12)
    scores[~present].sum().backward()
    assert (documents.embeddings.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("score", "num_documents"), [(batch_scores, 4), (pair_scores, 6)])
def test_scores_of_half_precision_are_not_rounded(dtype, tokens, score, num_documents):
    half = [
        RetrieverOutput(each.embeddings.to(dtype), each.embedding_mask) for each in outputs(2, num_documents, tokens)
    ]
    exact = [RetrieverOutput(each.embeddings.double(), each.embedding_mask) for each in half]
    scores = score(*half)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), score(*exact), rtol=0, atol=1e-5)


@pytest.mark.parametrize("most", [1, 60, 28 * 3, 28 * 9, 10_000])
def test_blocks_give_the_same_scores_and_gradients(monkeypatch, most):
    sizes = []

    def spy(queries, documents, *masks):
        sizes.append(len(queries) * queries.shape[1] * len(documents) * documents.shape[1])
        return maxsim_scores(queries, documents, *masks)

    monkeypatch.setattr(objectives, "maxsim_scores", spy)
    monkeypatch.setattr(objectives, "MAX_SIMILARITIES", most)
    weights = normal(5, 8, seed=2)
    gradients = []
    for score in (
        batch_scores,
        lambda q, d: maxsim_scores(q.embeddings, d.embeddings, q.embedding_mask, d.embedding_mask),
    ):
        queries, documents = outputs(5, 8, tokens=True)
        scores = score(queries, documents)
        (scores * weights).sum().backward()
        gradients.append((scores.detach(), queries.embeddings.grad, documents.embeddings.grad))
    for in_blocks, at_once in zip(*gradients, strict=True):
        torch.testing.assert_close(in_blocks, at_once, rtol=0, atol=1e-12)
    assert max(sizes) <= max(most, 28)  # a query and a document have 28 similarities
    assert (len(sizes) == 1) == (most == 10_000)


def test_margin_to_the_best_negative():
    scores = torch.tensor([[1.0, 5.0, 2.0], [9.0, 7.0, 3.0], [4.0, 4.5, 8.0]])
    positives = torch.tensor([0, 1, 2])
    assert score_margin(scores, positives).item() == pytest.approx(((1 - 5) + (7 - 9) + (8 - 4.5)) / 3)
    left_out = torch.zeros(3, 3, dtype=torch.bool)
    left_out[0, 1] = left_out[1, 0] = left_out[1, 2] = True  # nothing is left for the second
    assert score_margin(scores, positives, left_out).item() == pytest.approx(((1 - 2) + (8 - 4.5)) / 2)
    assert score_margin(scores[:1, :1], positives[:1]).item() == 0
    assert scores[0].tolist() == [1, 5, 2]
