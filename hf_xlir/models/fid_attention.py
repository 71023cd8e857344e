"""Cross-attention of a Fusion-in-Decoder reader: to the passages' states, and what its first token looks at."""

from threading import get_ident

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import EncoderDecoderCache
from transformers.models.t5.modeling_t5 import T5Attention

from .fid_encoder import unpack_tokens
from .transformers_private import CACHE, attention_implementation, cross_attentions, is_plain, pop_cache


class PassageAttention(T5Attention):
    r"""
    T5's cross-attention, without keys and values while few tokens are decoded.

    A head's logits are `(W_q x) . (W_k h) = (W_k^T W_q x) . h`, and its output is `W_v` times the weighted sum of `h`.
    A decoded token can therefore attend to the passages' states `h` themselves. No layer computes or keeps keys and
    values, which are most of the decoder's work and memory for many passages and a short answer. The products are
    T5's in another order. Each step costs more this way, so keys and values are made once an answer is longer than
    half the head size (32 tokens for the released models).

    T5's own computation is used in training, with an attention implementation other than sdpa, when the cache already
    holds keys and values, with static caches, and with projections that are not plain linear layers (LoRA,
    quantisation, offloading).
    """

    def forward(self, hidden_states, mask=None, key_value_states=None, position_bias=None, **kwargs):
        """Like the parent's. `position_bias` is ignored: T5's is zero in cross-attention."""
        cache, kwargs = pop_cache(kwargs)
        if not self._looks_at_states(hidden_states, cache):
            return super().forward(
                hidden_states,
                mask=mask,
                key_value_states=key_value_states,
                position_bias=position_bias,
                **{CACHE: cache, **kwargs},
            )
        batch_size, target_length, _ = hidden_states.shape
        by_head = (self.n_heads, self.key_value_proj_dim, self.d_model)
        queries = self.q(hidden_states).view(batch_size, target_length, *by_head[:2])
        queries = torch.einsum("bthk,hkd->bhtd", queries, self.k.weight.view(by_head))
        states = key_value_states.to(queries.dtype)[:, None]  # (batch, 1, num_tokens, d_model)
        if mask is not None:
            mask = mask[:, :, :1]  # the same for all decoded tokens
        sums = scaled_dot_product_attention(queries.flatten(1, 2)[:, None], states, states, mask, scale=1.0)
        sums = sums.view(batch_size, self.n_heads, target_length, -1)
        outputs = torch.einsum("bhtd,hkd->bthk", sums, self.v.weight.view(by_head)).flatten(2)
        return self.o(outputs), None, None

    def _looks_at_states(self, hidden_states, cache):
        """Whether attention to the states is possible and cheaper than keys and values."""
        if self.training or torch.is_grad_enabled() or attention_implementation(self.config) != "sdpa":
            return False
        decoded = 0
        if isinstance(cache, EncoderDecoderCache):
            if cache.is_compileable or cache.is_updated.get(self.layer_idx):
                return False
            decoded = cache.get_seq_length(self.layer_idx)  # self-attention came first: includes the present tokens
        elif cache is not None:
            return False
        longest = max(decoded, hidden_states.shape[1])
        return longest <= self.key_value_proj_dim // 2 and is_plain(self.k) and is_plain(self.v)


class FirstTokenAttention:
    r"""
    Context manager that sums the cross-attention logits of the first decoded token while the decoder runs.

    The sum over heads of `q . k` is the product of the unsplit projections (T5 does not divide by the root of the head
    size), and `q . (W_k h)` is `(W_k^T q) . h`. A hook before cross-attention sees both factors, so sdpa stays in use
    and keys need not exist. Each hook removes itself when it fires, so later steps, which may be compiled, run without
    it. After an exception the context removes the remaining hooks.

    Args:
        decoder (`T5Stack`):
            The decoder.
        mask (`torch.Tensor` of shape `(batch_size, num_passages, length)`):
            Not 0 for real tokens.
    """

    def __init__(self, decoder, mask):
        self.attentions = cross_attentions(decoder)
        self.mask = mask.ne(0)
        self.logits = 0.0  # (batch, num_tokens or num_passages * length), summed over layers and heads
        self.layers_seen = 0
        self.handles = []

    def __enter__(self):
        for attention in self.attentions:
            self._watch(attention)
        return self

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()

    def _watch(self, attention):
        thread = get_ident()

        def on_attention(module, args, kwargs=None):
            if get_ident() != thread:  # another thread reads with the same model and has its own hook
                return
            handle.remove()
            states, (cache, _) = kwargs["key_value_states"], pop_cache(kwargs)
            decoded = cache.get_seq_length(attention.layer_idx) if cache is not None else 0
            if decoded <= args[0].shape[1]:  # the first step: self-attention has added the present tokens
                self._add(attention, args[0][:, :1], states)

        handle = attention.register_forward_pre_hook(on_attention, with_kwargs=True)
        self.handles.append(handle)

    @torch.no_grad()
    def _add(self, attention, first, states):
        beams = len(states) // len(self.mask)  # all beams start alike: one is enough
        first, states = first[::beams], states[::beams]
        queries = attention.q(first)  # (batch, 1, heads * d_kv)
        dtype = torch.promote_types(queries.dtype, torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            if is_plain(attention.k):
                queries, keys = queries.to(dtype) @ attention.k.weight.to(dtype), states
            else:
                keys = attention.k(states)
            logits = keys.to(dtype) @ queries.to(dtype).mT
        self.logits = self.logits + logits.squeeze(-1).to(self.mask.device)
        self.layers_seen += 1

    def passage_scores(self):
        r"""
        Averages over heads, layers and each passage's real tokens, of shape `(batch_size, num_passages)`; `-inf` for a
        passage without real tokens.

        Raises:
            ValueError: If the decoder did not look at the passages for a first token, since its cache held earlier
            ones.
        """
        if self.layers_seen != len(self.attentions):
            raise ValueError(
                f"Reader scores need the first decoded token, but `{CACHE}` holds it already. Ask for scores in the "
                "first decoding step, or without a cache."
            )
        logits = unpack_tokens(self.logits, self.mask)
        heads = self.attentions[0].n_heads
        counts = self.mask.sum(-1) * heads * len(self.attentions)
        return (logits.sum(-1) / counts.clamp(min=1)).masked_fill(counts == 0, float("-inf"))


__all__ = ["FirstTokenAttention", "PassageAttention"]
