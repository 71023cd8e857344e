"""What the first decoded token of a reader looks at."""

from threading import get_ident

import torch

from .fid_passages import unpack_tokens


class FirstTokenAttention:
    r"""
    Context manager that sums up the cross-attention logits of the first decoded token while the decoder runs.

    The sum over heads of `q . k` is the product of the unsplit projections, so forward hooks on `q` and `k` see all
    that is needed (T5 does not divide by the root of the head size), and sdpa stays in use. Each pair of hooks goes
    away as soon as it has fired, so later steps, which may be compiled, run without; an exception removes what is
    left.

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
        queries, thread = [], get_ident()

        def on_queries(module, args, output):  # (batch * beams, target_length, heads * d_kv)
            if get_ident() != thread:  # another one reads with the same model; it has hooks of its own
                return
            queries.append(output[:, 0].detach())

        def on_keys(module, args, output):  # (batch * beams, num_tokens, heads * d_kv)
            if get_ident() != thread:
                return
            for handle in handles:
                handle.remove()
            self._add(queries.pop(), output.detach())

        handles = [attention.q.register_forward_hook(on_queries), attention.k.register_forward_hook(on_keys)]
        self.handles += handles

    @torch.no_grad()
    def _add(self, queries, keys):
        beams = len(keys) // len(self.mask)  # all beams start alike: one is enough
        dtype = torch.promote_types(keys.dtype, torch.float32)
        with torch.autocast(keys.device.type, enabled=False):
            logits = keys[::beams].to(dtype) @ queries[::beams].to(dtype)[..., None]
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
