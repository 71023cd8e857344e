"""An initialisation with which tiny T5 models learn to copy within minutes."""

import torch


@torch.no_grad()
def mimetic_init_(
    model, embeddings=None, query_key_scale=0.5, self_value_scale=0.7, cross_value_scale=2.0, embedding_scale=0.25
):
    r"""
    Start a T5-shaped model where training tends to lead: equal tokens attend to each other, and attention copies what
    it attends to (https://huggingface.co/papers/2305.09828).

    In each attention `q` and `k` get the same orthogonal rows, so that `q . k` is a similarity, and `o` the transpose
    of `v`, so that their product is the identity on the heads' subspace. A little noise breaks the symmetry. Random
    weights take thousands of steps to find that; a reader's answer is a copy of a part of a passage.

    Args:
        model (`FiDT5ForConditionalGeneration` or `T5ForConditionalGeneration`):
            The model, changed in place.
        embeddings (`torch.FloatTensor` of shape `(vocab_size, dim)`, *optional*):
            Token embeddings of another model with the same vocabulary to start from, such as a cross-lingual
            retriever's, in which translations are near each other. Their first principal components are taken, as
            many as the model is wide, scaled to a standard deviation of `embedding_scale`.
        query_key_scale (`float`, *optional*, defaults to 0.5):
            Factor of `q` and of `k`.
        self_value_scale, cross_value_scale (`float`, *optional*, default to 0.7 and 2.0):
            Factor of `v` and of `o` in self- and cross-attention.
        embedding_scale (`float`, *optional*, defaults to 0.25):
            Factor on the model's token embeddings; T5 draws them with standard deviation 1, too large to move in a
            few hundred steps.

    Returns:
        The model.

    Raises:
        ValueError: If heads times head size exceed the model's width, so that no orthogonal rows exist, or
            `embeddings` has another vocabulary or is narrower than the model.

    Example:
    ```python
    >>> from transformers import T5Config, T5ForConditionalGeneration
    >>> from support.mimetic_init import mimetic_init_

    >>> config = T5Config(vocab_size=100, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=1)
    >>> model = mimetic_init_(T5ForConditionalGeneration(config))

    ```
    """
    noise = 0.02
    own = model.get_input_embeddings().weight
    if embeddings is None:
        own.mul_(embedding_scale)
    else:
        own.copy_(_principal_components(embeddings, own.shape) * embedding_scale)
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


def _principal_components(embeddings, shape):
    """The rows' first principal components, `(vocab_size, width)`, with standard deviation 1 over all numbers."""
    if len(embeddings) != shape[0] or embeddings.shape[1] < shape[1]:
        raise ValueError(
            f"`embeddings` must have {shape[0]} rows of at least {shape[1]} numbers, got {tuple(embeddings.shape)}: "
            "take them from a model with the same tokenizer and at least this width."
        )
    centred = embeddings.float() - embeddings.float().mean(dim=0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    components = centred @ directions.flip(1)[:, : shape[1]]
    return components / components.std()


def _orthogonal_rows(weight):
    rows, width = weight.shape
    if rows > width:
        raise ValueError(f"Heads times head size may not exceed the width of {width}, got {rows}.")
    return torch.linalg.qr(torch.randn(width, width, device=weight.device))[0][:rows].to(weight.dtype)


__all__ = ["mimetic_init_"]
