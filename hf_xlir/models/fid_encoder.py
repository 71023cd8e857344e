"""A T5 encoder that reads each passage alone."""

import torch
import torch.distributed as dist
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5LayerSelfAttention, T5Stack
from transformers.utils.generic import can_return_tuple

from .fid_passages import chunks_by_length, passage_mask


# Most tokens that are encoded at a time. What a CPU computes at a time should fit into its caches; a GPU wants enough
# to do, and 100 passages of 250 tokens still make a few chunks.
TOKENS_PER_CHUNK = {"cpu": 512, "cuda": 8192}


class FiDT5Encoder(T5Stack):
    """A T5 encoder that reads every passage of every question on its own. Its weights are named as T5's."""

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **kwargs):
        r"""
        Encode the passages that are there, in chunks of like length: hardly any padding is computed. All at once if
        `output_attentions` is asked for, or if weights are sharded over processes (FSDP, ZeRO-3), which would wait for
        each other where their numbers of chunks differ.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_passages, length)` or `(batch_size, length)`):
                Token ids.
            attention_mask (`torch.Tensor` of the same shape, or `(batch_size, num_passages * length)`, *optional*):
                Not 0 for real tokens. By default whatever is not the padding token.
            inputs_embeds (`torch.FloatTensor` of shape `input_ids.shape + (d_model,)`, *optional*):
                Embeddings instead of ids.
            **kwargs:
                As in [`~transformers.T5EncoderModel`].

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutput`] whose states have the shape
            `(batch_size, num_passages * length, d_model)`; those of padding mean nothing.

        Raises:
            ValueError: If shapes do not fit, or all passages of a question are absent.
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
        places = torch.cat([each.flatten() for each in places])  # of all encoded tokens, among all of the batch

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
        """The rows that are encoded together, and the length to which they are cut."""
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
                f"Questions {empty} of the batch have no passage with tokens, so there is nothing to read. Give "
                "each question at least one passage, or the question alone as its only passage."
            )
        if kwargs.get("output_attentions", self.config.output_attentions) or _is_sharded(self):
            return [([row for row, each in enumerate(lengths) if each], length)]
        tokens_per_chunk = TOKENS_PER_CHUNK.get(mask.device.type, TOKENS_PER_CHUNK["cuda"])
        chunks = chunks_by_length(lengths, tokens_per_chunk)
        return [(sorted(rows), longest) for rows, longest in chunks]


class OwnBiasSelfAttention(T5LayerSelfAttention):
    """A self-attention layer of umT5: its position bias is its own, not that of the first layer."""

    def forward(self, hidden_states, position_bias=None, **kwargs):
        """As the parent's, without the first layer's `position_bias`."""
        return super().forward(hidden_states, **kwargs)


def _is_sharded(encoder):
    """Whether layers fetch their weights from other processes (FSDP, ZeRO-3): all have to call them equally often."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in encoder.modules()) or any(
        hasattr(parameter, "ds_id") for parameter in encoder.parameters()
    )


__all__ = ["FiDT5Encoder", "OwnBiasSelfAttention"]
