"""Embeddings of passages and queries, in memory or memory-mapped."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from ..data.passages import first_duplicate
from ..utils.storage import FolderWriter, check_replaceable, load_folder, map_array


TOKEN_FORMAT = "hf_xlir.token_embeddings"
DENSE_FORMAT = "hf_xlir.dense_embeddings"
QUERY_MOMENTS = "query_moments.npy"
IDS_PER_WRITE = 100_000


@dataclass(frozen=True, eq=False)
class TokenEmbeddings:
    r"""
    Token vectors of passages, packed: passage `i` owns the rows `offsets[i]` to `offsets[i + 1]` of `values`.

    Args:
        values (`numpy.ndarray` of shape `(number of tokens, embedding_dim)`):
            Vectors of the tokens that count, float32 or float16; an array in memory or memory-mapped.
        lengths (`numpy.ndarray` of shape `(number of passages,)`):
            Number of vectors per passage, at least 1.
        ids (`list[str]`):
            The passages' ids, each one once.
        query_moments (`numpy.ndarray` of float64 and shape `(embedding_dim, embedding_dim)`, *optional*):
            Mean outer product of the same model's query vectors with themselves, for [`LateInteractionIndex.build`].

    Raises:
        ValueError: If sizes do not match, a passage has no vector, or an id appears twice.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_xlir.index import TokenEmbeddings

    >>> embeddings = TokenEmbeddings(np.eye(3, dtype="float32"), np.array([1, 2]), ["a", "b"])
    >>> embeddings[1].tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    ```
    """

    values: np.ndarray
    lengths: np.ndarray
    ids: list[str]
    query_moments: np.ndarray | None = None

    def __post_init__(self):
        _check_vectors(self.values, "(number of tokens, embedding_dim)")
        lengths = self.lengths
        got = (
            f"{lengths.dtype} of shape {lengths.shape}" if isinstance(lengths, np.ndarray) else type(lengths).__name__
        )
        if not isinstance(lengths, np.ndarray) or lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
            raise ValueError(f"`lengths` must be an array of one integer per passage, got {got}.")
        object.__setattr__(self, "lengths", lengths.astype(np.int64, copy=False))  # unsigned ones wrap around
        _check_ids(self.ids, len(self.lengths))
        if len(self.lengths) and self.lengths.min() < 1:
            passage = self.ids[int(self.lengths.argmin())]
            raise ValueError(f"Passage `{passage}` keeps no token, so nothing could match it: leave it out.")
        if self.offsets[-1] != len(self.values):
            raise ValueError(f"`lengths` sum to {self.offsets[-1]}, but `values` has {len(self.values)} rows.")
        expected = (self.embedding_dim, self.embedding_dim)
        if self.query_moments is not None and self.query_moments.shape != expected:
            raise ValueError(f"`query_moments` must have shape {expected}, got {self.query_moments.shape}.")

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, position):
        """The token vectors of the passage at a position: `(number of tokens, embedding_dim)`."""
        if not 0 <= position < len(self):
            raise IndexError(f"Position {position} is out of range for {len(self)} passages.")
        return self.values[self.offsets[position] : self.offsets[position + 1]]

    @property
    def embedding_dim(self):
        """Dimensions of a vector."""
        return self.values.shape[1]

    @cached_property
    def offsets(self):
        """First row of each passage in `values`, and the end: int64 of shape `(number of passages + 1,)`."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @classmethod
    def from_padded(cls, embeddings, mask, ids):
        r"""
        Pack padded vectors, the form in which models return them.

        Args:
            embeddings (`torch.FloatTensor` of shape `(number of passages, length, embedding_dim)`):
                Token vectors.
            mask (`torch.BoolTensor` of shape `(number of passages, length)`):
                `True` for tokens that count.
            ids (`list[str]`):
                The passages' ids.

        Returns:
            [`TokenEmbeddings`] in float32 (float16 stays float16).
        """
        embeddings, mask = torch.as_tensor(embeddings).detach().cpu(), torch.as_tensor(mask).cpu()
        if embeddings.ndim != 3 or mask.shape != embeddings.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                "Expected embeddings of shape (passages, length, embedding_dim) and a boolean mask of its first two "
                f"axes, got {tuple(embeddings.shape)} and {mask.dtype} of shape {tuple(mask.shape)}."
            )
        values = embeddings[mask]
        values = values if values.dtype == torch.float16 else values.float()
        return cls(values.numpy(), mask.sum(dim=1).numpy(), list(ids))

    def save(self, path):
        """Write a folder. It replaces an existing one at once, when all of it is written."""
        save_tokens(self, path, TOKEN_FORMAT)

    @classmethod
    def load(cls, path, verify=False):
        """
        Open a folder that [`~TokenEmbeddings.save`] wrote; vectors stay on disk until they are used. Sizes and small
        files are checked; `verify=True` compares all checksums, which reads everything once.
        """
        return load_tokens(path, TOKEN_FORMAT, verify)


@dataclass(frozen=True, eq=False)
class DenseEmbeddings:
    r"""
    One vector per passage.

    Args:
        values (`numpy.ndarray` of shape `(number of passages, embedding_dim)`):
            Float32 or float16; an array in memory or memory-mapped.
        ids (`list[str]`):
            The passages' ids, each one once.

    Raises:
        ValueError: If sizes do not match, or an id appears twice.
    """

    values: np.ndarray
    ids: list[str]

    def __post_init__(self):
        _check_vectors(self.values, "(number of passages, embedding_dim)")
        _check_ids(self.ids, len(self.values))

    def __len__(self):
        return len(self.values)

    @property
    def embedding_dim(self):
        """Dimensions of a vector."""
        return self.values.shape[1]

    def save(self, path):
        """Write a folder. It replaces an existing one at once, when all of it is written."""
        check_replaceable(path, DENSE_FORMAT, TOKEN_FORMAT)
        with FolderWriter(path) as folder:
            np.save(folder.file("values.npy"), self.values)
            write_ids(folder, self.ids)
            folder.commit(DENSE_FORMAT, num_passages=len(self), embedding_dim=self.embedding_dim)

    @classmethod
    def load(cls, path, verify=False):
        """
        Open a folder that [`~DenseEmbeddings.save`] wrote; vectors stay on disk until they are used. Sizes and small
        files are checked; `verify=True` compares all checksums, which reads everything once.
        """

        def open_files(_, files):
            return cls(map_array(files["values.npy"]), read_ids(files))

        return load_folder(path, DENSE_FORMAT, open_files, verify)


class QueryEmbeddings(NamedTuple):
    r"""
    Embeddings of queries, padded.

    Args:
        embeddings (`torch.FloatTensor`):
            Of shape `(number of queries, length, embedding_dim)`, or `(number of queries, embedding_dim)` from a
            model with one vector per text.
        mask (`torch.BoolTensor` of shape `(number of queries, length)`, *optional*):
            `True` for tokens that count; `None` from a model with one vector per text.
    """

    embeddings: torch.Tensor
    mask: torch.Tensor | None


def save_tokens(embeddings, path, kind, **fields):
    """Write [`TokenEmbeddings`] as a folder of the format `kind`, with further `fields` in its manifest."""
    check_replaceable(path, kind, TOKEN_FORMAT, DENSE_FORMAT)
    with FolderWriter(path) as folder:
        np.save(folder.file("values.npy"), embeddings.values)
        np.save(folder.file("lengths.npy"), embeddings.lengths)
        if embeddings.query_moments is not None:
            np.save(folder.file(QUERY_MOMENTS), embeddings.query_moments)
        write_ids(folder, embeddings.ids)
        folder.commit(
            kind,
            num_passages=len(embeddings),
            num_tokens=len(embeddings.values),
            embedding_dim=embeddings.embedding_dim,
            **fields,
        )


def load_tokens(path, kind, verify=False):
    """[`TokenEmbeddings`] from a folder of the format `kind`, memory-mapped."""

    def open_files(_, files):
        moments = np.load(files[QUERY_MOMENTS]) if QUERY_MOMENTS in files else None
        return TokenEmbeddings(map_array(files["values.npy"]), np.load(files["lengths.npy"]), read_ids(files), moments)

    return load_folder(path, kind, open_files, verify)


def as_array(vectors):
    """A float32 or float16 array from an array (mapped ones stay mapped), a tensor or nested lists of numbers."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu()
        return (vectors if vectors.dtype in (torch.float32, torch.float16) else vectors.float()).numpy()
    array = vectors if isinstance(vectors, np.ndarray) else np.asarray(vectors)
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"Vectors must be numbers, got an array of {array.dtype}.")
    return array if array.dtype in (np.float32, np.float16) else array.astype(np.float32)


def as_vectors(vectors, names):
    """
    An encoder's vectors for the texts `names`: an array of shape `(number of texts, embedding_dim)`, or a list with an
    array of shape `(number of tokens, embedding_dim)` per text.
    """
    if not isinstance(vectors, torch.Tensor | np.ndarray | list | tuple):
        raise ValueError(f"Expected an array, a tensor or a list of vectors, got {type(vectors).__name__}.")
    if len(vectors) != len(names):
        raise ValueError(f"Expected vectors for {len(names)} texts, got them for {len(vectors)}.")
    if isinstance(vectors, torch.Tensor) or (isinstance(vectors, np.ndarray) and vectors.dtype != object):
        found = as_array(vectors)
        found = found if found.ndim == 2 else list(found)
    else:
        found = [as_array(each) for each in vectors]
        if all(each.shape == found[0].shape and each.ndim == 1 for each in found):
            found = np.stack(found)
    shapes = [found.shape[1:]] if isinstance(found, np.ndarray) else [each.shape for each in found]
    ndim = 1 if isinstance(found, np.ndarray) or found[0].ndim == 1 else 2
    for name, shape in zip(names, shapes, strict=False):
        if len(shape) != ndim or not shape[-1] or shape[-1] != shapes[0][-1]:
            raise ValueError(
                "Vectors must have the shape (texts, embedding_dim), or (tokens, embedding_dim) per text, and all the "
                f"same `embedding_dim`. Those of `{name}` have the shape {shape}, those of `{names[0]}` {shapes[0]}."
            )
    if isinstance(found, list) and not all(map(len, found)):
        empty = next(name for name, each in zip(names, found, strict=True) if not len(each))
        raise ValueError(f"`{empty}` has no vector, so nothing could match it: leave it out.")
    return found


def packed(vectors, ids):
    """An encoder's vectors of documents as `(values, lengths)`; `lengths` is `None` for one vector per text."""
    vectors = as_vectors(vectors, ids)
    if isinstance(vectors, np.ndarray):
        return vectors, None
    return np.concatenate(vectors), np.array([len(each) for each in vectors])


def padded(vectors, count):
    """An encoder's vectors of queries as `(embeddings, mask)` in float32, padded; see [`QueryEmbeddings`]."""
    vectors = as_vectors(vectors, [f"query {place}" for place in range(count)])
    if isinstance(vectors, np.ndarray):
        return torch.from_numpy(np.array(vectors, dtype=np.float32)), None
    embeddings = [torch.from_numpy(np.array(each, dtype=np.float32)) for each in vectors]
    lengths = torch.tensor([len(each) for each in embeddings])
    embeddings = torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)  # (queries, longest, embedding_dim)
    return embeddings, torch.arange(embeddings.shape[1]) < lengths[:, None]


def check_ids_are_texts(ids):
    """A `ValueError` unless all ids are strings."""
    for id in ids:
        if not isinstance(id, str):
            raise ValueError(f"`ids` must be strings, got {id!r}: use `str(id)`.")


def as_dense_embeddings(embeddings, ids=None):
    """[`DenseEmbeddings`], also from an array or tensor of one vector per passage, or a list of vectors."""
    if isinstance(embeddings, DenseEmbeddings):
        if ids is not None:
            raise ValueError("`DenseEmbeddings` have ids of their own: leave `ids` out.")
        return embeddings
    if ids is None or isinstance(ids, str):
        raise ValueError(f"`ids` must be a list of one id per passage, got {ids!r}.")
    ids = list(ids)
    check_ids_are_texts(ids)
    values = as_vectors(embeddings, ids)
    if isinstance(values, list):
        raise ValueError("Got several vectors per passage, expected one: `LateInteractionIndex` takes several.")
    return DenseEmbeddings(values, ids)


def write_ids(folder, ids):
    """Write the passages' ids into a folder, block by block: the text of millions of ids fills gigabytes."""
    with open(folder.file("ids.json"), "w", encoding="utf-8") as file:
        for start in range(0, len(ids), IDS_PER_WRITE):
            text = json.dumps(ids[start : start + IDS_PER_WRITE])
            file.write(("[" if start == 0 else ", ") + text[1:-1])
        file.write("]" if len(ids) else "[]")


def read_ids(files):
    """The passages' ids from a folder's data files."""
    return json.loads(files["ids.json"].read_text(encoding="utf-8"))


def _check_vectors(values, shape):
    dtype = getattr(values, "dtype", None)  # lists have none, tensors torch's
    got = f"{dtype} {values.shape}" if isinstance(dtype, np.dtype) else type(values).__name__
    if not isinstance(dtype, np.dtype) or values.ndim != 2 or not np.issubdtype(dtype, np.floating):
        raise ValueError(f"`values` must be a floating-point array of shape {shape}, got {got}.")


def _check_ids(ids, expected):
    if len(ids) != expected:
        raise ValueError(f"There must be one id per passage, got {len(ids)} ids for {expected} passages.")
    duplicate = first_duplicate(ids)
    if duplicate is not None:
        raise ValueError(f"The id `{duplicate}` appears twice: ids must be unique.")


__all__ = [
    "DenseEmbeddings",
    "QueryEmbeddings",
    "TokenEmbeddings",
    "as_dense_embeddings",
    "check_ids_are_texts",
    "packed",
    "padded",
    "read_ids",
    "write_ids",
]
