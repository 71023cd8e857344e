"""An initialisation with which tiny T5 models learn to copy within minutes."""

import torch


@torch.no_grad()
def mimetic_init_(model, query_key_scale=0.5, self_value_scale=0.7, cross_value_scale=2.0, embedding_scale=0.25):
    r"""
    Start a T5-shaped model where training tends to lead: equal tokens attend to each other, and attention copies what
    it attends to (https://huggingface.co/papers/2305.09828).

    In each attention `q` and `k` get the same orthogonal rows, so that `q . k` is a similarity, and `o` the transpose
    of `v`, so that their product is the identity on the heads' subspace. A little noise breaks the symmetry. Random
    weights take thousands of steps to find that; a reader's answer is a copy of a part of a passage.

    Args:
        model (`FiDT5ForConditionalGeneration` or `T5ForConditionalGeneration`):
            The model, changed in place.
        query_key_scale (`float`, *optional*, defaults to 0.5):
            Factor of `q` and of `k`.
        self_value_scale, cross_value_scale (`float`, *optional*, default to 0.7 and 2.0):
            Factor of `v` and of `o` in self- and cross-attention.
        embedding_scale (`float`, *optional*, defaults to 0.25):
            Factor on the token embeddings; T5 draws them with standard deviation 1, too large to move in a few
            hundred steps.

    Returns:
        The model.

    Raises:
        ValueError: If heads times head size exceed the model's width, so that no orthogonal rows exist.
    """
    noise = 0.02
    model.get_input_embeddings().weight.mul_(embedding_scale)
    for block in (*model.encoder.block, *model.decoder.block):
        for layer in block.layer[:-1]:  # the last one is the feed-forward layer
            crosses = hasattr(layer, "EncDecAttention")
            attention = layer.EncDecAttention if crosses else layer.SelfAttention
            value_scale = cross_value_scale if crosses else self_value_scale
            query_key = _orthogonal_rows(attention.q.weight) * query_key_scale
            value = _orthogonal_rows(attention.v.weight) * value_scale
            for linear, weight in (
                (attention.q, query_key),
                (attention.k, query_key),
                (attention.v, value),
                (attention.o, value.T),
            ):
                linear.weight.copy_(weight + noise * torch.randn_like(weight))
    return model


def _orthogonal_rows(weight):
    rows, width = weight.shape
    if rows > width:
        raise ValueError(f"Heads times head size may not exceed the width of {width}, got {rows}.")
    return torch.linalg.qr(torch.randn(width, width, device=weight.device))[0][:rows].to(weight.dtype)


__all__ = ["mimetic_init_"]
