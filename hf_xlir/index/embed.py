"""From texts to embeddings: batched by length, block by block, in memory or straight to disk."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from ..models.auto import check_processor
from ..models.processing_text import fault_of
from ..utils.processes import Processes
from ..utils.resume import Part, discard_published, fingerprint_of, is_published
from ..utils.storage import MANIFEST, FolderWriter, check_replaceable
from .embeddings import (
    DENSE_FORMAT,
    QUERY_MOMENTS,
    TOKEN_FORMAT,
    DenseEmbeddings,
    QueryEmbeddings,
    TokenEmbeddings,
    write_ids,
)
from .encoding import TOKENS_PER_BATCH, TOKENS_PER_BATCH_ON_CPU, device_of, embed_blocks, encoding
from .late_interaction.query_sample import moments_of_pieces
from .passages import check_passages


COMPUTED = ("float32", "bfloat16", "float16")
STORED = ("float32", "float16")


def embed_passages(
    model,
    processor,
    passages,
    output_dir=None,
    *,
    batch_size=256,
    max_tokens_per_batch=None,
    block_size=2048,
    device=None,
    dtype="float32",
    stored_dtype=None,
    resume=True,
    progress=True,
):
    r"""
    Embed passages, and keep the vectors in memory or write them to disk as they come.

    Texts are tokenized and sorted by length in blocks; results are in the order of `passages`. On disk, vectors of one
    block at a time are in memory, whatever the size of the corpus (the ids all are), and `output_dir` is valid only
    once all of it is written. The model is in evaluation mode meanwhile.

    A run that was killed goes on from the last whole block when the same call is made again, with the result that it
    would have had; a finished one returns at once. What counts as the same are the weights and the configuration, the
    tokenizer, the passages, and the arguments.

    Under `accelerate launch` or `torchrun` every process makes the same call with an `output_dir` on a disk that all
    see. Each one embeds a share of the blocks, and all return the whole; apart from rounding it does not depend on
    their number. Without `output_dir` each process embeds the passages that it is given.

    Args:
        model (`RetrieverPreTrainedModel`):
            A retriever.
        processor (`RetrieverProcessor`):
            Its processor.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder to write. The result is then memory-mapped from there. In memory by default.
        batch_size (`int`, *optional*, defaults to 256):
            Most passages to encode at once.
        max_tokens_per_batch (`int`, *optional*):
            Most tokens to encode at once, padding included, so that long passages come in smaller batches. By default
            1,024 on a CPU, where larger batches leave the cache, and 16,384 elsewhere.
        block_size (`int`, *optional*, defaults to 2048):
            How many passages are tokenized, sorted and written together, and are lost at most when a run is killed.
            More waste less padding, and hold more in memory.
        device (`str` or `torch.device`, *optional*):
            Where to encode. The model is moved there and stays. By default, where the model is.
        dtype (`"float32"`, `"bfloat16"` or `"float16"`, *optional*, defaults to `"float32"`):
            What the model computes in. The halves are `torch.autocast` around the model, whose weights stay as they
            are, and are faster where the processor has instructions for them; with `"float32"` the model computes in
            the type that it was loaded in.
        stored_dtype (`"float32"` or `"float16"`, *optional*):
            Type of the vectors that are returned and written. By default float32 if `dtype` is, and float16
            otherwise, which holds the digits that half precision computes in half of the room.
        resume (`bool`, *optional*, defaults to `True`):
            Whether to go on with what `output_dir` has of the same call, finished or not. `False` starts again.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, unless the bars of Transformers are switched off.

    Returns:
        [`TokenEmbeddings`] from a model with one vector a token, [`DenseEmbeddings`] from one with one vector a text.
        The former also say what queries are like, by up to a hundred pieces of passages that are embedded as such.

    Raises:
        ValueError: If the processor is not the model's, there is no passage, one has no id, no text or keeps no token,
            two have the same id, the model returns a NaN or infinite value (the message names the id), or `output_dir`
            holds unfinished work of another call.
        RuntimeError: If another process is embedding into `output_dir`.
        OSError: If `output_dir` cannot be written to, or its disk is full. After making room the same call goes on.

    Example:
    ```python
    >>> from hf_xlir.index import LateInteractionIndex, embed_passages

    >>> embeddings = embed_passages(model, processor, passages, "embeddings")  # doctest: +SKIP
    >>> index = LateInteractionIndex.build(embeddings)  # doctest: +SKIP

    ```
    """
    _check_choice("dtype", dtype, COMPUTED)
    if stored_dtype is None:
        stored_dtype = "float32" if dtype == "float32" else "float16"
    _check_choice("stored_dtype", stored_dtype, STORED)
    _check_size("batch_size", batch_size)
    _check_size("block_size", block_size)
    if max_tokens_per_batch is not None:
        _check_size("max_tokens_per_batch", max_tokens_per_batch)
    check_processor(processor, model)
    digest = hashlib.blake2b(digest_size=16)
    ids = check_passages(passages, None if output_dir is None else digest)

    with encoding(model, device, dtype) as encode:
        device = device_of(model).type
        if max_tokens_per_batch is None:
            max_tokens_per_batch = TOKENS_PER_BATCH_ON_CPU if device == "cpu" else TOKENS_PER_BATCH
        starts = range(0, len(ids), block_size)

        def blocks(positions, bar):
            return embed_blocks(
                *(encode, processor, passages, [starts[position] for position in positions]),
                *(block_size, batch_size, max_tokens_per_batch, np.dtype(stored_dtype), bar),
            )

        def query_moments():
            return moments_of_pieces(encode, processor, passages)

        if output_dir is None:
            with _bar(len(ids), progress) as bar:
                return _in_memory(blocks(range(len(starts)), bar), ids, query_moments)
        processes = Processes(device_of(model))
        fingerprint = fingerprint_of(
            model,
            processor,
            digest.hexdigest(),
            {
                "batch_size": batch_size,
                "max_tokens_per_batch": max_tokens_per_batch,
                "block_size": block_size,
                "device": device,
                "dtype": dtype,
                "stored_dtype": stored_dtype,
                "number of processes": processes.count,
            },
        )
        folder = Path(output_dir)
        check_replaceable(folder, TOKEN_FORMAT, DENSE_FORMAT)
        if not (resume and is_published(folder, fingerprint)):
            _write(blocks, ids, query_moments, folder, fingerprint, processes, starts, resume, progress)
        elif processes.rank == 0:
            discard_published(folder, fingerprint)
        return _load(folder)


def embed_queries(model, processor, queries, *, batch_size=64, device=None, dtype="float32", progress=False):
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
        dtype (`"float32"`, `"bfloat16"` or `"float16"`, *optional*, defaults to `"float32"`):
            What the model computes in, as for [`embed_passages`].
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
    _check_choice("dtype", dtype, COMPUTED)
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
    with encoding(model, device, dtype) as encode:
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


def _in_memory(blocks, ids, query_moments):
    values, lengths = zip(*blocks, strict=True)
    if lengths[0] is None:
        return DenseEmbeddings(np.concatenate(values), ids)
    return TokenEmbeddings(np.concatenate(values), np.concatenate(lengths), ids, query_moments())


def _write(blocks, ids, query_moments, folder, fingerprint, processes, starts, resume, progress):
    """Write this process's share of the blocks, wait for the others, and put the whole together."""
    own = processes.share(range(len(starts)))
    with processes.meeting() as meet, Part(folder, processes, fingerprint, resume) as part:
        rest = own[part.num_blocks :]
        done = sum(len(ids[starts[block] : starts[block] + starts.step]) for block in own[: part.num_blocks])
        left = sum(len(ids[starts[block] : starts[block] + starts.step]) for block in rest)
        with _bar(done + left, progress and processes.rank == 0, done) as bar:
            try:
                for values, lengths in blocks(rest, bar):
                    part.append(values, lengths)
            except ValueError:  # these passages cannot be embedded, however often it is tried
                part.discard()
                raise
        part.close()
        meet()
        if processes.rank == 0:
            for rank in range(1, processes.count):
                part.absorb(rank)
            part.close()
            _publish(part, ids, query_moments)
        meet()


def _publish(part, ids, query_moments):
    sizes = {"num_passages": len(ids), "embedding_dim": part.state["row_shape"][0], "fingerprint": part.fingerprint}
    with FolderWriter(part.folder, part.state["tag"]) as folder:  # names that a kill here leaves to the next call
        folder.adopt("values.npy", part.data("values"))
        write_ids(folder, ids)
        if part.is_dense:
            folder.commit(DENSE_FORMAT, **sizes)
        else:
            folder.adopt("lengths.npy", part.data("lengths"))
            if (moments := query_moments()) is not None:
                np.save(folder.file(QUERY_MOMENTS), moments)
            folder.commit(TOKEN_FORMAT, num_tokens=part.state["rows"], **sizes)
    discard_published(part.folder, part.fingerprint)


def _load(folder):
    kind = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["format"]
    return (DenseEmbeddings if kind == DENSE_FORMAT else TokenEmbeddings).load(folder)


def _bar(total, progress, done=0):
    return tqdm(total=total, initial=done, desc="Embedding", unit="passage", disable=not _show(progress))


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _check_size(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def _show(progress):
    return progress and transformers_logging.is_progress_bar_enabled()


__all__ = ["embed_passages", "embed_queries"]
