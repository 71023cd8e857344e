"""From texts to embeddings: batched by length, block by block, in memory or straight to disk."""

from contextlib import contextmanager

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from ..models.pairing import check_processor
from ..models.processing_text import fault_of
from .embeddings import (
    DENSE_FORMAT,
    TOKEN_FORMAT,
    DenseEmbeddings,
    QueryEmbeddings,
    TokenEmbeddings,
    write_ids,
)
from .passages import check_passages, read_rows
from .storage import FolderWriter, RowWriter


BATCHES_PER_BLOCK = 16  # texts are sorted by length within a block: more waste less padding, and hold more in memory


def embed_passages(
    model,
    processor,
    passages,
    output_dir=None,
    *,
    batch_size=64,
    max_tokens_per_batch=None,
    device=None,
    dtype="float32",
    progress=True,
):
    r"""
    Embed passages, and keep the vectors in memory or write them to disk as they come.

    Texts are tokenized and sorted by length in blocks of 16 batches; results are in the order of `passages`. On disk
    at most one block is in memory, whatever the size of the corpus, and `output_dir` is valid only once all of it is
    written. The model is in evaluation mode meanwhile.

    Args:
        model (`RetrieverPreTrainedModel`):
            A retriever.
        processor (`RetrieverProcessor`):
            Its processor.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder to write. The result is then memory-mapped from there. In memory by default.
        batch_size (`int`, *optional*, defaults to 64):
            Most passages to encode at once.
        max_tokens_per_batch (`int`, *optional*):
            Most tokens to encode at once, padding included, so that long passages come in smaller batches. No limit
            by default.
        device (`str` or `torch.device`, *optional*):
            Where to encode. The model is moved there and stays. By default, where the model is.
        dtype (`"float32"` or `"float16"`, *optional*, defaults to `"float32"`):
            Type of the stored vectors.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, unless the bars of Transformers are switched off.

    Returns:
        [`TokenEmbeddings`] from a model with one vector a token, [`DenseEmbeddings`] from one with one vector a text.

    Raises:
        ValueError: If the processor is not the model's, there is no passage, one has no id, no text or keeps no token,
            two have the same id, or the model returns a NaN or infinite value. The message names the id.

    Example:
    ```python
    >>> from hf_xlir.index import LateInteractionIndex, embed_passages

    >>> embeddings = embed_passages(model, processor, passages, "embeddings")  # doctest: +SKIP
    >>> index = LateInteractionIndex.build(embeddings)  # doctest: +SKIP

    ```
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f'`dtype` must be "float32" or "float16", got {dtype!r}.')
    _check_size("batch_size", batch_size)
    if max_tokens_per_batch is not None:
        _check_size("max_tokens_per_batch", max_tokens_per_batch)
    check_processor(processor, model)
    ids = check_passages(passages)

    bar = tqdm(total=len(ids), desc="Embedding", unit="passage", disable=not _show(progress))
    with bar, _evaluating(model, device) as encode:
        blocks = _embed_blocks(
            encode, processor, passages, ids, batch_size, max_tokens_per_batch, np.dtype(dtype), bar
        )
        if output_dir is None:
            return _in_memory(blocks, ids)
        return _on_disk(blocks, ids, output_dir)


def embed_queries(model, processor, queries, *, batch_size=64, device=None, progress=False):
    r"""
    Embed queries, in memory.

    Args:
        model (`RetrieverPreTrainedModel`):
            The retriever that embedded the passages.
        processor (`RetrieverProcessor`):
            Its processor.
        queries (`list[str]`):
            Questions.
        batch_size (`int`, *optional*, defaults to 64):
            How many to encode at once.
        device (`str` or `torch.device`, *optional*):
            Where to encode. The model is moved there and stays. By default, where the model is.
        progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar.

    Returns:
        [`QueryEmbeddings`], float32 on the CPU: `embeddings` of shape `(number of queries, length, embedding_dim)`
        and their `mask`, or `embeddings` of shape `(number of queries, embedding_dim)` and `None`.

    Raises:
        ValueError: If the processor is not the model's, there is no query, one is empty, or the model returns a NaN or
            infinite value.

    Example:
    ```python
    >>> queries = embed_queries(model, processor, ["Who invented the telephone?"])  # doctest: +SKIP
    >>> index.search_batch(queries.embeddings, k=10, query_mask=queries.mask)  # doctest: +SKIP

    ```
    """
    _check_size("batch_size", batch_size)
    check_processor(processor, model)
    if isinstance(queries, str):
        raise ValueError(f"`queries` must be a list of texts, got one text: use `[{queries[:20]!r}]`.")
    queries = list(queries)
    if not queries:
        raise ValueError("`queries` is empty: give at least one.")
    for position, query in enumerate(queries):
        if not isinstance(query, str):
            raise ValueError(f"Query {position} must be a string, got {type(query).__name__}.")
        if (fault := fault_of(query)) is not None:
            raise ValueError(f"Query {position} {fault}")

    outputs = []
    with _evaluating(model, device) as encode:
        for start in tqdm(range(0, len(queries), batch_size), desc="Queries", disable=not _show(progress)):
            embeddings, mask = encode(processor.process_queries(queries[start : start + batch_size]))
            if not embeddings.isfinite().all():
                raise ValueError(f"The model returned NaN or infinite values for queries from position {start} on.")
            outputs.append((embeddings, mask))
    if outputs[0][1] is None:
        return QueryEmbeddings(torch.cat([embeddings for embeddings, _ in outputs]), None)
    longest = max(mask.shape[1] for _, mask in outputs)
    padded = [
        (torch.nn.functional.pad(embeddings, (0, 0, 0, extra)), torch.nn.functional.pad(mask, (0, extra)))
        for embeddings, mask in outputs
        for extra in [longest - mask.shape[1]]
    ]
    return QueryEmbeddings(*(torch.cat(parts) for parts in zip(*padded, strict=True)))


def _embed_blocks(encode, processor, passages, ids, batch_size, max_tokens, dtype, bar):
    """Yield `(vectors, number of vectors of each passage)` of one block of passages after another."""
    block_size = batch_size * BATCHES_PER_BLOCK
    for start in range(0, len(ids), block_size):
        rows = read_rows(passages, start, start + block_size)
        inputs = processor.process_documents(rows["text"], titles=rows["title"])
        if "embedding_mask" in inputs:
            kept = inputs["embedding_mask"].sum(dim=1)
            if kept.min() == 0:
                raise ValueError(
                    f"The passage `{rows['id'][int(kept.argmin())]}` keeps no token, so that nothing could match it: "
                    "leave it out, or let the processor keep punctuation."
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
        if not np.isfinite(values).all():
            passage = np.repeat(np.arange(len(lengths)), lengths)[~np.isfinite(values).all(axis=1)][0]
            raise ValueError(
                f"The model returned NaN or infinite values for the passage `{rows['id'][passage]}` (as {dtype})."
            )
        yield values, None if mask is None else lengths


def _batches(order, token_counts, batch_size, max_tokens):
    """Split positions, longest text first, into batches of limited number and padded size."""
    start = 0
    while start < len(order):
        size = batch_size
        if max_tokens is not None:
            size = max(1, min(size, max_tokens // int(token_counts[order[start]])))
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


def _in_memory(blocks, ids):
    values, lengths = zip(*blocks, strict=True)
    if lengths[0] is None:
        return DenseEmbeddings(np.concatenate(values), ids)
    return TokenEmbeddings(np.concatenate(values), np.concatenate(lengths), ids)


def _on_disk(blocks, ids, output_dir):
    with FolderWriter(output_dir) as folder:
        writer, lengths = None, []
        try:
            for values, block_lengths in blocks:
                if writer is None:
                    writer = RowWriter(folder.file("values.npy"), values.shape[1:], values.dtype)
                writer.append(values)
                lengths.append(block_lengths)
        finally:
            if writer is not None:
                writer.close()
        write_ids(folder, ids)
        sizes = {"num_passages": len(ids), "embedding_dim": writer.row_shape[0]}
        if lengths[0] is None:
            folder.commit(DENSE_FORMAT, **sizes)
            return DenseEmbeddings.load(output_dir)
        np.save(folder.file("lengths.npy"), np.concatenate(lengths))
        folder.commit(TOKEN_FORMAT, num_tokens=writer.num_rows, **sizes)
        return TokenEmbeddings.load(output_dir)


@contextmanager
def _evaluating(model, device):
    """A function from a processor's output to `(embeddings, mask)` on the CPU, while the model is in evaluation."""
    if device is not None:
        model.to(device)
    parameter = next(model.parameters(), torch.empty(0))
    training = {module: module.training for module in model.modules()}

    def encode(inputs):
        output = model(
            **{
                name: value.to(parameter.device) if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
        )
        mask = output.embedding_mask
        return output.embeddings.float().cpu(), None if mask is None else mask.cpu()

    model.eval()
    try:
        with torch.inference_mode():
            yield encode
    finally:
        for module, was_training in training.items():
            module.training = was_training


def _check_size(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def _show(progress):
    return progress and transformers_logging.is_progress_bar_enabled()


__all__ = ["embed_passages", "embed_queries"]
