"""Encoders: objects that turn texts into vectors."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedConfig

from ..convert.conversion import read_checkpoint
from ..data.passages import read_rows
from ..models.auto import FAMILIES, check_processor, family_of, load_retriever
from ..models.processing_text import fault_of
from ..utils.checks import check_choice
from ..utils.progress import progress_bar
from .embeddings import packed, padded


# A batch whose activations fit a CPU's cache takes two thirds of the time; a GPU wants many tokens.
TOKENS_PER_BATCH_ON_CPU = 1024
TOKENS_PER_BATCH = 16_384
DTYPES = ("float32", "bfloat16", "float16")  # what models compute in
_BLOCK_SIZE, _BATCH_SIZE, _QUERIES_PER_BATCH = 2048, 256, 64


class Encoder:
    r"""
    A retriever of this package with its processor, as one object that turns texts into vectors.

    Wherever this package takes an encoder, any object with the methods `encode_query(texts)` and
    `encode_document(texts)` works, such as a `SentenceTransformer` or a `MultiVectorEncoder` of sentence-transformers.
    Both methods return an array or a tensor of shape `(number of texts, embedding_dim)`, or for late interaction a
    list with an array or a tensor of shape `(number of tokens, embedding_dim)` per text.

    Args:
        model (`RetrieverPreTrainedModel`):
            A retriever.
        processor (`RetrieverProcessor`):
            Its processor.

    Attributes:
        vectors (`"vectors"` or `"token_vectors"`):
            Whether the encoder gives one vector per text or one per token.
        embedding_dim (`int`):
            Dimensions of a vector.

    Raises:
        ValueError: If the processor does not belong to the model.

    Example:
    ```python
    >>> from hf_xlir.index import load_encoder

    >>> encoder = load_encoder("FacebookAI/xlm-roberta-base", model_type="biencoder")  # doctest: +SKIP
    >>> encoder.encode_query(["Where is the Nile?"]).shape  # doctest: +SKIP
    (1, 768)

    ```
    """

    def __init__(self, model, processor):
        check_processor(processor, model)
        self.model, self.processor = model, processor

    @property
    def vectors(self):
        """`"vectors"` or `"token_vectors"`."""
        return family_of(self.model).vectors

    @property
    def embedding_dim(self):
        """Dimensions of a vector."""
        config = self.model.config
        return getattr(config, "embedding_dim", None) or config.get_text_config().hidden_size

    @property
    def device(self):
        """Where the model is."""
        return device_of(self.model)

    def to(self, device):
        """Move the model to a device. Returns the encoder."""
        self.model.to(device)
        return self

    def encode_query(self, texts):
        r"""
        Vectors of queries.

        Args:
            texts (`list[str]`):
                The queries.

        Returns:
            `numpy.ndarray` of float32 and shape `(number of queries, embedding_dim)`, or a `list` of one such array of
            shape `(number of tokens that count, embedding_dim)` per query.
        """
        embeddings, mask = encode_queries(self, check_texts("Query", texts))
        if mask is None:
            return embeddings.numpy()
        return [vectors[kept].numpy() for vectors, kept in zip(embeddings, mask, strict=True)]

    def encode_document(self, documents):
        r"""
        Vectors of documents.

        Args:
            documents (`list[str]` or `list[dict]`):
                Texts, or records with `text` and optionally `title`.

        Returns:
            `numpy.ndarray` or `list`, in the same forms as [`~Encoder.encode_query`].
        """
        if isinstance(documents, str):
            check_texts("Document", documents)
        records = [each if isinstance(each, Mapping) else {"text": each} for each in documents]
        check_texts("Document", [each.get("text") for each in records])
        passages = [{"id": str(place), **record} for place, record in enumerate(records)]
        with encoding(self.model) as encode, progress_bar(show=False) as bar:
            blocks = embed_blocks(
                *(encode, self.processor, passages, range(0, len(passages), _BLOCK_SIZE)),
                *(_BLOCK_SIZE, _BATCH_SIZE, tokens_per_batch(self.device), np.float32, bar),
            )
            values, lengths = zip(*blocks, strict=True)
        values = np.concatenate(values)
        return values if lengths[0] is None else np.split(values, np.cumsum(np.concatenate(lengths))[:-1])


def load_encoder(path, *, device=None, **settings):
    r"""
    Load an encoder: a retriever of this package, or a checkpoint of another library, which is converted in memory.

    Args:
        path (`str` or `os.PathLike`):
            Folder, file or Hub repository: what [`~hf_xlir.models.load_retriever`] or
            [`~hf_xlir.convert.convert_checkpoint`] reads (sentence-transformers, PyLate, ColBERT, DR.DECR, DPR,
            BGE-M3).
        device (`str` or `torch.device`, *optional*):
            Where to encode. The CPU by default.
        settings:
            For a retriever of this package, fields of its configuration to change, and `model_type` to start a new one
            from a bare encoder. For other checkpoints, `format`, `tokenizer`, `document_encoder`, `query_length`,
            `document_length`, `revision` and `token` of [`~hf_xlir.convert.convert_checkpoint`].

    Returns:
        [`Encoder`]

    Raises:
        ValueError: If the checkpoint is not a retriever, cannot be converted, or a setting does not fit it.
        FileNotFoundError, OSError: If there is no such file, folder or repository.

    Example:
    ```python
    >>> from hf_xlir import load_encoder
    >>> from hf_xlir.index import embed_passages

    >>> encoder = load_encoder("sentence-transformers/all-MiniLM-L6-v2")  # doctest: +SKIP
    >>> embeddings = embed_passages(encoder, passages)  # doctest: +SKIP

    ```
    """
    if "model_type" in settings or _is_retriever(path):
        model, processor = load_retriever(path, **settings)
    else:
        format, model, processor, _ = read_checkpoint(path, **settings)
        if family_of(model).role != "retriever":
            raise ValueError(f"`{path}` holds a model of type {model.config.model_type!r}, expected a retriever.")
    encoder = Encoder(model.eval(), processor)
    return encoder if device is None else encoder.to(device)


def as_encoder(value, processor=None):
    """
    An encoder from a model and its `processor`, a tuple of both, the path or Hub id of a checkpoint, or an object with
    `encode_query` and `encode_document`, which is returned as it is.
    """
    if processor is not None:
        return Encoder(value, processor)
    if is_encoder(value):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return Encoder(*value)
    if isinstance(value, str | os.PathLike):
        return load_encoder(value)
    hint = " Give its processor, too: `(model, processor)`." if isinstance(value, torch.nn.Module) else ""
    raise ValueError(
        "Expected an encoder: a path, a Hub id, `(model, processor)`, or an object with `encode_query` and "
        f"`encode_document`, got {type(value).__name__}.{hint}"
    )


def is_encoder(value):
    """Whether an object has the two methods of an encoder."""
    return callable(getattr(value, "encode_query", None)) and callable(getattr(value, "encode_document", None))


def check_texts(what, texts):
    """`texts` as a list; a `ValueError` for one string, no text, or a text that is empty or not valid Unicode."""
    if isinstance(texts, str):
        raise ValueError(f"Expected a list of texts, got one text: use `[{texts[:20]!r}]`.")
    texts = list(texts)
    if not texts:
        raise ValueError("The list of texts is empty: give at least one.")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{what} {position} must be a string, got {type(text).__name__}.")
        if (fault := fault_of(text)) is not None:
            raise ValueError(f"{what} {position} {fault}")
    return texts


def encode_queries(encoder, texts, batch_size=_QUERIES_PER_BATCH, device=None, dtype="float32", progress=False):
    """`(embeddings, mask)` of queries by any encoder, padded; see [`QueryEmbeddings`]."""
    if not isinstance(encoder, Encoder):
        move(encoder, device, dtype)
        embeddings, mask = padded(encoder.encode_query(texts), len(texts))
        _check_finite(embeddings if mask is None else embeddings[mask], "queries")
        return embeddings, mask
    outputs = []
    with encoding(encoder.model, device, dtype) as encode:
        for start in progress_bar(range(0, len(texts), batch_size), progress, desc="Queries"):
            embeddings, mask = encode(encoder.processor.process_queries(texts[start : start + batch_size]))
            _check_finite(embeddings, f"queries from position {start} on")
            outputs.append((embeddings, mask))
    if outputs[0][1] is None:
        return torch.cat([embeddings for embeddings, _ in outputs]), None
    longest = max(mask.shape[1] for _, mask in outputs)
    grown = [
        (torch.nn.functional.pad(embeddings, (0, 0, 0, extra)), torch.nn.functional.pad(mask, (0, extra)))
        for embeddings, mask in outputs
        for extra in [longest - mask.shape[1]]
    ]
    return tuple(torch.cat(parts) for parts in zip(*grown, strict=True))


def encode_documents(encoder, passages, starts, block_size, dtype, bar):
    """Like [`embed_blocks`], with an encoder of another library, which makes its own batches of each block."""
    for start in starts:
        rows = read_rows(passages, start, start + block_size)
        titles = rows["title"] or [""] * len(rows["text"])
        texts = [f"{title} {text}".strip() for title, text in zip(titles, rows["text"], strict=True)]
        values, lengths = packed(encoder.encode_document(texts), rows["id"])
        yield _checked(values, lengths, rows["id"], dtype)
        bar.update(len(texts))


def move(encoder, device, dtype):
    """Move an encoder of another library to a device, if one is given."""
    check_choice("dtype", dtype, DTYPES)
    if dtype != "float32":
        raise ValueError(
            f"`dtype={dtype!r}` is for models of this package: load `{type(encoder).__name__}` in that type instead."
        )
    if device is not None:
        encoder.to(device)


def fingerprint_of_encoder(encoder):
    """
    A text that identifies the vectors of an encoder of another library: its attribute `fingerprint`, or for a
    `torch.nn.Module` a digest of its weights, structure, plain attributes and tokenizer. `None` for any other object.
    """
    if (given := getattr(encoder, "fingerprint", None)) is not None:
        return str(given)
    if not isinstance(encoder, torch.nn.Module):
        return None
    digest = hashlib.blake2b(digest_size=16)
    public = {name: each for name, each in vars(encoder).items() if not name.startswith("_") and name != "training"}
    plain = {name: each for name, each in public.items() if isinstance(each, str | int | float | list | tuple | dict)}
    plain = json.dumps(plain, skipkeys=True, default=lambda other: type(other).__name__)
    backend = getattr(getattr(encoder, "tokenizer", None), "backend_tokenizer", None)
    digest.update(f"{type(encoder)} {encoder!r} {plain}".encode())
    if backend is not None:
        pieces = json.loads(backend.to_str())
        digest.update(json.dumps({**pieces, "truncation": None, "padding": None}).encode())  # those of the last call
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def device_of(model):
    """The device of a model's parameters, or the `device` of an encoder of another library."""
    if isinstance(model, torch.nn.Module):
        return next(model.parameters(), torch.empty(0)).device
    return torch.device(getattr(model, "device", None) or "cpu")


