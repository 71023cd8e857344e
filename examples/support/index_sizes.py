"""Sizes and recall of dense indexes side by side."""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_xlir.index import DenseEmbeddings, add_dense_index


class IndexSize(NamedTuple):
    r"""
    An index in the report of [`compare_index_sizes`].

    Args:
        passages (`str`):
            Name of its passages: a key of `subsets`.
        factory (`str`):
            Description for `faiss.index_factory`.
        dimensions (`int`):
            Dimensions of a vector.
        num_passages (`int`):
            Number of passages in the index.
        num_bytes (`int`):
            Size of the saved index, without ids and texts.
        bytes_per_passage (`float`):
            Bytes per passage in the index.
        quality (`dict[int, float]`):
            Result of `measure` for its rankings, by depth.
        build_seconds (`float`):
            Seconds to train and build it.
        ms_per_query (`float`):
            Milliseconds per query, with all queries in one search.
    """

    passages: str
    factory: str
    dimensions: int
    num_passages: int
    num_bytes: int
    bytes_per_passage: float
    quality: dict
    build_seconds: float
    ms_per_query: float


def compare_index_sizes(
    embeddings, queries, measure, factories, subsets=None, k=(20, 100), metric="inner_product", n_probe=None, seed=0
):
    r"""
    Build dense indexes over some passages' vectors, and say how large they are and what they find.

    Args:
        embeddings ([`DenseEmbeddings`]):
            All passages.
        queries (`torch.FloatTensor` or `numpy.ndarray` of shape `(num_queries, embedding_dim)`):
            Vectors of questions.
        measure (`Callable[[list[list[str]], int], float]`):
            The quality of rankings, a list of passages' ids for each query, at a depth. What the whole corpus holds
            counts, so that a passage left out is a passage not found.
        factories (`list[str]`):
            For `faiss.index_factory`, such as `"Flat"`, `"SQfp16"`, `"SQ8"`, `"PQ64"`, `"IVF1024,PQ64"` or `"RaBitQ"`.
        subsets (`dict[str, numpy.ndarray]`, *optional*):
            Rows of passages to index, by name. By default all.
        k (`tuple[int]`, *optional*, defaults to `(20, 100)`):
            Depths.
        metric, n_probe, seed (*optional*):
            As of [`add_dense_index`].

    Returns:
        `list[IndexSize]`, of each subset each factory.

    Raises:
        ValueError: If a subset has no passage, or FAISS cannot make or train such an index.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_xlir.index import DenseEmbeddings
    >>> from support.index_sizes import compare_index_sizes

    >>> embeddings = DenseEmbeddings(np.eye(8, dtype="float32"), list("abcdefgh"))
    >>> def first_is_own(rankings, k):
    ...     return np.mean([own in found[:k] for own, found in zip("abc", rankings)])
    >>> report = compare_index_sizes(embeddings, np.eye(8, dtype="float32")[:3], first_is_own, ["Flat", "SQ8"], k=(1,))
    >>> [(row.factory, row.quality) for row in report]
    [('Flat', {1: 1.0}), ('SQ8', {1: 1.0})]

    ```
    """
    subsets = {"all": np.arange(len(embeddings))} if subsets is None else subsets
    for name, rows in subsets.items():
        if not len(rows):
            raise ValueError(f"The passages {name!r} are none: loosen the filter.")
    report = []
    total = len(subsets) * len(factories)
    with tqdm(total=total, desc="Indexes", disable=not logging.is_progress_bar_enabled(), delay=2) as bar:
        for name, rows in subsets.items():
            some = part_of(embeddings, rows)
            passages = Dataset.from_dict({"id": some.ids})
            for factory in factories:
                started = time.perf_counter()
                add_dense_index(passages, some, "dense", factory, metric, _probes(factory, n_probe), seed)
                index, build_seconds = passages.get_index("dense"), time.perf_counter() - started
                started = time.perf_counter()
                found = index.search_batch(queries, max(k)).total_indices
                seconds = time.perf_counter() - started
                rankings = [[some.ids[row] for row in best] for best in found]
                quality = {depth: float(measure(rankings, depth)) for depth in k}
                num_bytes = saved_bytes(index)
                report.append(
                    IndexSize(
                        *(name, factory, some.values.shape[1]),
                        *(len(rows), num_bytes, num_bytes / len(rows), quality),
                        *(build_seconds, 1e3 * seconds / len(queries)),
                    )
                )
                passages.drop_index("dense")
                bar.update()
    return report


def part_of(embeddings, rows):
    """[`DenseEmbeddings`] of some rows; of all of them, the same ones."""
    if len(rows) == len(embeddings):
        return embeddings
    return DenseEmbeddings(embeddings.values[rows], [embeddings.ids[row] for row in rows])


def saved_bytes(index):
    """Size of a [`DenseIndex`] on disk, without its ids."""
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.faiss"))


def size_table(report):
    """The report as a Markdown table, each index also as a share of the first one."""
    depths = list(report[0].quality)
    head = [
        "passages",
        "index",
        "dimensions",
        "number",
        "bytes/passage",
        "MB",
        "of the first",
        *(f"@{depth}" for depth in depths),
    ]
    lines = [" | ".join(["", *head, "ms/query", ""]).strip(), "|" + "---|" * (len(head) + 1)]
    for row in report:
        cells = [row.passages, row.factory, str(row.dimensions), str(row.num_passages), f"{row.bytes_per_passage:.1f}"]
        cells += [f"{row.num_bytes / 1e6:.2f}", f"{row.num_bytes / report[0].num_bytes:.1%}"]
        cells += [f"{row.quality[depth]:.3f}" for depth in depths]
        lines.append(" | ".join(["", *cells, f"{row.ms_per_query:.2f}", ""]).strip())
    return "\n".join(lines)


def _probes(factory, n_probe):
    return n_probe if "IVF" in factory else None


__all__ = ["IndexSize", "compare_index_sizes", "part_of", "size_table"]
