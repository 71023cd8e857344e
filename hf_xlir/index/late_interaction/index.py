"""The late-interaction index: passages ranked by the similarity of single tokens, which come, change and go."""

from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from datasets.search import BaseIndex, BatchedSearchResults, SearchResults

from ...utils.progress import progress_bar
from ..checks import check_ids_match, check_k, check_queries
from ..scoring import TopK
from .contents import (
    BuildSettings,
    Contents,
    added,
    as_token_embeddings,
    check_vectors,
    merged,
    removed,
    updated,
)
from .folder import INDEX_FORMAT, load_contents, save_contents
from .maintenance import compacted, maintained, rebuilt
from .passage_ids import PassageIds
from .pooling import pool_tokens
from .query_sample import query_moments
from .search import search_limits


QUERIES_PER_STEP = 64  # of a progress bar
EXACT_QUERIES_PER_STEP = 1024  # each step reads all uncompressed vectors once


class TokenMatch(NamedTuple):
    r"""
    The passage token that a query token matched.

    Args:
        query_token (`int`):
            Position in the query's embeddings.
        passage_token (`int`):
            Position among the passage's tokens that count; `embedding_mask.nonzero()` of the processor's output for
            the passage maps it to a position in `input_ids`. With pooling, the position among the pooled tokens.
        similarity (`float`):
            Their inner product; the sum over query tokens is the passage's score.
    """

    query_token: int
    passage_token: int
    similarity: float


