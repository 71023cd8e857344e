"""The protocol that every index follows, and the index kinds by the format of their folders."""

import json
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from ..utils.checks import quoted
from ..utils.storage import MANIFEST, read_folder
from .bm25 import BM25Index
from .checks import check_ids_match
from .dense.index import DenseIndex
from .late_interaction.index import LateInteractionIndex


@runtime_checkable
class SearchIndex(Protocol):
    r"""
    What a pipeline, mining and evaluation need of an index. Any object with these members is an index; a base class is
    not required.

    An index may also have the following; [`index_attribute`] gives the default where it does not:

    | member | default | meaning |
    |---|---|---|
    | `search_options` (`tuple[str, ...]`) | `()` | further keywords of `search_batch`, such as `n_probe`; with \
`progress` among them, callers switch its progress bar off |
    | `embedding_dim` (`int`) | `None` | dimensions of the query vectors; compared with the encoder's |
    | `format` (`str`) | `None` | format name in the manifest of its folder; needed for [`register_index`] |
    | `save(path)`, `load(path)` (class method) | `None` | write a folder with that manifest, and open it |
    | `explain(query_embeddings, id, query_mask)` | `None` | token matches, see [`LateInteractionIndex.explain`] |
    | `bind(dataset)` | `None` | an index that returns rows of this dataset; see [`bind_index`] |

    Attributes:
        kind (`str`):
            A name for messages and cards, such as `"bm25"`.
        queries (`"text"`, `"vectors"` or `"token_vectors"`):
            What `search_batch` takes: strings, an array of shape `(num_queries, embedding_dim)`, or an array of shape
            `(num_queries, query_length, embedding_dim)` with the keyword `query_mask`.
        ids (`list[str]`):
            The ids of the passages, by row.

    Example:
    ```python
    >>> from hf_xlir.index import BM25Index, SearchIndex

    >>> isinstance(BM25Index.build([{"id": "a", "text": "The Nile."}], progress=False), SearchIndex)
    True

    ```
    """

    kind: str
    queries: Literal["text", "vectors", "token_vectors"]
    ids: list

    def search_batch(self, queries, k, allowed_ids=None, **options):
        """
        `(scores, rows)`, both of shape `(num_queries, width)` with a `width` of at most `k`: scores in falling order,
        higher is better, and positions in `ids`. Row -1 says that nothing more was found. `allowed_ids` limits the
        search to these passages.
        """
        ...


_OPTIONAL = {
    "search_options": (),
    **dict.fromkeys(("embedding_dim", "format", "save", "load", "explain", "bind")),
}
_CLASSES = {}


def index_attribute(index, name):
    """An optional member of an index or an index class, or its default; see [`SearchIndex`]."""
    return getattr(index, name, _OPTIONAL[name])


def check_index(index):
    """`index`; a `ValueError` that names what it lacks unless it follows [`SearchIndex`]."""
    missing = [name for name in ("kind", "queries", "ids", "search_batch") if not hasattr(index, name)]
    if isinstance(index, type) or missing:
        got = f"the class `{index.__name__}`" if isinstance(index, type) else f"`{type(index).__name__}`"
        lack = f" without {quoted(missing)}" if missing else ""
        raise ValueError(f"`index` must be an index (see `hf_xlir.index.SearchIndex`), got {got}{lack}.")
    choices = ("text", "vectors", "token_vectors")
    if index.queries not in choices:
        raise ValueError(f"`{type(index).__name__}.queries` must be one of {choices}, got {index.queries!r}.")
    return index


def bind_index(index, dataset):
    """
    An index that returns rows of `dataset`: `index.bind(dataset)` if it has `bind` (an index that can change while it
    is attached), else `index` itself. A `ValueError` unless the rows are the indexed passages in their order.
    """
    bind = index_attribute(index, "bind")
    if bind is not None:
        return bind(dataset)
    if index.ids is not None:
        check_ids_match(dataset, index.ids)
    elif len(dataset) != len(index):
        raise ValueError(f"The dataset has {len(dataset)} rows, but the index has {len(index)}.")
    return index


def register_index(index_class):
    r"""
    Let [`load_index`], pipelines and the Hub functions open the folders of an index class. Also a class decorator.

    Args:
        index_class (`type`):
            A [`SearchIndex`] class with `format`, `save` and the class method `load`. `save(path)` writes a folder
            whose `manifest.json` has `{"format": index_class.format, ...}`.

    Returns:
        `type`: `index_class`.

    Raises:
        ValueError: If one of these is missing, or another class has the format.

    Example:
    ```python
    >>> from hf_xlir.index import register_index

    >>> @register_index  # doctest: +SKIP
    ... class MyIndex:
    ...     kind, queries, format = "mine", "text", "my_package.my_index"

    ```
    """
    missing = [name for name in ("kind", "format", "save", "load") if getattr(index_class, name, None) is None]
    if missing:
        raise ValueError(f"`{index_class.__name__}` cannot be registered without {quoted(missing)}.")
    known = _CLASSES.get(index_class.format)
    # The same definition again, as when a notebook cell runs twice, replaces the first
    if known is not None and (known.__module__, known.__qualname__) != (
        index_class.__module__,
        index_class.__qualname__,
    ):
        raise ValueError(
            f"The format {index_class.format!r} belongs to `{known.__name__}`: give `{index_class.__name__}` another."
        )
    _CLASSES[index_class.format] = index_class
    return index_class


def index_class(format):
    """The registered class of a manifest's format name; a `ValueError` if there is none."""
    if format not in _CLASSES:
        raise ValueError(
            f"{format!r} is not the format of a known index, expected one of {sorted(_CLASSES)}. "
            "`hf_xlir.index.register_index` makes another one known."
        )
    return _CLASSES[format]


def load_index(path, verify=False):
    r"""
    Open a folder that an index was saved to, of any registered kind.

    Args:
        path (`str` or `os.PathLike`):
            The folder.
        verify (`bool`, *optional*, defaults to `False`):
            Whether to compare the checksums of all files first, which reads them once. Without it, `load` of the
            package's own indexes compares all sizes, and the checksums of files up to 16 MiB.

    Returns:
        [`SearchIndex`], memory-mapped if its class does so.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder does not hold an index of a registered class, or is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder `{path}` with an index. `hf_xlir.index.load_index_from_hub` downloads one."
        )
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = index_class(manifest.get("format") if isinstance(manifest, dict) else None)
    except FileNotFoundError:
        raise ValueError(f"`{path}` has no {MANIFEST}: expected a folder that an index was saved to.") from None
    except ValueError as error:
        raise ValueError(f"`{path}` does not hold an index: {error}") from error
    if verify:
        read_folder(path, found.format, verify=True)
    return found.load(path)


for each in (BM25Index, DenseIndex, LateInteractionIndex):
    register_index(each)

__all__ = [
    "SearchIndex",
    "bind_index",
    "check_index",
    "index_attribute",
    "index_class",
    "load_index",
    "register_index",
]
