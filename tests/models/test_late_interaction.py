"""Late interaction against plain loops in float64, which follow ColBERT's definition word for word."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.models.late_interaction import maxsim_matches, maxsim_pair_scores, maxsim_scores


def unit_vectors(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1).to(dtype)


def random_mask(*shape, seed=0):
    """True for about half of the tokens, and for at least one of each text."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < 0.5
    kept = torch.randint(shape[-1], shape[:-1], generator=generator)
    return mask.scatter(-1, kept[..., None], True)


def score_of_pair(query, document, query_kept, document_kept):
    """The definition: the best kept document token of each kept query token, summed. Lists of floats only."""
    total = 0.0
    for vector, counts in zip(query.tolist(), query_kept.tolist(), strict=True):
        if counts:
            total += max(
                sum(a * b for a, b in zip(vector, other, strict=True))
                for other, kept in zip(document.tolist(), document_kept.tolist(), strict=True)
                if kept
            )
    return total


SIZES = st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(1, 6)] * 3, st.integers(0, 10**6))


class TestScores:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(SIZES)
    def test_equal_loops(self, sizes):
        num_queries, num_documents, query_length, document_length, dim, seed = sizes
        queries = unit_vectors(num_queries, query_length, dim, seed=seed)
        documents = unit_vectors(num_documents, document_length, dim, seed=seed + 1)
        query_mask = random_mask(num_queries, query_length, seed=seed)
        document_mask = random_mask(num_documents, document_length, seed=seed + 1)
        scores = maxsim_scores(queries, documents, query_mask, document_mask)
        assert scores.shape == (num_queries, num_documents) and scores.dtype == torch.float64
        for i in range(num_queries):
            for j in range(num_documents):
                expected = score_of_pair(queries[i], documents[j], query_mask[i], document_mask[j])
                assert scores[i, j].item() == pytest.approx(expected, abs=1e-12)

    def test_a_masked_token_does_not_beat_a_negative_similarity(self):
        # A 0 for masked tokens, or their own similarity of 1, would win over the true -0.6 and -0.8
        queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        documents = torch.tensor([[[-0.6, -0.8], [0.0, 0.0], [1.0, 0.0]], [[-0.6, -0.8], [-1.0, 0.0], [0.0, 1.0]]])
        document_mask = torch.tensor([[True, False, False], [True, True, False]])
        scores = maxsim_scores(queries, documents, None, document_mask)
        # Document 0: -0.6 + -0.8; document 1: -0.6, and 0.0 of its second token
        assert scores.tolist() == [[pytest.approx(-1.4), pytest.approx(-0.6)]]

    def test_a_masked_query_token_adds_nothing(self):
        queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        documents = torch.tensor([[[0.6, -0.8]]])
        assert maxsim_scores(queries, documents).item() == pytest.approx(-0.2)
        assert maxsim_scores(queries, documents, torch.tensor([[True, False]])).item() == pytest.approx(0.6)
        assert maxsim_scores(queries, documents, torch.tensor([[False, True]])).item() == pytest.approx(-0.8)
        assert maxsim_scores(queries, documents, torch.tensor([[False, False]])).item() == 0.0

    def test_what_is_masked_may_hold_anything(self):
        queries, documents = unit_vectors(2, 3, 4), unit_vectors(3, 5, 4, seed=1)
        query_mask, document_mask = random_mask(2, 3), random_mask(3, 5, seed=1)
        expected = maxsim_scores(queries, documents, query_mask, document_mask)
        for filling in (1e9, -1e9, math.nan):
            scores = maxsim_scores(
                queries.masked_fill(~query_mask[..., None], filling),
                documents.masked_fill(~document_mask[..., None], filling),
                query_mask,
                document_mask,
            )
            assert torch.equal(scores, expected)

    def test_masks_of_ones_and_zeros(self):
        queries, documents = unit_vectors(2, 3, 4), unit_vectors(3, 5, 4, seed=1)
        query_mask, document_mask = random_mask(2, 3), random_mask(3, 5, seed=1)
        expected = maxsim_scores(queries, documents, query_mask, document_mask)
        assert torch.equal(maxsim_scores(queries, documents, query_mask.long(), document_mask.long()), expected)
        assert not torch.equal(maxsim_scores(queries, documents), expected)

    def test_half_precision(self):
        queries, documents = unit_vectors(2, 3, 8), unit_vectors(3, 5, 8, seed=1)
        document_mask = random_mask(3, 5, seed=1)
        expected = maxsim_scores(queries, documents, None, document_mask)
        for dtype in (torch.bfloat16, torch.float16):
            scores = maxsim_scores(queries.to(dtype), documents.to(dtype), None, document_mask)
            assert (scores.double() - expected).abs().max() < 0.03

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_float32(self, dtype):
        """Sums of 32 cosines in bfloat16 have steps of 0.125: most of 50 close documents would have equal scores."""
        base = unit_vectors(1, 1, 16)
        queries, documents = (
            torch.nn.functional.normalize(3 * base + unit_vectors(n, length, 16, seed=n), dim=-1).to(dtype)
            for n, length in ((1, 32), (50, 9))
        )
        # Each cosine has the dtype's own error
        best = (queries[0] @ documents.flatten(0, 1).T).view(32, 50, 9).amax(dim=2)
        expected = best.double().sum(dim=0)
        assert len(expected.unique()) > 35 and (dtype == torch.float16 or len(expected.to(dtype).unique()) < 15)
        for scores in (maxsim_scores(queries, documents)[0], maxsim_pair_scores(queries, documents[None])[0]):
            assert scores.dtype == torch.float32
            assert (scores - expected).abs().max() < 1e-5

    def test_autocast_does_not_tie_scores(self):
        queries, documents = unit_vectors(1, 32, 8, dtype=torch.float32), unit_vectors(5, 9, 8, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert maxsim_scores(queries, documents).dtype == torch.float32
            assert maxsim_pair_scores(queries, documents[None]).dtype == torch.float32


class TestPairScores:
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(SIZES)
    def test_equal_loops(self, sizes):
        num_queries, nway, query_length, document_length, dim, seed = sizes
        queries = unit_vectors(num_queries, query_length, dim, seed=seed)
        documents = unit_vectors(num_queries, nway, document_length, dim, seed=seed + 1)
        query_mask = random_mask(num_queries, query_length, seed=seed)
        document_mask = random_mask(num_queries, nway, document_length, seed=seed + 1)
        scores = maxsim_pair_scores(queries, documents, query_mask, document_mask)
        assert scores.shape == (num_queries, nway)
        for i in range(num_queries):
            for j in range(nway):
                expected = score_of_pair(queries[i], documents[i, j], query_mask[i], document_mask[i, j])
                assert scores[i, j].item() == pytest.approx(expected, abs=1e-12)

    def test_a_masked_token_does_not_beat_a_negative_similarity(self):
        queries = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        documents = torch.tensor([[[[-0.6, -0.8], [1.0, 0.0]]], [[[-0.6, -0.8], [0.0, 0.0]]]])
        document_mask = torch.tensor([[[True, False]], [[True, False]]])
        scores = maxsim_pair_scores(queries, documents, None, document_mask)
        assert scores.flatten().tolist() == pytest.approx([-0.6, -0.8])


class TestMatches:
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(SIZES)
    def test_equal_loops(self, sizes):
        _, _, query_length, document_length, dim, seed = sizes
        query, document = unit_vectors(query_length, dim, seed=seed), unit_vectors(document_length, dim, seed=seed + 1)
        mask = random_mask(document_length, seed=seed)
        similarities, positions = maxsim_matches(query, document, mask)
        assert similarities.shape == positions.shape == (query_length,) and positions.dtype == torch.int64
        for i, vector in enumerate(query.tolist()):
            products = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in document.tolist()]
            best = max(value for value, kept in zip(products, mask.tolist(), strict=True) if kept)
            assert similarities[i].item() == pytest.approx(best, abs=1e-12)
            assert mask[positions[i]] and products[positions[i]] == pytest.approx(best, abs=1e-12)

    def test_an_example(self):
        query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        document = torch.tensor([[0.0, 1.0], [0.8, -0.6], [0.6, 0.8]])
        similarities, positions = maxsim_matches(query, document)
        assert positions.tolist() == [1, 0, 2]
        assert similarities.tolist() == pytest.approx([0.8, 1.0, 1.0])
        similarities, positions = maxsim_matches(query, document, torch.tensor([False, True, False]))
        assert positions.tolist() == [1, 1, 1]
        assert similarities.tolist() == pytest.approx([0.8, -0.6, 0.0], abs=1e-7)

    def test_they_explain_the_score(self):
        query, document = unit_vectors(1, 7, 4), unit_vectors(1, 9, 4, seed=1)
        mask = random_mask(1, 9)
        similarities, _ = maxsim_matches(query[0], document[0], mask[0])
        assert similarities.sum().item() == pytest.approx(maxsim_scores(query, document, None, mask).item(), abs=1e-12)


