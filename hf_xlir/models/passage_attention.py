"""Cross-attention of a reader's decoder."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import EncoderDecoderCache
from transformers.models.t5.modeling_t5 import T5Attention


class PassageAttention(T5Attention):
    r"""
    T5's cross-attention, which does without keys and values while few tokens are decoded.

    A head's logits are `(W_q x) . (W_k h) = (W_k^T W_q x) . h`, and its output is `W_v` times the weighted sum of `h`.
    So a token that is decoded can look at the passages' states `h` themselves: keys and values are neither computed
    nor kept, in any layer, which for many passages and a short answer is most of the decoder's work and memory. The
    products are those of T5 in another order. As each step costs more this way, keys and values are made after all
    where an answer gets longer than half the head size (32 tokens for the released models).

    Training, attention other than sdpa, keys and values that are in the cache already, static caches, and projections
    that are not plain linear layers (LoRA, quantisation, offloading) go T5's way.
    """

    def forward(
        self,
        hidden_states,
        mask=None,
        key_value_states=None,
        position_bias=None,
        past_key_values=None,
        **kwargs,
    ):
        """As the parent's; `position_bias` is not looked at, T5's is zero here."""
        if not self._looks_at_states(hidden_states, past_key_values):
            return super().forward(hidden_states, mask, key_value_states, position_bias, past_key_values, **kwargs)
        batch_size, target_length, _ = hidden_states.shape
        by_head = (self.n_heads, self.key_value_proj_dim, self.d_model)
        queries = self.q(hidden_states).view(batch_size, target_length, *by_head[:2])
        queries = torch.einsum("bthk,hkd->bhtd", queries, self.k.weight.view(by_head))
        states = key_value_states.to(queries.dtype)[:, None]  # (batch, 1, num_tokens, d_model)
        if mask is not None:
            mask = mask[:, :, :1]  # the same for all tokens that are decoded
        sums = scaled_dot_product_attention(queries.flatten(1, 2)[:, None], states, states, mask, scale=1.0)
        sums = sums.view(batch_size, self.n_heads, target_length, -1)
        outputs = torch.einsum("bhtd,hkd->bthk", sums, self.v.weight.view(by_head)).flatten(2)
        return self.o(outputs), None, None

    def _looks_at_states(self, hidden_states, cache):
        """Whether keys and values are not needed, and would cost more."""
        if self.training or torch.is_grad_enabled() or self.config._attn_implementation != "sdpa":
            return False
        decoded = 0
        if isinstance(cache, EncoderDecoderCache):
            if cache.is_compileable or cache.is_updated.get(self.layer_idx):
                return False
            decoded = cache.get_seq_length(self.layer_idx)  # with the present tokens: self-attention came before
        elif cache is not None:
            return False
        longest = max(decoded, hidden_states.shape[1])
        return longest <= self.key_value_proj_dim // 2 and is_plain(self.k) and is_plain(self.v)


def is_plain(projection):
    r"""
    Whether a layer's output is its weight times its input, nothing else, and the weight is there.

    Args:
        projection (`torch.nn.Module`):
            A layer, possibly wrapped.

    Returns:
        `bool`
    """
    hooks = (*projection._forward_hooks, *projection._forward_pre_hooks)
    plain = type(projection) is nn.Linear and type(projection.weight) is nn.Parameter and projection.bias is None
    return plain and not hooks and not hasattr(projection, "_hf_hook") and not projection.weight.is_meta


__all__ = ["PassageAttention", "is_plain"]
