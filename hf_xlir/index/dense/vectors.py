"""The vectors of a dense index, read block by block from wherever they are."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset

from ..checks import check_ids_match
from ..embeddings import DenseEmbeddings, first_duplicate
from ..gather import gather


IDS_PER_READ = 100_000
LIST_KINDS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


class DenseVectors:
    r"""
    One vector a row of a dataset; nothing is read before it is asked for.

    Args:
        dataset (`datasets.Dataset`):
            The passages.
        source ([`DenseEmbeddings`], `numpy.ndarray`, `torch.Tensor` or `str`):
            The vectors, or the name of the column that holds them.

    Attributes:
        column (`str` or `None`): The column.
        ids (`list[str]` or `None`): What the dataset's column `id` says, or those of the embeddings.
        dim (`int`): Number of dimensions.

    Raises:
        ValueError: If vectors and rows do not match, there is none, or an id appears twice.
    """

    def __init__(self, dataset, source):
        if not isinstance(dataset, Dataset):
            raise ValueError(f"An index attaches to a `datasets.Dataset`, got {type(dataset).__name__}.")
        if not len(dataset):
            raise ValueError("The dataset is empty: there is nothing to index.")
        self._dataset, self._source = dataset, source
        self.column = source if isinstance(source, str) else None
        if isinstance(source, DenseEmbeddings):
            check_ids_match(dataset, source.ids)
            self.ids, self._source = source.ids, source.values
        else:
            self.ids = _ids_of(dataset)
        if self.column is not None:
            if self.column not in dataset.column_names:
                raise ValueError(f"The dataset has no column {self.column!r}; it has {dataset.column_names}.")
        else:
            _check_array(self._source, len(dataset))
        self.dim = self._read(np.arange(1)).shape[1]

    def __len__(self):
        return len(self._dataset)

    def read(self, rows):
        """Vectors of some rows, float32 of shape `(number of rows, dim)`; a `ValueError` if one is not finite."""
        values = np.ascontiguousarray(self._read(rows), dtype=np.float32)
        if values.shape[1] != self.dim:
            raise self._not_one_length()
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(f"The vector of row {rows[finite.argmin()]} has a NaN or infinite value.")
        return values

    def _read(self, rows):
        if self.column is not None:
            return self._read_column(rows)
        if isinstance(self._source, torch.Tensor):
            return self._source[torch.from_numpy(rows)].detach().cpu().float().numpy()
        return self._source[rows]

    def _read_column(self, rows):
        """Without decoding: `datasets` would make an array of every row."""
        table, positions = gather(self._dataset, rows, [self.column])
        parts = []
        for chunk in table.column(0).chunks:
            is_list = any(of_kind(chunk.type) for of_kind in LIST_KINDS)
            lengths = pc.unique(pc.list_value_length(chunk)).to_pylist() if is_list else []
            if len(lengths) != 1 or not lengths[0] or not _is_number(chunk.type.value_type):
                raise self._not_one_length()
            parts.append(chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), lengths[0]))
        if len({part.shape[1] for part in parts}) != 1:
            raise self._not_one_length()
        return np.concatenate(parts)[positions]

    def _not_one_length(self):
        return ValueError(
            f"Column {self.column!r} must hold one vector a row, all of one length, got "
            f"{self._dataset.features[self.column]}."
        )


def _is_number(type):
    return pa.types.is_floating(type) or pa.types.is_integer(type)


def _check_array(values, num_rows):
    fits = isinstance(values, np.ndarray | torch.Tensor) and values.ndim == 2 and len(values) == num_rows
    if not fits or not values.shape[1]:
        got = tuple(values.shape) if isinstance(values, np.ndarray | torch.Tensor) else type(values).__name__
        raise ValueError(
            "Embeddings must be `DenseEmbeddings`, an array or a tensor with one vector for each row of the dataset, "
            f"({num_rows}, embedding_dim), got {got}."
        )


def _ids_of(dataset):
    if "id" not in dataset.column_names:
        return None
    ids = []
    with dataset.formatted_as(columns=["id"]):
        for start in range(0, len(dataset), IDS_PER_READ):
            ids += dataset[start : start + IDS_PER_READ]["id"]
    duplicate = first_duplicate(ids)
    if duplicate is not None:
        raise ValueError(f"Two rows of the dataset have the id `{duplicate}`: ids must be unique.")
    return ids


__all__ = ["DenseVectors"]
