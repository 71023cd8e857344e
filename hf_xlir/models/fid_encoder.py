"""The reader's encoder, which reads each passage alone, and how a batch's passages lie in tensors."""

import torch
import torch.distributed as dist
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5LayerSelfAttention, T5Stack

from .transformers_private import can_return_tuple


# Most tokens per chunk that is encoded. On a CPU a chunk should fit into the caches. A GPU wants more work at a time,
# and 100 passages of 250 tokens still make a few chunks.
TOKENS_PER_CHUNK = {"cpu": 512, "cuda": 8192}


class FiDT5Encoder(T5Stack):
    """A T5 encoder that reads every passage of every question on its own. Its weights are named as T5's."""

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **kwargs):
        r"""
        Encode the passages in chunks of similar length, so that little padding is computed; absent passages cost
        nothing. All passages are one chunk with `output_attentions`, and with weights that are sharded over processes
        (FSDP, ZeRO-3): the processes would wait for each other if their numbers of chunks differed.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_passages, length)` or `(batch_size, length)`):
                Token ids.
            attention_mask (`torch.Tensor` of the same shape, or `(batch_size, num_passages * length)`, *optional*):
                Not 0 for real tokens. By default every token but the padding token is real.
            inputs_embeds (`torch.FloatTensor` of shape `input_ids.shape + (d_model,)`, *optional*):
                Embeddings instead of ids.
            **kwargs:
                As in [`~transformers.T5EncoderModel`].

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutput`] with states of shape
            `(batch_size, num_passages * length, d_model)`. The states of padding are undefined.

        Raises:
            ValueError: If shapes do not match, or all passages of a question are absent.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(f"Give `input_ids` or `inputs_embeds`, got {'neither' if input_ids is None else 'both'}.")
        mask = passage_mask(attention_mask, input_ids, inputs_embeds, self.config.pad_token_id)
        batch_size, num_passages, length = mask.shape
        mask = mask.flatten(0, 1)  # (batch * num_passages, length)
        if inputs_embeds is None:
            name, tokens = "input_ids", input_ids.reshape(-1, length)  # (batch * num_passages, length)
        else:
            name, tokens = "inputs_embeds", inputs_embeds.reshape(-1, length, inputs_embeds.shape[-1])

        chunks = self._chunks(mask, num_passages, kwargs)
        outputs, places = [], []
        for rows, longest in chunks:
            rows = torch.tensor(rows, device=tokens.device)
            places.append(rows[:, None] * length + torch.arange(longest, device=tokens.device))
            inputs = {name: tokens[rows, :longest], "attention_mask": mask[rows.to(mask.device), :longest]}
            outputs.append(super().forward(**inputs, **{**kwargs, "return_dict": True}))
        places = torch.cat([each.flatten() for each in places])  # places of the encoded tokens in the batch

        def by_question(states):
            if len(places) == len(mask) * length and len(states) == 1:  # one chunk keeps the order
                states = states[0]
            else:
                states = torch.cat([each.flatten(0, 1) for each in states])
                states = states.new_zeros((len(mask) * length, states.shape[-1])).index_copy(0, places, states)
            return states.reshape(batch_size, num_passages * length, -1)

        layers = zip(*[each.hidden_states or () for each in outputs], strict=True)
        return BaseModelOutput(
            last_hidden_state=by_question([each.last_hidden_state for each in outputs]),
            hidden_states=outputs[0].hidden_states and tuple(by_question(of_layer) for of_layer in layers),
            attentions=outputs[0].attentions,
        )

    def _chunks(self, mask, num_passages, kwargs):
        """The rows of each chunk, and the length to which they are cut."""
        length = mask.shape[-1]
        positions = torch.arange(1, length + 1, device=mask.device)
        lengths = (mask.ne(0) * positions).amax(-1).tolist()  # up to the last real token
        empty = [
            question
            for question, first in enumerate(range(0, len(lengths), num_passages))
            if not any(lengths[first : first + num_passages])
        ]
        if empty:
            raise ValueError(
                f"Questions {empty} of the batch have no passage with tokens: give each question at least one "
                "passage, or the question alone as its only passage."
            )
        if kwargs.get("output_attentions", self.config.output_attentions) or _is_sharded(self):
            return [([row for row, each in enumerate(lengths) if each], length)]
        tokens_per_chunk = TOKENS_PER_CHUNK.get(mask.device.type, TOKENS_PER_CHUNK["cuda"])
        chunks = chunks_by_length(lengths, tokens_per_chunk)
        return [(sorted(rows), longest) for rows, longest in chunks]


class OwnBiasSelfAttention(T5LayerSelfAttention):
    """A self-attention layer of umT5, which has a position bias of its own instead of the first layer's."""

    def forward(self, hidden_states, position_bias=None, **kwargs):
        """Like the parent's, without the first layer's `position_bias`."""
        return super().forward(hidden_states, **kwargs)


def _is_sharded(encoder):
    """Whether layers fetch weights from other processes (FSDP, ZeRO-3), so that all must call them equally often."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in encoder.modules()) or any(
        hasattr(parameter, "ds_id") for parameter in encoder.parameters()
    )


def passage_mask(attention_mask=None, input_ids=None, inputs_embeds=None, pad_token_id=None):
    r"""
    The attention mask per passage, of shape `(batch_size, num_passages, length)`, or `None` if nothing is given.

    Inputs of shape `(batch_size, length)` are one passage per question. `attention_mask` may be flat, of shape
    `(batch_size, num_passages * length)`. It defaults to 1 for all tokens but padding.
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
            One vector per token.
        mask (`torch.Tensor` of shape `(batch_size, num_passages, length)`):
            Not 0 for real tokens.

    Returns:
        `(states, mask)` of shapes `(batch_size, num_tokens, dim)` and `(batch_size, num_tokens)`, where `num_tokens`
        is the largest number of real tokens per question. Questions with fewer end with zeros.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.models.fid_encoder import pack_tokens

    >>> states = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])  # two passages of two tokens
    >>> pack_tokens(states, torch.tensor([[[1, 0], [1, 1]]]))[0].tolist()
    [[[1.0], [3.0], [4.0]]]

    ```
    """
    real = mask.ne(0).flatten(1)  # (batch, num_passages * length)
    packed = _packed_mask(real)
    if packed.shape == real.shape:  # one question without padding
        return states, mask.flatten(1)
    packed_states = states.new_zeros((*packed.shape, states.shape[-1]))
    packed_states[packed.to(states.device)] = states[real.to(states.device)]  # both in order of question and token
    return packed_states, packed.to(mask.dtype)


def unpack_tokens(values, mask):
    """
    The inverse for one number per token: values of shape `(batch_size, num_tokens)` in the shape of `mask`, 0 for
    padding. Values with as many columns as `mask` has tokens were not packed.
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
    Divide passages into chunks of similar length, at most `tokens_per_chunk` tokens with padding or one passage:
    `[(rows, longest), ...]`, longest first. Passages of length 0 are in no chunk.

    Example:
    ```python
    >>> from hf_xlir.models.fid_encoder import chunks_by_length

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


__all__ = ["FiDT5Encoder", "OwnBiasSelfAttention", "chunks_by_length", "pack_tokens", "passage_mask", "unpack_tokens"]
