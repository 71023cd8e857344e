"""What the first decoded token of a reader looks at."""

from threading import get_ident

import torch

from .fid_passages import unpack_tokens
from .passage_attention import is_plain


class FirstTokenAttention:
    r"""
    Context manager that sums up the cross-attention logits of the first decoded token while the decoder runs.

    The sum over heads of `q . k` is the product of the unsplit projections (T5 does not divide by the root of the head
    size), and `q . (W_k h)` is `(W_k^T q) . h`: a hook before cross-attention sees all that is needed, sdpa stays in
    use, and keys need not be there. Each hook goes away as soon as it has fired, so later steps, which may be
    compiled, run without; an exception removes what is left.

    Args:
        decoder (`T5Stack`):
            The decoder.
        mask (`torch.Tensor` of shape `(batch_size, num_passages, length)`):
            Not 0 for real tokens.
    """

    def __init__(self, decoder, mask):
        self.attentions = [block.layer[1].EncDecAttention for block in decoder.block]
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
            if get_ident() != thread:  # another one reads with the same model; it has a hook of its own
                return
            handle.remove()
            states, cache = kwargs["key_value_states"], kwargs.get("past_key_values")
            decoded = cache.get_seq_length(attention.layer_idx) if cache is not None else 0
            if decoded <= args[0].shape[1]:  # no step came before: self-attention has added the present tokens
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
        Average over heads, layers and each passage's real tokens.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_passages)`; `-inf` for a passage without real tokens.

        Raises:
            ValueError: If the decoder did not project the passages, since its cache already held them.
        """
        if self.layers_seen != len(self.attentions):
            raise ValueError(
                "Reader scores look at the first decoded token, but `past_key_values` already holds the passages. Ask "
                "for the scores in the first decoding step, or without `past_key_values`."
            )
        logits = unpack_tokens(self.logits, self.mask)
        heads = self.attentions[0].n_heads
        counts = self.mask.sum(-1) * heads * len(self.attentions)
        return (logits.sum(-1) / counts.clamp(min=1)).masked_fill(counts == 0, float("-inf"))


__all__ = ["FirstTokenAttention"]
