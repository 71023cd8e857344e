"""Attaching a dense index to a `datasets.Dataset`."""

from .faiss_building import build_faiss_index, faiss_metric
from .index import DenseIndex
from .vectors import DenseVectors


def add_dense_index(
    dataset,
    embeddings_or_column,
    index_name="dense",
    string_factory=None,
    metric="inner_product",
    n_probe=None,
    seed=0,
    device=None,
):
    r"""
    Attach a FAISS index to a dataset, so that `dataset.get_nearest_examples(index_name, vector, k)` searches it.

    Without `string_factory`, the number of vectors decides:

    | vectors | index | a search looks at | bytes a dimension | recall@10 |
    |---|---|---|---|---|
    | below 100,000 | `Flat` | all vectors | 4 | 1 |
    | below 1,000,000 | `IVF{cells},Flat`, 1,024 or 2,048 cells | 1/32 of the cells | 4 | 1.00 |
    | more | `IVF{cells},SQ8`, 2,048 or 4,096 cells | 1/32 of the cells | 1 | 0.99 |

    Recall is against exact search among 100,000 clustered vectors of 384 dimensions, with 1,024 cells
    (`benchmarks/dense.py`); it is lower where vectors form no clusters. Corpora that outgrow memory want a factory of
    their own, such as `"IVF4096,RaBitQ4"` or `"IVF65536_HNSW32,PQ64"`.

    Methods of `Dataset` treat an attached index, this one or a [`LateInteractionIndex`], in one of three ways. Attach
    it last, or save it and attach it again:

    | method | index |
    |---|---|
    | `with_format`, `set_format`, `reset_format`, `with_transform`, `set_transform` | kept |
    | `remove_columns`, `select_columns`, `rename_column`, `rename_columns`, `flatten` | kept |
    | `iter`, `unique`, `to_dict`, `to_pandas`, `to_csv`, `to_json`, `to_parquet` | kept |
    | `copy.deepcopy`, `pickle` | kept |
    | `map`, `add_column`, `add_item`, `cast`, `cast_column`, `class_encode_column` | dropped silently |
    | `concatenate_datasets`, `repeat`, `flatten_indices`, `to_iterable_dataset` | dropped silently |
    | `select`, `filter`, `shuffle`, `sort`, `shard`, `skip`, `take`, `train_test_split` | refused |
    | `batch`, `map` with `batched=True` that returns another number of rows | refused |
    | `save_to_disk` | refused: `drop_index` first |
    | `save_faiss_index` | this index alone, as one FAISS file without ids; use [`DenseIndex.save`] |

    Args:
        dataset (`datasets.Dataset`):
            The passages. If it has a column `id`, its values must differ: searches can then be limited to some ids.
        embeddings_or_column ([`DenseEmbeddings`], `numpy.ndarray`, `torch.Tensor` or `str`):
            One vector a row, of shape `(number of rows, embedding_dim)`, or the name of the column that holds them.
            They are read in blocks of 16,384, so that memory-mapped vectors are never in memory as a whole. Vectors
            are used as they are: with the inner product long ones win, so normalise them first if angles are meant.
        index_name (`str`, *optional*, defaults to `"dense"`):
            What to call the index.
        string_factory (`str`, *optional*):
            A description for `faiss.index_factory`, such as `"IVF256,PQ32"`, `"HNSW32"` or `"RaBitQ"`. What needs
            training is trained on up to 262,144 of the vectors.
        metric (`"inner_product"` or `"l2"`, *optional*, defaults to `"inner_product"`):
            How vectors compare. Scores are higher-is-better for both: with `"l2"`, negated squared distances.
        n_probe (`int`, *optional*):
            Cells that a search of an inverted file (`IVF...`) looks at. Defaults to 1/32 of them, and at least 16:
            FAISS's own default of 1 misses most neighbours. Graphs (`HNSW...`) search with a breadth of 64.
        seed (`int`, *optional*, defaults to 0):
            Of the training sample.
        device (`"cpu"` or `"cuda"`, *optional*):
            Where to train and search. By default on all GPUs, a copy of the index on each, if `faiss-gpu` is
            installed, finds one, and has a GPU version of this kind of index; otherwise on the CPU.

    Returns:
        `datasets.Dataset`: `dataset` itself. `dataset.get_index(index_name)` is the [`DenseIndex`], which saves.

    Raises:
        ImportError: If FAISS is missing.
        ValueError: If vectors and rows do not match, a vector has a NaN or infinite value, an id appears twice, FAISS
            cannot make or train such an index, or an argument is not one of those above.

    Example:
    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from hf_xlir.index import add_dense_index

    >>> passages = Dataset.from_dict({"id": ["a", "b"], "text": ["north", "east"]})
    >>> passages = add_dense_index(passages, np.eye(2, dtype="float32"))
    >>> scores, examples = passages.get_nearest_examples("dense", np.array([0.6, 0.8]), k=1)
    >>> examples["text"]
    ['east']
    >>> scores, examples = passages.get_nearest_examples("dense", np.array([0.6, 0.8]), k=2, allowed_ids=["a"])
    >>> examples["text"]
    ['north']

    ```
    """
    faiss_metric(metric)
    vectors = DenseVectors(dataset, embeddings_or_column)
    index = build_faiss_index(vectors, string_factory, metric, n_probe, seed, device)
    dataset._indexes[index_name] = DenseIndex(index, metric, vectors.ids, vectors.column)
    return dataset


__all__ = ["add_dense_index"]
