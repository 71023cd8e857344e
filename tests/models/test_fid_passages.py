"""Where tokens lie, against lists written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.models.fid_passages import chunks_by_length, pack_tokens, unpack_tokens


# Which tokens are real: masks of a batch, with gaps and absent passages, but of no question all of them
MASKS = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(
            st.lists(st.sampled_from([0, 1]), min_size=shape[2], max_size=shape[2]),
            min_size=shape[1],
            max_size=shape[1],
        ).filter(lambda passages: any(map(any, passages))),
        min_size=shape[0],
        max_size=shape[0],
    )
)


class TestPacking:
    @given(MASKS)
    def test_real_tokens_keep_their_order_and_find_back(self, rows):
        mask = torch.tensor(rows)
        numbers = torch.arange(1.0, mask.numel() + 1).view(len(mask), -1)  # a number a token
        states, packed_mask = pack_tokens(numbers[..., None] * torch.tensor([1.0, -1.0]), mask)
        expected = [row[flat.bool()].tolist() for row, flat in zip(numbers, mask.flatten(1), strict=True)]
        assert states.shape[1] == max(map(len, expected)) or states.shape[1] == mask[0].numel()
        for row, of_row, found in zip(states, packed_mask, expected, strict=True):
            assert row[of_row.bool(), 0].tolist() == found and row[of_row.bool(), 1].neg().tolist() == found
        assert packed_mask.sum(1).tolist() == [len(each) for each in expected]
        assert packed_mask.dtype == mask.dtype

        unpacked = unpack_tokens(states[..., 0], mask)
        assert torch.equal(unpacked, numbers.view(mask.shape) * mask)

    def test_a_batch_without_a_gain_stays_as_it_is(self):
        mask = torch.tensor([[[1, 1], [1, 1]], [[0, 1], [1, 0]]])
        states = torch.randn(2, 4, 3)
        same, flat = pack_tokens(states, mask)
        assert same is states and flat.tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]
        assert unpack_tokens(states[..., 0], mask)[1, 0, 0] == 0

    def test_gradients_reach_real_tokens_alone(self):
        states = torch.randn(1, 4, 2, requires_grad=True)
        pack_tokens(states, torch.tensor([[[1, 0], [0, 1]]]))[0].sum().backward()
        assert states.grad[0, :, 0].tolist() == [1, 0, 0, 1]


class TestChunks:
    @given(st.lists(st.integers(0, 12), max_size=20), st.integers(1, 40))
    def test_each_passage_is_in_one_chunk(self, lengths, tokens_per_chunk):
        chunks = chunks_by_length(lengths, tokens_per_chunk)
        rows = [row for of_chunk, _ in chunks for row in of_chunk]
        assert sorted(rows) == [row for row, length in enumerate(lengths) if length]
        assert [lengths[row] for row in rows] == sorted(filter(None, lengths), reverse=True)
        for of_chunk, longest in chunks:
            assert longest == max(lengths[row] for row in of_chunk)
            assert len(of_chunk) == 1 or len(of_chunk) * longest <= tokens_per_chunk
        # no two neighbours would have fitted into one
        for (first, longest), (second, _) in zip(chunks, chunks[1:], strict=False):
            assert (len(first) + 1) * longest > tokens_per_chunk and second

    @pytest.mark.parametrize(
        "lengths, tokens, expected",
        [
            ([], 5, []),
            ([0, 0], 5, []),
            ([9, 2, 9, 3], 18, [([0, 2], 9), ([3, 1], 3)]),
            ([9, 2, 9, 3], 1, [([0], 9), ([2], 9), ([3], 3), ([1], 2)]),
        ],
    )
    def test_written_out(self, lengths, tokens, expected):
        assert chunks_by_length(lengths, tokens) == expected
