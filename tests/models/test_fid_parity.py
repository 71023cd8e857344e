"""
Reading at random shapes is what a plain model makes of separately encoded passages: equal in float64. T5 divides no
attention by a square root, so that large random weights make float32 lose digits in any order of summation: it is then
as near to the plain model as that is to its float64 result, or to itself with another attention.
"""

import random

import pytest
import torch
from fid_tiny import make_backbone, make_inputs, make_reader, read_separately


def draw(seed):
    """A plain model of a random shape with weights of a random size, and a ragged batch with absent passages."""
    rng = random.Random(seed)
    name = ("t5", "mt5", "umt5")[seed % 3]
    fields = {
        "num_heads": rng.choice([1, 2, 3, 4, 8]),
        "d_kv": rng.choice([3, 5, 8, 16]),
        "d_ff": rng.choice([16, 40]),
    }
    fields |= {"d_model": rng.choice([8, 24, 32]), "feed_forward_proj": rng.choice(["relu", "gated-gelu"])}
    fields |= {"num_layers": rng.choice([1, 3]), "num_decoder_layers": rng.choice([1, 3])}
    backbone = make_backbone(name, seed, **fields, tie_word_embeddings=rng.random() < 0.5)
    size = rng.choice([0.0, 0.0, 0.1, 0.3])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    num_passages, longest = rng.randint(1, 12), rng.choice([3, 17, 40])
    lengths = [
        [rng.randint(1, longest), *(rng.choice([0, rng.randint(1, longest)]) for _ in range(num_passages - 1))]
        for _ in range(rng.randint(1, 3))
    ]
    for of_question in lengths:
        rng.shuffle(of_question)
    return backbone, make_inputs(lengths, seed=seed), torch.randint(3, 67, (len(lengths), rng.randint(1, 6)))


def plain_logits(backbone, inputs, labels, attention="sdpa"):
    backbone.set_attn_implementation(attention)
    logits = [
        backbone(encoder_outputs=read_separately(backbone, inputs, question), labels=labels[question, None]).logits
        for question in range(len(labels))
    ]
    backbone.set_attn_implementation("sdpa")
    return torch.cat(logits)


def largest(difference):
    return difference.abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("seed", range(15))
def test_logits_of_random_shapes(seed):
    backbone, inputs, labels = draw(seed)
    plain = plain_logits(backbone, inputs, labels)
    logits = make_reader(backbone)(**inputs, labels=labels).logits
    other = plain_logits(backbone, inputs, labels, "eager")
    exact = plain_logits(backbone.double(), inputs, labels)
    assert largest(make_reader(backbone)(**inputs, labels=labels).logits - exact) <= 1e-10
    own_error = max(largest(plain - exact), largest(plain - other))
    assert largest(logits - plain) <= max(1e-5, 5 * own_error)
