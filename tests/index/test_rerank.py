"""MaxSim from codes, against float64 loops over decoded vectors."""

import numpy as np
import pytest
import torch

from hf_xlir.index.late_interaction import search as rerank
from hf_xlir.index.late_interaction.codec import ResidualCodec, random_rotation
from hf_xlir.index.late_interaction.search import integer_products, rerank_scores, similarities, take_rows


def made_up(lengths, dim=16, nbits=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotation(dim, seed=0)
    codec = ResidualCodec(torch.randn(5, rotation.shape[1], generator=generator), rotation, nbits)
    tokens = codec.encode(torch.randn(sum(lengths), dim, generator=generator))
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return codec, tokens, offsets, torch.randn(3, dim, generator=generator)


def loop(codec, tokens, offsets, query, row):
    decoded = codec.decode(tokens).double().numpy()[offsets[row] : offsets[row + 1]]
    return sum(max(float(np.dot(q, v)) for v in decoded) for q in query.double().numpy())


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dim", [16, 20, 64])
def test_scores_are_those_of_decoded_vectors(nbits, dim):
    lengths = [3, 1, 7, 2, 7, 30]
    codec, tokens, offsets, query = made_up(lengths, dim, nbits)
    rows = torch.tensor([5, 0, 3, 1, 4])
    scores = rerank_scores(codec.rotate_query(query), rows, offsets, tokens, nbits)
    expected = [loop(codec, tokens, offsets, query, row) for row in rows.tolist()]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=0.01, atol=0.004 * dim)  # queries have 8 bits


@pytest.mark.parametrize("most_tokens", [1, 4, 10, 1000])
def test_blocks_do_not_matter(most_tokens, monkeypatch):
    codec, tokens, offsets, query = made_up([3, 1, 7, 2, 7, 30])
    query, rows = codec.rotate_query(query), torch.tensor([2, 5, 0, 1, 3, 4])
    whole = rerank_scores(query, rows, offsets, tokens, 4)
    monkeypatch.setattr(rerank, "TOKENS_PER_BLOCK", most_tokens)
    torch.testing.assert_close(rerank_scores(query, rows, offsets, tokens, 4), whole)


def test_no_rows_have_no_scores():
    codec, tokens, offsets, query = made_up([3, 1])
    rows = torch.zeros(0, dtype=torch.long)
    assert rerank_scores(codec.rotate_query(query), rows, offsets, tokens, 4).shape == (0,)


def test_similarities_are_inner_products():
    codec, tokens, _, query = made_up([6], nbits=8)
    prepared, places = codec.rotate_query(query), torch.tensor([4, 0, 4])
    expected = codec.decode(tokens)[places] @ query.T
    found = similarities(prepared, take_rows(tokens, places), 8) * prepared.scales
    torch.testing.assert_close(found[:, :3], expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("num_bytes", [1, 5, 68])
def test_taken_rows_are_those(num_bytes):
    records = torch.arange(7 * num_bytes).reshape(7, num_bytes).to(torch.uint8)
    for places in (torch.tensor([6, 0, 6, 3]), torch.tensor([2], dtype=torch.int32), torch.zeros(0, dtype=torch.long)):
        assert torch.equal(take_rows(records, places), records[places.long()])


@pytest.mark.parametrize("capability", ["AVX512", "DEFAULT"])
def test_integer_products_are_exact(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-128, 128, (40, 128), generator=generator)
    right = torch.randint(-127, 128, (128, 3), generator=generator)
    products = integer_products(left.to(torch.int8), right.to(torch.int8))
    assert torch.equal(products.long(), left @ right)
