"""From texts to embeddings: batched by length, block by block, in memory or straight to disk, and resumed."""

import hashlib
import json
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ..data.passages import check_passages
from ..utils.checks import check_choice, check_integer
from ..utils.processes import Processes
from ..utils.progress import progress_bar
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
from .encoders import (
    DTYPES,
    Encoder,
    as_encoder,
    check_texts,
    device_of,
    embed_blocks,
    encode_documents,
    encode_queries,
    encoding,
    fingerprint_of_encoder,
    is_encoder,
    move,
    tokens_per_batch,
)
from .late_interaction.query_sample import moments_of_pieces


STORED = ("float32", "float16")


def embed_passages(
    encoder,
    *inputs,
    processor=None,
    passages=None,
    output_dir=None,
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
    Embed passages, and keep the vectors in memory or write them to disk block by block.

    Two forms: `embed_passages(encoder, passages, output_dir=None)` and `embed_passages(model, processor, passages,
    output_dir=None)`.

    Texts are tokenized and sorted by length in blocks; results are in the order of `passages`. On disk, memory holds
    the ids and the vectors of one block, and `output_dir` is valid only once everything is written.

    The same call resumes a run that was killed from its last whole block, and gives the result that an undisturbed run
    gives; after a finished run it returns at once. Calls are the same if the encoder's weights and settings, the
    tokenizer, the passages and the arguments are. For an encoder of another library that is a `torch.nn.Module`, its
    weights, plain attributes and tokenizer are compared; for any other object, its attribute `fingerprint` (a string
    that you change with the weights). Without either, every call starts again, since old vectors could be of other
    weights; a killed run still leaves `output_dir` as it was, and checksums guard the files.

    Under `accelerate launch` or `torchrun` every process makes the same call with an `output_dir` on a disk that all
    see. Each process embeds a share of the blocks, and all return the whole; apart from rounding, the number of
    processes does not change it. Without `output_dir` each process embeds the passages that it is given.

    Args:
        encoder ([`Encoder`], `str`, `os.PathLike`, `tuple` or an object with `encode_document` and `encode_query`):
            What embeds: see [`Encoder`]. A string is a path or Hub id for [`load_encoder`], a tuple is `(model,
            processor)`. An encoder of another library gets a block of texts at once, each with its title and a space
            before it, and makes its own batches. In the second form, a `RetrieverPreTrainedModel`, which is in
            evaluation mode meanwhile.
        processor (`RetrieverProcessor`, *optional*):
            The model's processor.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder to write. The result is then memory-mapped from there. In memory by default.
        batch_size (`int`, *optional*, defaults to 256):
            Maximum number of passages per batch, for models of this package.
        max_tokens_per_batch (`int`, *optional*):
            Maximum number of tokens per batch, padding included, so that long passages come in smaller batches. By
            default 1,024 on a CPU, where larger batches leave the cache, and 16,384 elsewhere.
        block_size (`int`, *optional*, defaults to 2048):
            Number of passages that are tokenized, sorted and written together; a kill loses at most one such block.
            Larger blocks waste less padding and take more memory.
        device (`str` or `torch.device`, *optional*):
            Where to encode. The model is moved there and stays. By default, where the model is.
        dtype (`"float32"`, `"bfloat16"` or `"float16"`, *optional*, defaults to `"float32"`):
            What a model of this package computes in. The halves are `torch.autocast` around the model, whose weights
            stay as they are; they are faster on hardware with instructions for them. With `"float32"` the model
            computes in the type that it was loaded in.
        stored_dtype (`"float32"` or `"float16"`, *optional*):
            Type of the vectors that are returned and written. By default float32 if `dtype` is, otherwise float16,
            which keeps the digits that half precision computes, in half the space.
        resume (`bool`, *optional*, defaults to `True`):
            Whether to use what `output_dir` has of the same call, finished or not. `False` starts again.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, unless the bars of transformers are switched off.

    Returns:
        [`TokenEmbeddings`] from an encoder with one vector per token, [`DenseEmbeddings`] from one with one vector per
        text. The former also know what queries look like, from up to a hundred pieces of passages that are embedded as
        queries.

    Raises:
        ValueError: If the processor does not belong to the model, there is no passage, a passage has no id, no text or
            keeps no token, two have the same id, a vector has a NaN or infinite value (the message names the id), or
            `output_dir` holds unfinished work of another call.
        RuntimeError: If another process is embedding into `output_dir`.
        OSError: If `output_dir` cannot be written to, or its disk is full. Make room, and the same call resumes.

    Example:
    ```python
    >>> from hf_xlir.index import LateInteractionIndex, embed_passages

    >>> embeddings = embed_passages("user/my-colbert", passages, "embeddings")  # doctest: +SKIP
    >>> index = LateInteractionIndex.build(embeddings)  # doctest: +SKIP

    ```
    """
    given = {"processor": processor, "passages": passages, "output_dir": output_dir}
    encoder, passages, output_dir = both_forms(encoder, inputs, given)
    check_choice("dtype", dtype, DTYPES)
    if stored_dtype is None:
        stored_dtype = "float32" if dtype == "float32" else "float16"
    check_choice("stored_dtype", stored_dtype, STORED)
    check_integer("batch_size", batch_size)
    check_integer("block_size", block_size)
    if max_tokens_per_batch is not None:
        check_integer("max_tokens_per_batch", max_tokens_per_batch)
    digest = hashlib.blake2b(digest_size=16)
    ids = check_passages(passages, None if output_dir is None else digest)
    starts = range(0, len(ids), block_size)
    own = isinstance(encoder, Encoder)
    if not own:
        move(encoder, device, dtype)
    with encoding(encoder.model, device, dtype) if own else nullcontext() as encode:
        device = device_of(encoder.model if own else encoder)
        if max_tokens_per_batch is None:
            max_tokens_per_batch = tokens_per_batch(device)

        def blocks(positions, bar):
            common = passages, [starts[position] for position in positions], block_size
            if not own:
                return encode_documents(encoder, *common, np.dtype(stored_dtype), bar)
            return embed_blocks(
                *(encode, encoder.processor, *common),
                *(batch_size, max_tokens_per_batch, np.dtype(stored_dtype), bar),
            )

        def encode_pieces(texts):
            embeddings, mask = (
                encode(encoder.processor.process_queries(texts)) if own else encode_queries(encoder, texts)
            )
            return embeddings[mask]

        def query_moments():
            return moments_of_pieces(encode_pieces, passages)

        if output_dir is None:
            with _bar(len(ids), progress) as bar:
                return _in_memory(blocks(range(len(starts)), bar), ids, query_moments)
        processes = Processes(device)
        arguments = {
            "batch_size": batch_size,
            "max_tokens_per_batch": max_tokens_per_batch,
            "block_size": block_size,
            "device": device.type,
            "dtype": dtype,
            "stored_dtype": stored_dtype,
            "number of processes": processes.count,
        }
        if own:
            fingerprint = fingerprint_of(encoder.model, encoder.processor, digest.hexdigest(), arguments)
        else:
            known = fingerprint_of_encoder(encoder)
            resume = resume and known is not None
            arguments = {name: str(value) for name, value in arguments.items()}
            fingerprint = {"model": known or "unknown", "passages": digest.hexdigest(), **arguments}
        folder = Path(output_dir)
        check_replaceable(folder, TOKEN_FORMAT, DENSE_FORMAT)
        if not (resume and is_published(folder, fingerprint)):
            _write(blocks, ids, query_moments, folder, fingerprint, processes, starts, resume, progress)
        elif processes.rank == 0:
            discard_published(folder, fingerprint)
        return _load(folder)


def embed_queries(
    encoder, *inputs, processor=None, queries=None, batch_size=64, device=None, dtype="float32", progress=False
):
    r"""
    Embed queries, in memory.

    Two forms: `embed_queries(encoder, queries)` and `embed_queries(model, processor, queries)`.

    Args:
        encoder ([`Encoder`], `str`, `os.PathLike`, `tuple` or an object with `encode_document` and `encode_query`):
            The encoder that embedded the passages, as for [`embed_passages`].
        processor (`RetrieverProcessor`, *optional*):
            The model's processor.
        queries (`list[str]`):
            Questions.
        batch_size (`int`, *optional*, defaults to 64):
            Queries per batch, for models of this package.
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
        ValueError: If the processor does not belong to the model, there is no query, a query is empty, or a vector has
            a NaN or infinite value.

    Example:
    ```python
    >>> queries = embed_queries(encoder, ["Who invented the telephone?"])  # doctest: +SKIP
    >>> index.search_batch(queries.embeddings, k=10, query_mask=queries.mask)  # doctest: +SKIP

    ```
    """
    encoder, queries = both_forms(encoder, inputs, {"processor": processor, "queries": queries})
    check_choice("dtype", dtype, DTYPES)
    check_integer("batch_size", batch_size)
    queries = check_texts("Query", queries)
    return QueryEmbeddings(*encode_queries(encoder, queries, batch_size, device, dtype, progress))


def both_forms(encoder, inputs, given, optional=False):
    """
    The encoder and the other arguments of a call with `(encoder, ...)` or `(model, processor, ...)`. With `optional`
    the encoder may be `None`.
    """
    whole = is_encoder(encoder) or encoder is None or isinstance(encoder, str | os.PathLike | tuple)
    names = [name for name in given if name != "processor" or not (whole or given["processor"] is not None)]
    if len(inputs) > len(names):
        raise TypeError(f"Expected at most {len(names)} arguments after the encoder or model, got {len(inputs)}.")
    for name, value in zip(names, inputs, strict=False):
        if given[name] is not None:
            raise TypeError(f"`{name}` is given twice.")
        given[name] = value
    processor = given.pop("processor")
    encoder = None if optional and encoder is None else as_encoder(encoder, processor)
    return encoder, *given.values()


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
    return progress_bar(show=progress, total=total, initial=done, desc="Embedding", unit="passage")


__all__ = ["embed_passages", "embed_queries"]