class TestGradients:
    def test_equal_finite_differences(self):
        queries, documents = unit_vectors(2, 3, 4).requires_grad_(), unit_vectors(3, 5, 4, seed=1).requires_grad_()
        query_mask, document_mask = random_mask(2, 3), random_mask(3, 5, seed=1)
        assert torch.autograd.gradcheck(
            lambda q, d: maxsim_scores(q, d, query_mask, document_mask), (queries, documents)
        )
        documents, document_mask = unit_vectors(2, 3, 5, 4, seed=2).requires_grad_(), random_mask(2, 3, 5, seed=2)
        assert torch.autograd.gradcheck(
            lambda q, d: maxsim_pair_scores(q, d, query_mask, document_mask), (queries, documents)
        )

    def test_only_the_matched_tokens_learn(self):
        queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
        documents = torch.tensor([[[0.8, 0.6], [0.0, -1.0], [1.0, 0.0]]], requires_grad=True)
        query_mask, document_mask = torch.tensor([[True, False]]), torch.tensor([[True, True, False]])
        maxsim_scores(queries, documents, query_mask, document_mask).sum().backward()
        assert queries.grad.tolist() == [[[pytest.approx(0.8), pytest.approx(0.6)], [0.0, 0.0]]]
        assert documents.grad.tolist() == [[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]


Q, D, P = torch.ones(2, 3, 4), torch.ones(5, 6, 4), torch.ones(2, 5, 6, 4)
NO_TOKEN = torch.ones(5, 6, dtype=torch.bool).index_fill_(0, torch.tensor([1, 3]), False)


class TestErrors:
    @pytest.mark.parametrize(
        "function, arguments, message",
        [
            (maxsim_scores, (Q[0], D), r"3 and document embeddings of 3 dimensions.*\(3, 4\) and \(5, 6, 4\)"),
            (maxsim_scores, (Q, P), "document embeddings of 3 dimensions"),
            (maxsim_pair_scores, (Q, D), "document embeddings of 4 dimensions"),
            (maxsim_scores, (Q, D[..., :3]), "have 4 dimensions, document embeddings 3"),
            (maxsim_pair_scores, (Q, P[..., :3]), "have 4 dimensions, document embeddings 3"),
            (maxsim_matches, (Q[0], D[0, :, :3]), "have 4 dimensions, document embeddings 3"),
            (maxsim_scores, (Q, D, torch.ones(2, 4)), r"`query_mask` must have shape \(2, 3\), got \(2, 4\)"),
            (maxsim_scores, (Q, D, None, torch.ones(6, 5)), r"`document_mask` must have shape \(5, 6\)"),
            (maxsim_pair_scores, (Q, P, None, torch.ones(5, 6)), r"`document_mask` must have shape \(2, 5, 6\)"),
            (maxsim_matches, (Q[0], D[0], torch.ones(5)), r"`document_mask` must have shape \(1, 6\)"),
            (maxsim_pair_scores, (Q, torch.ones(3, 5, 6, 4)), "2 queries, but documents for 3"),
            (maxsim_scores, (Q, D, None, NO_TOKEN), r"Documents \[1, 3\] keep no token"),
            (maxsim_pair_scores, (Q, P, None, NO_TOKEN.expand(2, 5, 6)), "keep no token"),
            (maxsim_matches, (Q[0], D[0], torch.zeros(6)), "keep no token"),
        ],
    )
    def test_what_does_not_fit_is_named(self, function, arguments, message):
        with pytest.raises(ValueError, match=message):
            function(*arguments)

    def test_a_query_may_keep_no_token(self):
        assert maxsim_scores(Q, D, torch.zeros(2, 3)).tolist() == [[0.0] * 5] * 2