class LateInteractionIndex(BaseIndex):
    r"""
    Ranks passages by MaxSim over their token vectors, exactly or from compressed ones.

    Results are rows: positions in `index.ids`, and so in a `datasets.Dataset` of the passages. [`~.add`] puts passages
    behind the others, [`~.update`] leaves them in their rows, and after [`~.remove`] those behind move up, as in a
    dataset after `concatenate_datasets`, `map` and `filter`.

    Vectors are used as they are, without normalisation. Compression keeps their lengths in half precision, so that a
    vector twice as long has twice the inner products; lengths below 1e-6 lose digits.

    A change costs what the changed passages cost, in an index of any size (`benchmarks/index_changes.py`). It
    puts new vectors into a segment of their own and only marks removed passages. When a limit is passed, the same call
    also maintains the segments:

    | what | when | loss |
    |---|---|---|
    | a segment is written without its removed passages | they have a quarter of its tokens | none |
    | the smallest segments become one | it is not 4 times larger than all smaller ones together, or below 16,384 \
tokens | none |
    | everything is compressed anew, with new centroids | 4 times the tokens that the centroids were trained on, or \
the mean squared distance of tokens from their centroids is a tenth above that of new tokens of the same kind | what \
was compressed is rounded a second time |

    [`~.compact`] and [`~.rebuild`] do the same at any time; [`~.rebuild`] takes the original vectors if you have them.

    A search sees the passages that were there when it began. Threads may search while one thread changes the index.

    Make an index with [`~.build`], [`~.load`] or [`~.merge`].

    Example:
    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from hf_xlir.index import LateInteractionIndex

    >>> passages = Dataset.from_dict({"id": ["a", "b"], "text": ["north", "east"]})
    >>> vectors = [np.array([[1.0, 0.0]], dtype="float32"), np.array([[0.0, 1.0]], dtype="float32")]
    >>> index = LateInteractionIndex.build(vectors, ids=passages["id"]).attach(passages, "colbert")
    >>> scores, examples = passages.get_nearest_examples("colbert", np.array([[0.6, 0.8]]), k=1)
    >>> examples["text"]
    ['east']
    >>> index.remove(["b"])
    >>> scores, examples = passages.get_nearest_examples("colbert", np.array([[0.6, 0.8]]), k=1)
    >>> examples["text"]
    ['north']

    ```
    """

    kind, queries, format = "late_interaction", "token_vectors", INDEX_FORMAT
    search_options = ("preset", "n_probe", "n_tokens", "n_rerank", "progress")

    def __init__(self, contents, settings, folder=None):
        self.contents, self.settings = contents, settings
        self._folder = folder  # where it was loaded from or saved to last
        self._device, self._moved = torch.device("cpu"), WeakKeyDictionary()

    def __reduce__(self):
        return type(self), (self.contents, self.settings)  # the vectors, not the files they were mapped from

    def __deepcopy__(self, memo):
        return type(self)(self.contents, self.settings, self._folder)  # contents never change

    @classmethod
    def build(
        cls,
        embeddings,
        nbits="auto",
        num_centroids=None,
        pooling_factor=1,
        seed=0,
        queries=None,
        *,
        ids=None,
        mask=None,
    ):
        r"""
        An index over token embeddings.

        Args:
            embeddings ([`TokenEmbeddings`], `list[numpy.ndarray]`, `list[torch.Tensor]`, `numpy.ndarray` or \
`torch.Tensor`):
                From [`embed_passages`], in memory or memory-mapped; or, from any library, arrays or tensors of shape
                `(length, embedding_dim)`, one per passage; or one of shape `(num_passages, length, embedding_dim)`.
                An exact index keeps [`TokenEmbeddings`] as they are.
            nbits (`int`, *optional*, defaults to `"auto"`):
                Bits per dimension of a compressed vector: 1, 2, 3, 4 or 8; `None` for exact search over the vectors
                themselves. `"auto"` is exact up to 131,072 tokens, about 1,000 passages, and 4 bits beyond. Up to that
                size an exact search takes at most about twice as long as a compressed one, 30 ms on two cores, and
                vectors of 128 dimensions fill at most 64 MiB. An index that grows beyond it is compressed then.
            num_centroids (`int`, *optional*):
                Centroids of a compressed index, at most 32,768 and never more than there are tokens. By default 8
                times the square root of the number of tokens.
            pooling_factor (`int`, *optional*, defaults to 1):
                Each passage keeps its number of vectors divided by this, rounded up; so do passages added later. See
                [`~hf_xlir.index.late_interaction.pooling.pool_tokens`].
            seed (`int`, *optional*, defaults to 0):
                For the sample that centroids are trained on, their training and the codec's rotation. One seed gives
                one index on one machine.
            queries ([`QueryEmbeddings`], *optional*):
                A sample of the queries to come, such as a hundred training questions, from [`embed_queries`].
                Precision goes to the directions in which queries have most. The more queries differ from passages, as
                those filled up with `[MASK]` do, the closer this brings a compressed search to the exact one. Other
                queries are still served, less well. By default [`embed_passages`] has embedded pieces of passages as
                queries, which do nearly as well; without these, queries are taken to be like passages.
            ids (`list[str]`, *optional*):
                The passages' ids, where `embeddings` are arrays or tensors.
            mask (`numpy.ndarray` or `torch.BoolTensor` of shape `(num_passages, length)`, *optional*):
                `True` for tokens that count, where `embeddings` is one array or tensor. All count by default.

        Returns:
            [`LateInteractionIndex`].

        Raises:
            ValueError: If there are no passages, a vector has a NaN or infinite value or a length above 60,000, or an
                argument is not one of those above.
        """
        settings = BuildSettings(nbits, num_centroids, pooling_factor, seed).checked()
        embeddings = as_token_embeddings(embeddings, ids, mask)
        check_vectors(embeddings)
        if not len(embeddings):
            raise ValueError("`embeddings` has no passages: there is nothing to index.")
        embeddings = pool_tokens(embeddings, settings.pooling_factor)
        moments = embeddings.query_moments
        if queries is not None:
            moments = query_moments(queries, embeddings.embedding_dim)
        contents = added(Contents(PassageIds.of([]), (), embeddings.embedding_dim, moments), embeddings)
        return cls(maintained(contents, settings), settings)

    @classmethod
    def merge(cls, indexes):
        r"""
        One index of several that share no passage, such as shards built on several machines.

        Args:
            indexes (`list[LateInteractionIndex]`):
                Their rows follow each other. Segments and their codecs stay as they are, so that a search finds what
                searches of all the indexes find; [`~.rebuild`] makes one segment of them.

        Returns:
            [`LateInteractionIndex`]: It shares memory with them, but no changes. Later additions follow the settings
            of the first index.

        Raises:
            ValueError: If there are none, their vectors have different sizes, they were built with different `nbits`
                or `pooling_factor`, or an id is in two of them.
        """
        indexes = list(indexes)
        if not indexes:
            raise ValueError("`indexes` is empty: give at least one.")
        kinds = {(each.embedding_dim, each.settings.nbits, each.settings.pooling_factor) for each in indexes}
        if len(kinds) > 1:
            raise ValueError(
                "Indexes to merge must have the same `embedding_dim`, `nbits` and `pooling_factor`, got "
                f"{sorted(kinds, key=str)}: build them alike."
            )
        contents, seen = merged([each.contents for each in indexes]), set()
        twice = [id for id in contents.ids if id in seen or seen.add(id)]
        if twice:
            raise ValueError(
                f"{len(twice)} ids are in several indexes, such as {twice[:5]}: `remove` them from all but one."
            )
        return cls(contents, indexes[0].settings)

    @classmethod
    def load(cls, path, verify=False):
        r"""
        Open an index written by [`~LateInteractionIndex.save`]; vectors stay on disk until they are searched.

        Args:
            path (`str` or `os.PathLike`):
                The folder.
            verify (`bool`, *optional*, defaults to `False`):
                Whether to compare all checksums first, which reads everything once. By default the checksums of files
                up to 16 MiB and the sizes of all are compared.

        Returns:
            [`LateInteractionIndex`].

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it holds another format or a later version, or one of its files is missing, truncated or
                altered.
        """
        return cls(*load_contents(path, verify))

    def save(self, path, overwrite=False):
        r"""
        Write the index to a folder at once: until the end, readers of an index already there see the old one, and they
        keep it. In the folder that the index was loaded from or saved to last, only changed segments are written.

        Args:
            path (`str` or `os.PathLike`):
                The folder, made if absent.
            overwrite (`bool`, *optional*, defaults to `False`):
                Whether to replace what another writer has saved there since this index was loaded from or saved there.

        Raises:
            ValueError: If another writer has saved there since, or the folder holds something else (embeddings).
            OSError: If the folder cannot be written to (`PermissionError`), or is full; what it held is unchanged.
        """
        folder = self._folder
        if folder is not None and folder.is_at(path) and folder.has_changed and not overwrite:
            raise ValueError(
                f"`{path}` was changed by another writer since this index was loaded from there or saved there: load "
                "it again and repeat your changes, save to another folder, or give `overwrite=True` to drop what the "
                "other wrote."
            )
        self._folder = save_contents(self.contents, self.settings, path, folder)

    def __len__(self):
        return len(self.contents.ids)

    @property
    def ids(self):
        """The passages' ids in the order of rows, an immutable sequence; a slice of it is a list."""
        return self.contents.ids

    @property
    def embedding_dim(self):
        """Number of dimensions of a vector."""
        return self.contents.embedding_dim

    @property
    def num_tokens(self):
        """Number of token vectors."""
        return self.contents.num_tokens

    @property
    def nbytes(self):
        """Bytes of all vectors, of the posting lists, and of centroids."""
        codecs = {id(each.training): each.training.codec for each in self.contents.segments if each.training}
        return sum(each.tokens.nbytes for each in self.contents.segments) + sum(
            array.nbytes for codec in codecs.values() for array in codec.arrays().values()
        )

    def add(self, embeddings, maintain=True, *, ids=None, mask=None):
        r"""
        Add passages behind the others.

        Args:
            embeddings ([`TokenEmbeddings`] or what else [`~LateInteractionIndex.build`] takes):
                Their vectors, from the same model. None of the ids may be in the index already.
            maintain (`bool`, *optional*, defaults to `True`):
                Whether to maintain the segments where a limit is passed; see [`LateInteractionIndex`].
            ids, mask (*optional*):
                As for [`~LateInteractionIndex.build`].

        Raises:
            ValueError: If an id is in the index already, or vectors are of another size or not finite; nothing is
                changed then.
        """
        self._change(added, as_token_embeddings(embeddings, ids, mask), maintain)

    def update(self, embeddings, maintain=True, *, ids=None, mask=None):
        r"""
        Replace the vectors of passages, which keep their rows.

        Args:
            embeddings ([`TokenEmbeddings`] or what else [`~LateInteractionIndex.build`] takes):
                Their new vectors. All ids must be in the index.
            maintain, ids, mask (*optional*):
                As for [`~LateInteractionIndex.add`].

        Raises:
            ValueError: If an id is not in the index, or vectors are of another size or not finite; nothing is changed
                then.
        """
        self._change(updated, as_token_embeddings(embeddings, ids, mask), maintain)

    def remove(self, ids, maintain=True):
        r"""
        Remove passages; no search that starts afterwards finds them. All may be removed, and others added then.

        Args:
            ids (`Iterable[str]`):
                Their ids.
            maintain (`bool`, *optional*, defaults to `True`):
                As for [`~LateInteractionIndex.add`].

        Raises:
            ValueError: If an id is not in the index; nothing is changed then.
        """
        self.contents = maintained(removed(self.contents, ids), self.settings, maintain)

    def compact(self):
        """Drop what is left of removed passages, and join segments that share a codec. Results do not change."""
        self.contents = compacted(self.contents)

    def rebuild(self, embeddings=None, queries=None):
        r"""
        Compress everything anew, with new centroids, into one segment.

        Args:
            embeddings ([`TokenEmbeddings`], *optional*):
                Original vectors of all passages of the index, in any order; further passages are ignored. Without
                them the compressed vectors are decoded and rounded a second time.
            queries ([`QueryEmbeddings`], *optional*):
                As for [`~LateInteractionIndex.build`]. By default the sample that the index was built with.

        Raises:
            ValueError: If a passage of the index is not in `embeddings`, or vectors are of another size or not finite.
        """
        contents = self.contents
        if queries is not None:
            contents = replace(contents, query_moments=query_moments(queries, self.embedding_dim))
        if embeddings is not None:
            embeddings = as_token_embeddings(embeddings)
            check_vectors(embeddings, self.embedding_dim)
            embeddings = pool_tokens(embeddings, self.settings.pooling_factor)
        self.contents = rebuilt(contents, self.settings, embeddings)

    def to(self, device):
        """Search on a device, such as `"cuda"`, to which the next search copies vectors. Returns the index."""
        self._device, self._moved = torch.device(device), WeakKeyDictionary()
        return self

    def search(
        self,
        query_embeddings,
        k=10,
        query_mask=None,
        allowed_ids=None,
        preset="balanced",
        n_probe=None,
        n_tokens=None,
        n_rerank=None,
    ):
        r"""
        The best passages for one query.

        Args:
            query_embeddings (`torch.FloatTensor` or `numpy.ndarray` of shape `(query_length, embedding_dim)`):
                Token vectors; a leading axis of 1 is accepted.
            k (`int`, *optional*, defaults to 10):
                Number of passages; all of them, ranked, if there are fewer.
            query_mask (`torch.BoolTensor` or `numpy.ndarray` of shape `(query_length,)`, *optional*):
                `True` for tokens that count. All count by default.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages. If at least `k` are allowed, `k` are found. The fewer, the faster.
            preset (`"fast"`, `"balanced"` or `"exact"`, *optional*, defaults to `"balanced"`):
                How thoroughly to search compressed passages; `"exact"` scores every passage. What each finds is in
                [`~hf_xlir.index.late_interaction.search.PRESETS`].
            n_probe, n_tokens, n_rerank (`int`, *optional*):
                Limits of the search in place of the preset's:
                [`~hf_xlir.index.late_interaction.search.SearchLimits`].

        Returns:
            `datasets.search.SearchResults`: `scores`, falling, and `indices`, the passages' rows; of equal scores the
            lowest row comes first.

        Raises:
            ValueError: If shapes do not fit, a vector that counts has a NaN or infinite value, no token counts, `k` or
                a limit is below 1, there is no such preset, or an allowed id is unknown.
        """
        contents, limits = self.contents, search_limits(preset, n_probe, n_tokens, n_rerank)
        best = self._best(contents, query_embeddings, k, query_mask, limits, _allowed_slots(contents, allowed_ids))
        return SearchResults(best.scores[0].numpy(), contents.ids.rows(best.rows[0].numpy()))

    def search_batch(
        self,
        queries,
        k=10,
        query_mask=None,
        allowed_ids=None,
        preset="balanced",
        n_probe=None,
        n_tokens=None,
        n_rerank=None,
        progress=True,
    ):
        r"""
        The best passages for each of several queries; see [`~LateInteractionIndex.search`].

        Args:
            queries (`torch.FloatTensor` or `numpy.ndarray` of shape `(num_queries, query_length, embedding_dim)`):
                Token vectors.
            k (`int`, *optional*, defaults to 10):
                Number of passages per query.
            query_mask (`torch.BoolTensor` or `numpy.ndarray` of shape `(num_queries, query_length)`, *optional*):
                `True` for tokens that count. All count by default.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages, for every query.
            preset, n_probe, n_tokens, n_rerank (*optional*):
                As for one query.
            progress (`bool`, *optional*, defaults to `True`):
                Whether to show a progress bar where it takes more than two seconds, unless the bars of Transformers
                are switched off.

        Returns:
            `datasets.search.BatchedSearchResults`: `total_scores` and `total_indices`, each of shape `(num_queries,
            k)`.
        """
        contents, limits = self.contents, search_limits(preset, n_probe, n_tokens, n_rerank)
        allowed = _allowed_slots(contents, allowed_ids)
        best = self._best(contents, queries, k, query_mask, limits, allowed, single=False, progress=progress)
        return BatchedSearchResults(best.scores.numpy(), contents.ids.rows(best.rows.numpy()))

    def explain(self, query_embeddings, id, query_mask=None):
        r"""
        Which token of a passage each token of a query matched.

        Args:
            query_embeddings (`torch.FloatTensor` or `numpy.ndarray` of shape `(query_length, embedding_dim)`):
                Token vectors of one query.
            id (`str`):
                The passage's id.
            query_mask (`torch.BoolTensor` or `numpy.ndarray` of shape `(query_length,)`, *optional*):
                `True` for tokens that count. All count by default.

        Returns:
            `list[TokenMatch]`: One for each query token that counts, in order. Similarities are to the vectors that
            the index has, compressed or not.

        Raises:
            ValueError: If the id is unknown, or as for [`~LateInteractionIndex.search`].
        """
        queries, mask = check_queries(query_embeddings, query_mask, self.embedding_dim, single=True)
        segment, place = self.contents.place(id)
        similarities, matches = segment.tokens.similarities(queries[0][mask[0]], place).max(dim=1)
        positions = mask[0].nonzero().flatten().tolist()
        return [TokenMatch(*match) for match in zip(positions, matches.tolist(), similarities.tolist(), strict=True)]

    def attach(self, dataset, name):
        r"""
        Make `dataset.get_nearest_examples(name, query_embeddings, k)` search this index.

        The dataset sees later changes of the index, but its rows stay as they are: removed passages are not found any
        more, updated ones are found by their new vectors. Added passages are not rows of the dataset: attach the index
        to a dataset that has them.

        Operations that make another dataset of `dataset`, such as `map`, do not carry the index along.

        Args:
            dataset (`datasets.Dataset`):
                The passages, in the order of the index's rows.
            name (`str`):
                What to call the index.

        Returns:
            [`LateInteractionIndex`]: This index.

        Raises:
            ValueError: If the dataset has another number of rows, or other ids or another order of them.
        """
        dataset._indexes[name] = self.bind(dataset)
        return self

    def bind(self, dataset):
        """What [`~.attach`] gives the dataset: an index that returns rows of the dataset."""
        return AttachedIndex(self, dataset)

    def _change(self, change, embeddings, maintain):
        check_vectors(embeddings, self.embedding_dim)
        contents = change(self.contents, embeddings)  # an error for ids comes before the work
        if self.settings.pooling_factor > 1:
            contents = change(self.contents, pool_tokens(embeddings, self.settings.pooling_factor))
        self.contents = maintained(contents, self.settings, maintain)

    def _best(self, contents, queries, k, query_mask, limits, allowed, excluded=None, single=True, progress=False):
        """The best `k` slots for each query, a [`TopK`], among those allowed and not excluded, of all segments."""
        queries, mask = check_queries(queries, query_mask, contents.embedding_dim, single)
        k = check_k(k)
        searched = [(segment, segment.searched(allowed, excluded)) for segment in contents.segments]
        searched = [(segment, places) for segment, places in searched if places is None or places.any()]
        step = EXACT_QUERIES_PER_STEP if contents.training is None else QUERIES_PER_STEP
        blocks, best = zip(queries.split(step), mask.split(step), strict=True), []
        with progress_bar(total=len(queries), desc="Searching", unit="query", show=progress, delay=2) as bar:
            for block, block_mask in blocks:
                best.append(self._best_of_block(searched, block, block_mask, k, limits))
                bar.update(len(block))
        return TopK(*(torch.cat(parts) for parts in zip(*best, strict=True)))

    def _best_of_block(self, searched, queries, mask, k, limits):
        best = TopK.empty(len(queries))
        for segment, places in searched:
            places = None if places is None else torch.from_numpy(places)
            found = self._on_device(segment.tokens).search(queries, mask, k, *limits, places)
            slots = torch.cat([best.rows, torch.from_numpy(segment.slots)[found.rows]], dim=1)
            scores = torch.cat([best.scores, found.scores], dim=1)
            slots, order = slots.sort(dim=1)
            scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
            best = TopK(scores[:, :k], slots.gather(1, order[:, :k]))
        return best

    def _on_device(self, tokens):
        if self._device.type == "cpu":
            return tokens
        if tokens not in self._moved:
            self._moved[tokens] = tokens.to(self._device)
        return self._moved[tokens]


