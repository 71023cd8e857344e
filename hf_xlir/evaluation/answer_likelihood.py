"""How likely a reader finds an answer, given each passage alone."""

import torch


@torch.no_grad()
def answer_log_likelihoods(model, input_ids, attention_mask, labels, passages_per_step=16):
    r"""
    `log p(answer | question, passage)` of each passage, read alone: what the perplexity distillation and EMDR2 of
    Atlas teach a retriever (https://huggingface.co/papers/2208.03299). It is the sum over the answer's tokens, the
    end included.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader, in evaluation mode.
        input_ids (`torch.LongTensor` of shape `(batch_size, num_passages, length)`):
            Token ids of question and passage.
        attention_mask (`torch.Tensor` of the same shape):
            Not 0 for real tokens; a passage without any is absent.
        labels (`torch.LongTensor` of shape `(batch_size, target_length)`):
            The answers' token ids, -100 behind their ends.
        passages_per_step (`int`, *optional*, defaults to 16):
            Passages to read at once: memory for their logits grows with `target_length` times the vocabulary's size.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_passages)`, at least float32: at most 0, `-inf` for absent
        passages.

    Raises:
        ValueError: If shapes do not fit, or an answer has no token.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration
    >>> from hf_xlir.evaluation.answer_likelihood import answer_log_likelihoods

    >>> config = FiDT5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    >>> model = FiDT5ForConditionalGeneration(config).eval()
    >>> input_ids = torch.randint(3, 100, (2, 3, 8))  # two questions, three passages each
    >>> labels = torch.tensor([[7, 1, -100], [5, 6, 1]])
    >>> answer_log_likelihoods(model, input_ids, torch.ones_like(input_ids), labels).shape
    torch.Size([2, 3])

    ```
    """
    if input_ids.ndim != 3 or attention_mask.shape != input_ids.shape or len(labels) != len(input_ids):
        raise ValueError(
            "`input_ids` and `attention_mask` must have the shape (batch_size, num_passages, length), and `labels` "
            f"(batch_size, target_length), got {tuple(input_ids.shape)}, {tuple(attention_mask.shape)} and "
            f"{tuple(labels.shape)}."
        )
    counts = labels != -100
    if not counts.any(dim=1).all():
        empty = (~counts.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"The answers of the questions in rows {empty} have no token: leave these questions out.")
    batch_size, num_passages, length = input_ids.shape
    tokens, mask = input_ids.reshape(-1, length), attention_mask.reshape(-1, length)
    present = mask.ne(0).any(dim=1).nonzero().flatten()
    likelihoods = []
    for rows in present.split(passages_per_step):
        answers = labels[rows // num_passages]
        logits = model(input_ids=tokens[rows], attention_mask=mask[rows], labels=answers, use_cache=False).logits
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        counted = answers != -100
        chosen = logits.gather(2, answers.masked_fill(~counted, 0)[:, :, None]).squeeze(2) - logits.logsumexp(dim=2)
        likelihoods.append(chosen.masked_fill(~counted, 0).sum(dim=1))
    likelihoods = torch.cat(likelihoods) if likelihoods else torch.zeros(0, device=input_ids.device)
    found = likelihoods.new_full((batch_size * num_passages,), -torch.inf)
    found[present] = likelihoods.clamp_max(0)  # rounding may leave a little more
    return found.view(batch_size, num_passages)


__all__ = ["answer_log_likelihoods"]
