"""Packed late interaction against the padded one and float64 loops, and rankings that are merged block by block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index.scoring import TopK, packed_maxsim_scores
from hf_xlir.models.late_interaction import maxsim_scores


def random_problem(seed, lengths, num_queries, query_length, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(num_queries, query_length, 4, generator=generator, dtype=torch.float64).to(dtype)
    documents = torch.randn(sum(lengths), 4, generator=generator, dtype=torch.float64).to(dtype)
    return queries, documents, torch.tensor(lengths)


class TestPackedScores:
    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 10**6),
        st.lists(st.integers(1, 6), min_size=1, max_size=5),
        st.integers(1, 3),
        st.integers(1, 4),
    )
    def test_equal_loops(self, seed, lengths, num_queries, query_length):
        queries, documents, counts = random_problem(seed, lengths, num_queries, query_length)
        scores = packed_maxsim_scores(queries, documents, counts)
        assert scores.shape == (num_queries, len(lengths)) and scores.dtype == torch.float64
        for i, query in enumerate(queries):
            for j, document in enumerate(documents.split(lengths)):
                products = [
                    [sum(a * b for a, b in zip(q, d, strict=True)) for d in document.tolist()] for q in query.tolist()
                ]
                assert scores[i, j].item() == pytest.approx(sum(map(max, products)), abs=1e-12)

    def test_a_query_token_of_zeros_adds_nothing(self):
        queries, documents, counts = random_problem(0, [2, 3], 1, 4)
        expected = packed_maxsim_scores(queries[:, :3], documents, counts)
        queries[:, 3] = 0
        torch.testing.assert_close(packed_maxsim_scores(queries, documents, counts), expected)

    def test_only_negative_similarities(self):
        scores = packed_maxsim_scores(
            torch.tensor([[[1.0]]]), torch.tensor([[-3.0], [-2.0], [-5.0]]), torch.tensor([2, 1])
        )
        assert scores.tolist() == [[-2.0, -5.0]]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_agree_with_those_of_training(self, dtype):
        queries, documents, counts = random_problem(1, [5] * 20, 2, 32, dtype)
        found, expected = (
            packed_maxsim_scores(queries, documents, counts),
            maxsim_scores(queries, documents.view(20, 5, 4)),
        )
        assert found.dtype == expected.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-4  # one rounding of the dtype would be 0.25


class TestTopK:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.lists(st.integers(-2, 2), max_size=5), max_size=5), st.integers(1, 6))
    def test_blocks_equal_one_sort(self, blocks, k):
        """Few values, so that most draws have equal scores: the lowest row comes first."""
        best, row = TopK.empty(2), 0
        for block in blocks:
            scores = torch.tensor([block, [-each for each in block]]).float().view(2, -1)
            best = best.merge(scores, torch.arange(row, row + len(block)), k)
            row += len(block)
        values = [each for block in blocks for each in block]
        for i, sign in enumerate((1, -1)):
            ranked = sorted(range(len(values)), key=lambda position: (-sign * values[position], position))[:k]
            assert best.rows[i].tolist() == ranked
            assert best.scores[i].tolist() == [sign * values[position] for position in ranked]

    def test_rows_are_those_of_the_passages(self):
        best = TopK.empty(1).merge(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([4, 10, 7]), 2)
        assert best.rows.tolist() == [[10, 7]]
        best = best.merge(torch.tensor([[3.0]]), torch.tensor([11]), 2)
        assert best.rows.tolist() == [[10, 11]] and best.scores.tolist() == [[3.0, 3.0]]