class AttachedIndex(BaseIndex):
    """
    A [`LateInteractionIndex`] as one dataset sees it. It returns rows of the dataset that the index was attached to,
    also after passages were added to the index or removed from it.
    """

    def __init__(self, index, dataset):
        check_ids_match(dataset, index.ids)
        self.index, self.ids = index, index.ids  # the ids of the dataset's rows
        self._new = index.ids, np.empty(0, np.int64)  # ids of the index, and the slots that are not in the dataset

    def __len__(self):
        return len(self.ids)

    def __deepcopy__(self, memo):
        return self  # `dataset.with_format` and the like need no second index in memory

    def search(self, query, k=10, query_mask=None, allowed_ids=None, **limits):
        """See [`LateInteractionIndex.search`]."""
        best, rows = self._best(query, k, query_mask, allowed_ids, **limits)
        return SearchResults(best.scores[0].numpy(), rows[0])

    def search_batch(self, queries, k=10, query_mask=None, allowed_ids=None, progress=True, **limits):
        """See [`LateInteractionIndex.search_batch`]."""
        best, rows = self._best(queries, k, query_mask, allowed_ids, single=False, progress=progress, **limits)
        return BatchedSearchResults(best.scores.numpy(), rows)

    def _best(
        self, queries, k, mask, allowed_ids, preset="balanced", n_probe=None, n_tokens=None, n_rerank=None, **options
    ):
        """The best slots of the index, and the rows of the dataset that they are."""
        contents, limits = self.index.contents, search_limits(preset, n_probe, n_tokens, n_rerank)
        allowed, excluded = None, None
        if allowed_ids is None:
            excluded = self._slots_of_others(contents.ids)
        else:
            own = self.ids.at(self.ids.find(allowed_ids, "allowed_ids"))  # raises for other ids
            allowed = contents.ids.slots(own)
            allowed = np.sort(allowed[allowed >= 0])
        best = self.index._best(contents, queries, k, mask, limits, allowed, excluded, **options)
        found, places = np.unique(best.rows.numpy(), return_inverse=True)
        rows = self.ids.rows(self._own_slots(contents.ids, found))
        return best, rows[places].reshape(best.rows.shape)

    def _own_slots(self, ids, slots):
        """The slots in the dataset's ids of the passages in some slots of the index; -1 for others."""
        if ids.origin is not self.ids.origin:
            return self.ids.slots(ids.at(slots))
        own, later = slots.copy(), slots >= self.ids.end
        own[later] = self.ids.slots(ids.at(slots[later]))
        return own

    def _slots_of_others(self, ids):
        """Rising slots of the index that are not in the dataset; looks only at those added since the last time."""
        known, others = self._new
        if ids is not known:
            first = known.end
            if ids.origin is not known.origin or ids.end < known.end:
                first, others = self.ids.end if ids.origin is self.ids.origin else 0, np.empty(0, np.int64)
            more = np.arange(first, ids.end)
            others = np.concatenate([others, more[self._own_slots(ids, more) < 0]])
            self._new = ids, others
        return others


def _allowed_slots(contents, allowed_ids):
    return None if allowed_ids is None else contents.ids.find(allowed_ids, "allowed_ids")


__all__ = ["AttachedIndex", "LateInteractionIndex", "TokenMatch"]
