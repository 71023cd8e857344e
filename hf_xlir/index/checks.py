"""Checks of queries and datasets that the indexes share."""

import numpy as np
import torch
from datasets import Dataset


def check_k(k):
    """`k`, or a `ValueError`."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"`k`, the number of passages to return, must be a positive integer, got {k!r}.")
    return int(k)


def check_queries(embeddings, mask, embedding_dim, single):
    r"""
    Token vectors of queries as an index scores them, or a `ValueError` that says what is wrong.

    Args:
        embeddings (`torch.Tensor` or `numpy.ndarray`):
            Of shape `(query_length, embedding_dim)` or `(num_queries, query_length, embedding_dim)`.
        mask (`torch.BoolTensor` or `numpy.ndarray`, *optional*):
            Of the same shape without the last axis.
        embedding_dim (`int`):
            What the index holds.
        single (`bool`):
            Whether there must be one query; otherwise there must be three axes.

    Returns:
        `tuple[torch.FloatTensor, torch.BoolTensor]`: Float32 of shape `(num_queries, query_length, embedding_dim)` and
        its mask.
    """
    embeddings = to_float_tensor(embeddings)
    shape = tuple(embeddings.shape)
    if single and embeddings.ndim == 2:
        embeddings = embeddings[None]
    if embeddings.ndim != 3 or 0 in embeddings.shape or (single and len(embeddings) != 1):
        expected = "(query_length, embedding_dim)" if single else "(num_queries, query_length, embedding_dim)"
        hint = " For several queries use the batch search." if single and embeddings.ndim == 3 else ""
        raise ValueError(f"Query embeddings must have shape {expected}, none of it 0, got {shape}.{hint}")
    check_dim(embeddings, embedding_dim)
    if mask is None:
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    else:
        mask = torch.as_tensor(mask).cpu()
        mask = mask[None] if single and mask.ndim == 1 else mask
        if mask.dtype != torch.bool or mask.shape != embeddings.shape[:2]:
            raise ValueError(
                f"`query_mask` must be boolean and have the queries' shape without the last axis, got {mask.dtype} of "
                f"shape {tuple(mask.shape)} for queries of shape {shape}."
            )
        if not mask.any(dim=1).all():
            raise ValueError(f"Query {int(mask.any(dim=1).int().argmin())} keeps no token: nothing could match it.")
    check_finite(embeddings[mask])
    return embeddings, mask


def to_float_tensor(embeddings):
    """A tensor, an array or nested lists as a float32 tensor on the CPU, without a gradient."""
    try:
        if not isinstance(embeddings, torch.Tensor):
            # A copy where torch has no tensor of it: reversed, read-only, or of another byte order
            embeddings = torch.from_numpy(np.require(embeddings, np.float32, ["C", "W"]))
        return embeddings.detach().cpu().float()
    except (TypeError, ValueError) as error:
        raise ValueError(f"Query embeddings must be one array or tensor of numbers: {error}") from error


def check_dim(embeddings, embedding_dim):
    """Raise if the last axis is not that of the index."""
    if embeddings.shape[-1] != embedding_dim:
        raise ValueError(
            f"Query embeddings have {embeddings.shape[-1]} dimensions, the index has {embedding_dim}: encode queries "
            "with the model that embedded the passages."
        )


def check_finite(embeddings):
    """Raise if a value is NaN or infinite."""
    if not embeddings.isfinite().all():
        raise ValueError("Query embeddings have NaN or infinite values.")


def rows_of_ids(ids, row_of_id, name="allowed_ids"):
    r"""
    Rows of some passages.

    Args:
        ids (`Iterable[str]`):
            Their ids; one that comes twice counts once.
        row_of_id (`Mapping[str, int]`):
            The row of each id of an index.
        name (`str`, *optional*, defaults to `"allowed_ids"`):
            What messages call `ids`.

    Returns:
        `numpy.ndarray` of int64 and shape `(number of ids,)`: rising.

    Raises:
        ValueError: If `ids` is one string, or an id is unknown.
    """
    if isinstance(ids, str):
        raise ValueError(f"`{name}` must be several ids, got one string: use `[{ids!r}]`.")
    ids = set(ids)
    unknown = sorted(str(id) for id in ids if id not in row_of_id)
    if unknown:
        raise ValueError(f"{len(unknown)} ids are not in this index, such as {unknown[:5]}.")
    return np.array(sorted(row_of_id[id] for id in ids), dtype=np.int64)


def check_ids_match(dataset, ids):
    """Raise unless the rows of a dataset are the embedded passages, in their order."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"An index attaches to a `datasets.Dataset`, got {type(dataset).__name__}.")
    if len(dataset) != len(ids):
        raise ValueError(f"The dataset has {len(dataset)} rows, but {len(ids)} passages were embedded.")
    if "id" not in dataset.column_names:
        return
    with dataset.formatted_as(columns=["id"]):
        for start in range(0, len(ids), 10_000):
            stop = start + 10_000
            pairs = zip(dataset[start:stop]["id"], ids[start:stop], strict=True)
            for row, (own, embedded) in enumerate(pairs, start):
                if own != embedded:
                    raise ValueError(
                        f"Row {row} of the dataset is the passage `{own}`, but `{embedded}` was embedded there: use "
                        "the dataset that was embedded, in the same order."
                    )


__all__ = [
    "check_dim",
    "check_finite",
    "check_ids_match",
    "check_k",
    "check_queries",
    "rows_of_ids",
    "to_float_tensor",
]
