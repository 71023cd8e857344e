"""How a batch's passages lie in tensors: by passage, packed one behind the other, and in chunks of like length."""

import torch


def passage_mask(attention_mask=None, input_ids=None, inputs_embeds=None, pad_token_id=None):
    r"""
    The attention mask by passage.

    Args:
        attention_mask (`torch.Tensor`, *optional*):
            Of the shape of `input_ids`, or flat: `(batch_size, num_passages * length)`. By default 1 for what is not
            the padding token, or for everything if there are only embeddings.
        input_ids (`torch.LongTensor`, *optional*):
            Of shape `(batch_size, num_passages, length)` or `(batch_size, length)`, which is one passage a question.
        inputs_embeds (`torch.FloatTensor`, *optional*):
            Embeddings instead of ids, with one more axis.
        pad_token_id (`int`, *optional*):
            The padding token.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_passages, length)`, or `None` if all three are `None`.

    Raises:
        ValueError: If shapes do not fit.
    """
    given = next((each for each in (input_ids, inputs_embeds, attention_mask) if each is not None), None)
    if given is None:
        return None
    shape = given.shape[:-1] if given is inputs_embeds else given.shape
    if len(shape) not in (2, 3):
        raise ValueError(
            "`input_ids` and `attention_mask` must have the shape (batch_size, num_passages, length) or (batch_size, "
            f"length), got {tuple(shape)}."
        )
    if attention_mask is None:
        known = given is input_ids and pad_token_id is not None
        attention_mask = input_ids.ne(pad_token_id).long() if known else given.new_ones(shape, dtype=torch.long)
    full = shape if len(shape) == 3 else torch.Size((shape[0], 1, shape[1]))
    if attention_mask.shape not in (full, (full[0], full[1] * full[2])):
        raise ValueError(
            f"`attention_mask` must have the shape {tuple(shape)} of the inputs, got {tuple(attention_mask.shape)}."
        )
    return attention_mask.reshape(full)


def pack_tokens(states, mask):
    r"""
    Leave padding out: each question's real tokens, passage after passage, without gaps.

    Args:
        states (`torch.FloatTensor` of shape `(batch_size, num_passages * length, dim)`):
            A vector a token.
        mask (`torch.Tensor` of shape `(batch_size, num_passages, length)`):
            Not 0 for real tokens.

    Returns:
        `(states, mask)` of shapes `(batch_size, num_tokens, dim)` and `(batch_size, num_tokens)`, where `num_tokens`
        is the largest number of real tokens of a question; questions with fewer end with zeros.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.models.fid_passages import pack_tokens

    >>> states = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])  # two passages of two tokens
    >>> pack_tokens(states, torch.tensor([[[1, 0], [1, 1]]]))[0].tolist()
    [[[1.0], [3.0], [4.0]]]

    ```
    """
    real = mask.ne(0).flatten(1)  # (batch, num_passages * length)
    packed = _packed_mask(real)
    if packed.shape == real.shape:  # one question without padding: its tokens lie as they should, and as many as them
        return states, mask.flatten(1)
    packed_states = states.new_zeros((*packed.shape, states.shape[-1]))
    packed_states[packed.to(states.device)] = states[real.to(states.device)]  # both in order of question and token
    return packed_states, packed.to(mask.dtype)


def unpack_tokens(values, mask):
    r"""
    The way back, for one number a token.

    Args:
        values (`torch.FloatTensor` of shape `(batch_size, num_tokens)` or `(batch_size, num_passages * length)`):
            What belongs to packed tokens; if there are as many columns as `mask` has, they were not packed.
        mask (`torch.Tensor` of shape `(batch_size, num_passages, length)`):
            Not 0 for real tokens.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_passages, length)`, 0 where there is no real token.
    """
    real = mask.ne(0)
    flat = real.flatten(1)
    if values.shape == flat.shape:
        return values.view(mask.shape).masked_fill(~real, 0.0)
    unpacked = values.new_zeros(mask.shape)
    unpacked[real] = values[_packed_mask(flat)]
    return unpacked


def _packed_mask(real):
    """`True` for as many first columns as each row has real tokens."""
    counts = real.sum(1)
    return torch.arange(int(counts.max()), device=real.device) < counts[:, None]


def chunks_by_length(lengths, tokens_per_chunk):
    r"""
    Divide passages into chunks of like length, so that few computed tokens are padding.

    Args:
        lengths (`list[int]`):
            Tokens of each passage; those of length 0 are in no chunk.
        tokens_per_chunk (`int`):
            Most tokens of a chunk, padding included, unless it is a single passage.

    Returns:
        `list[tuple[list[int], int]]`: the passages of each chunk, longest first, and the length of the longest.

    Example:
    ```python
    >>> from hf_xlir.models.fid_passages import chunks_by_length

    >>> chunks_by_length([3, 0, 5, 4, 1], tokens_per_chunk=10)
    [([2, 3], 5), ([0, 4], 3)]

    ```
    """
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    chunks = []
    while order:
        longest = lengths[order[0]]
        size = max(1, tokens_per_chunk // longest)
        chunks.append((order[:size], longest))
        order = order[size:]
    return chunks


__all__ = ["chunks_by_length", "pack_tokens", "passage_mask", "unpack_tokens"]
