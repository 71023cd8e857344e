"""Forward passes over passages: batches of like lengths, block after block."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from .passages import read_rows


# A batch whose activations stay in a processor's cache is encoded in two thirds of the time; a GPU wants many tokens.
TOKENS_PER_BATCH_ON_CPU = 1024
TOKENS_PER_BATCH = 16_384


@contextmanager
def encoding(model, device, dtype):
    """A function from a processor's output to `(embeddings, mask)` on the CPU, while the model is in evaluation."""
    if device is not None:
        model.to(device)
    device = device_of(model)
    training = {module: module.training for module in model.modules()}
    lower = dtype != "float32"
    # In half precision even a normalised vector's length is off by some thousandths
    normalize = lower and getattr(model.config, "normalize", model.config.model_type == "colbert_xlmr")

    def encode(inputs):
        output = model(
            **{
                name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
        )
        mask, embeddings = output.embedding_mask, output.embeddings.float()
        if normalize:
            embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
        return embeddings.cpu(), None if mask is None else mask.cpu()

    model.eval()
    try:
        # One context for all batches: it keeps the weights that it has cast
        with torch.inference_mode(), torch.autocast(device.type, getattr(torch, dtype), enabled=lower):
            yield encode
    finally:
        for module, was_training in training.items():
            module.training = was_training


def device_of(model):
    """Where a model's parameters are."""
    return next(model.parameters(), torch.empty(0)).device


def embed_blocks(encode, processor, passages, starts, block_size, batch_size, max_tokens, dtype, bar):
    """
    Yield `(vectors, number of vectors of each passage)` of one block of passages after another; the number is `None`
    where a text has one vector. The next block is read and tokenized meanwhile, in another thread.
    """

    def tokenize(start):
        rows = read_rows(passages, start, start + block_size)
        return rows["id"], processor.process_documents(rows["text"], titles=rows["title"])

    with ThreadPoolExecutor(max_workers=1) as ahead:
        upcoming = ahead.submit(tokenize, starts[0]) if len(starts) else None
        for following in [*starts[1:], None]:
            if upcoming is None:
                return
            ids, inputs = upcoming.result()
            upcoming = None if following is None else ahead.submit(tokenize, following)
            yield _embed_block(encode, ids, inputs, batch_size, max_tokens, dtype, bar)


def _embed_block(encode, ids, inputs, batch_size, max_tokens, dtype, bar):
    if "embedding_mask" in inputs:
        kept = inputs["embedding_mask"].sum(dim=1)
        if kept.min() == 0:
            raise ValueError(
                f"The passage `{ids[int(kept.argmin())]}` keeps no token, so that nothing could match it: leave it "
                "out, or let the processor keep punctuation."
            )
    token_counts = inputs["attention_mask"].sum(dim=1)
    longest_first = token_counts.argsort(descending=True, stable=True)
    vectors, counts = [], []
    for batch in _batches(longest_first, token_counts, batch_size, max_tokens):
        embeddings, mask = encode(_take(inputs, batch))
        vectors.append(embeddings if mask is None else embeddings[mask])
        counts.append(torch.ones(len(batch), dtype=torch.long) if mask is None else mask.sum(dim=1))
        bar.update(len(batch))
    with np.errstate(over="ignore"):  # reported below, with the passage's id
        values = torch.cat(vectors).numpy().astype(dtype)
    values, lengths = _in_input_order(values, torch.cat(counts), longest_first)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        passage = np.repeat(np.arange(len(lengths)), lengths)[~finite][0]
        raise ValueError(f"The model returned NaN or infinite values for the passage `{ids[passage]}` (as {dtype}).")
    return values, None if mask is None else lengths


def _batches(order, token_counts, batch_size, max_tokens):
    """Split positions, longest text first, into batches of limited number and padded size."""
    start = 0
    while start < len(order):
        size = max(1, min(batch_size, max_tokens // int(token_counts[order[start]])))
        yield order[start : start + size]
        start += size


def _take(inputs, batch):
    """The rows of a batch, cut to the columns that any of them attends to."""
    attended = inputs["attention_mask"][batch].any(dim=0).nonzero()
    columns = slice(int(attended[0]), int(attended[-1]) + 1)
    length = inputs["attention_mask"].shape[1]
    taken = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            value = value[batch]
            value = value[:, columns] if value.ndim > 1 and value.shape[1] == length else value
        taken[name] = value
    return taken


def _in_input_order(values, counts, order):
    """Undo the sorting of packed `values`: the `i`-th passage there has `counts[i]` rows, and is input `order[i]`."""
    counts, order = counts.numpy(), order.numpy()
    starts = np.empty_like(counts)
    lengths = np.empty_like(counts)
    starts[order] = np.cumsum(counts) - counts
    lengths[order] = counts
    first_row = np.cumsum(lengths) - lengths
    return values[np.repeat(starts - first_row, lengths) + np.arange(len(values))], lengths


__all__ = ["device_of", "embed_blocks", "encoding"]