def tokens_per_batch(device):
    """Maximum number of tokens per batch."""
    return TOKENS_PER_BATCH_ON_CPU if device.type == "cpu" else TOKENS_PER_BATCH


@contextmanager
def encoding(model, device=None, dtype="float32"):
    """A function from a processor's output to `(embeddings, mask)` on the CPU, with the model in evaluation mode."""
    if device is not None:
        model.to(device)
    device = device_of(model)
    training = {module: module.training for module in model.modules()}
    lower = dtype != "float32"
    # In half precision even a normalised vector's length is off by some thousandths. Token vectors are normalised
    family = FAMILIES.get(model.config.model_type)
    of_tokens = family is not None and family.vectors == "token_vectors"
    normalize = lower and getattr(model.config, "normalize", of_tokens)

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


def embed_blocks(encode, processor, passages, starts, block_size, batch_size, max_tokens, dtype, bar):
    """
    Yield `(vectors, vectors per passage)` block by block; the second is `None` where each text has one vector. The
    next block is read and tokenized in another thread meanwhile.
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
                f"The passage `{ids[int(kept.argmin())]}` keeps no token, so nothing could match it: leave it out, or "
                "let the processor keep punctuation."
            )
    token_counts = inputs["attention_mask"].sum(dim=1)
    longest_first = token_counts.argsort(descending=True, stable=True)
    vectors, counts = [], []
    for batch in _batches(longest_first, token_counts, batch_size, max_tokens):
        embeddings, mask = encode(_take(inputs, batch))
        vectors.append(embeddings if mask is None else embeddings[mask])
        counts.append(torch.ones(len(batch), dtype=torch.long) if mask is None else mask.sum(dim=1))
        bar.update(len(batch))
    values, lengths = _in_input_order(torch.cat(vectors).numpy(), torch.cat(counts), longest_first)
    return _checked(values, None if mask is None else lengths, ids, dtype)


def _checked(values, lengths, ids, dtype):
    """A block's vectors in a type, and their number per passage; an error names a passage that is not finite."""
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        passages = np.arange(len(ids)) if lengths is None else np.repeat(np.arange(len(ids)), lengths)
        raise ValueError(
            f"The model returned NaN or infinite values for the passage `{ids[passages[~finite][0]]}` (as {dtype})."
        )
    return values, lengths


def _check_finite(vectors, what):
    if not vectors.isfinite().all():
        raise ValueError(f"The model returned NaN or infinite values for {what}.")


def _is_retriever(path):
    """Whether a folder or repository holds a retriever of this package."""
    try:
        model_type = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
    except (OSError, ValueError):  # such as a file, whose own reader says what is wrong with it
        return False
    return model_type in FAMILIES and FAMILIES[model_type].role == "retriever"


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


__all__ = [
    "Encoder",
    "as_encoder",
    "check_texts",
    "device_of",
    "embed_blocks",
    "encode_documents",
    "encode_queries",
    "encoding",
    "fingerprint_of_encoder",
    "is_encoder",
    "load_encoder",
    "move",
    "tokens_per_batch",
]
