"""Checks of queries and datasets that the indexes share."""

import numpy as np
import torch
from datasets import Dataset

from ..utils.checks import check_integer


def check_k(k):
    """`k` as an `int`; a `ValueError` unless it is a positive integer."""
    return check_integer("k", k)


def check_queries(embeddings, mask, embedding_dim, single):
    """
    Token vectors of queries, float32 of shape `(num_queries, query_length, embedding_dim)`, and their mask. `single`
    takes one query, with or without the first axis; without a mask every token counts.
    """
    embeddings = to_float_tensor(embeddings)
    shape = tuple(embeddings.shape)
    if single and embeddings.ndim == 2:
        embeddings = embeddings[None]
    if embeddings.ndim != 3 or 0 in embeddings.shape or (single and len(embeddings) != 1):
        expected = "(query_length, embedding_dim)" if single else "(num_queries, query_length, embedding_dim)"
        hint = " `search_batch` takes several queries." if single and embeddings.ndim == 3 else ""
        raise ValueError(f"Query embeddings must have the shape {expected} without a 0, got {shape}.{hint}")
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
    """A float32 tensor on the CPU, without a gradient, from a tensor, an array or nested lists."""
    try:
        if not isinstance(embeddings, torch.Tensor):
            # torch cannot share arrays that are reversed, read-only or of another byte order: these are copied
            embeddings = torch.from_numpy(np.require(embeddings, np.float32, ["C", "W"]))
        return embeddings.detach().cpu().float()
    except (TypeError, ValueError) as error:
        raise ValueError(f"Query embeddings must be one array or tensor of numbers: {error}") from error


def check_dim(embeddings, embedding_dim):
    """A `ValueError` if the last axis is not that of the index."""
    if embeddings.shape[-1] != embedding_dim:
        raise ValueError(
            f"Query embeddings have {embeddings.shape[-1]} dimensions, the index has {embedding_dim}: encode queries "
            "with the model that embedded the passages."
        )


def check_finite(embeddings):
    """A `ValueError` if a value is NaN or infinite."""
    if not embeddings.isfinite().all():
        raise ValueError("Query embeddings have NaN or infinite values.")


def rows_of_ids(ids, row_of_id, name="allowed_ids"):
    """Rows of some ids, int64 in rising order, each once; `name` is the argument's name for errors."""
    if isinstance(ids, str):
        raise ValueError(f"`{name}` must be a list of ids, got one string: use `[{ids!r}]`.")
    ids = set(ids)
    unknown = sorted(str(id) for id in ids if id not in row_of_id)
    if unknown:
        raise ValueError(f"{len(unknown)} ids are not in this index, such as {unknown[:5]}.")
    return np.array(sorted(row_of_id[id] for id in ids), dtype=np.int64)


def check_ids_match(dataset, ids):
    """A `ValueError` unless the rows of a dataset are the embedded passages in their order."""
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
