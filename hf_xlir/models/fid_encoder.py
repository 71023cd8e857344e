"""A T5 encoder that reads each passage alone."""

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5LayerSelfAttention, T5Stack
from transformers.utils.generic import can_return_tuple


class FiDT5Encoder(T5Stack):
    """A T5 encoder that reads every passage of every question on its own. Its weights are named as T5's."""

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **kwargs):
        r"""
        Encode the passages that are there.

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
            `(batch_size, num_passages * length, d_model)`.

        Raises:
            ValueError: If shapes do not fit, or all passages of a question are absent.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(f"Give `input_ids` or `inputs_embeds`, got {'neither' if input_ids is None else 'both'}.")
        mask = passage_mask(attention_mask, input_ids, inputs_embeds, self.config.pad_token_id)
        batch_size, num_passages, length = mask.shape

        present = mask.ne(0).any(-1)  # (batch, num_passages)
        rows = present.flatten().nonzero().squeeze(1)
        if inputs_embeds is None:
            name, tokens = "input_ids", input_ids.reshape(-1, length)  # (batch * num_passages, length)
        else:
            name, tokens = "inputs_embeds", inputs_embeds.reshape(-1, length, inputs_embeds.shape[-1])
        mask = mask.flatten(0, 1)  # (batch * num_passages, length)
        all_present = len(rows) == len(mask)
        if not all_present:
            empty = (~present.any(-1)).nonzero().flatten().tolist()
            if empty:
                raise ValueError(
                    f"Questions {empty} of the batch have no passage with tokens, so there is nothing to read. Give "
                    "each question at least one passage, or the question alone as its only passage."
                )
            tokens, mask = tokens[rows], mask[rows]
        outputs = super().forward(**{name: tokens}, attention_mask=mask, **{**kwargs, "return_dict": True})

        def by_question(states):
            if not all_present:
                states = states.new_zeros((batch_size * num_passages, *states.shape[1:])).index_copy(0, rows, states)
            return states.reshape(batch_size, num_passages * length, -1)

        return BaseModelOutput(
            last_hidden_state=by_question(outputs.last_hidden_state),
            hidden_states=outputs.hidden_states and tuple(by_question(states) for states in outputs.hidden_states),
            attentions=outputs.attentions,
        )


class OwnBiasSelfAttention(T5LayerSelfAttention):
    """A self-attention layer of umT5: its position bias is its own, not that of the first layer."""

    def forward(self, hidden_states, position_bias=None, **kwargs):
        """As the parent's, without the first layer's `position_bias`."""
        return super().forward(hidden_states, **kwargs)


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


__all__ = ["FiDT5Encoder", "OwnBiasSelfAttention", "passage_mask"]
