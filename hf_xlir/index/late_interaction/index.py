"""The late-interaction index: passages ranked by the similarity of single tokens."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from datasets.search import BatchedSearchResults, SearchResults
from tqdm.auto import tqdm
from transformers.utils import logging

from ..checks import check_k, check_queries
from ..scoring import TopK
from .attached import AttachedIndex
from .changes import ChangingIndex
from .contents import Contents, Settings, added, check_vectors, settled
from .folder import INDEX_FORMAT
from .query_sample import query_moments
from .search_limits import search_limits
from .token_pooling import pool_tokens


QUERIES_PER_STEP = 64  # of a progress bar
EXACT_QUERIES_PER_STEP = 1024  # uncompressed vectors are all read once a step


class TokenMatch(NamedTuple):
    r"""
    The passage token that a query token matched.

    Args:
        query_token (`int`):
            Position in the query's embeddings.
        passage_token (`int`):
            Position among the passage's tokens that count; `embedding_mask.nonzero()` of the processor's output for
            the passage maps it to a position in `input_ids`. Of pooled tokens, the position among those.
        similarity (`float`):
            Their inner product; the sum over query tokens is the passage's score.
    """

    query_token: int
    passage_token: int
    similarity: float


class LateInteractionIndex(ChangingIndex):
    r"""
    Ranks passages by MaxSim over their token vectors, exactly or from compressed ones.

    Results are rows: positions in `index.ids`, and so in a `datasets.Dataset` of the passages. [`~.add`] puts passages
    behind the others, [`~.update`] leaves them in their rows, and after [`~.remove`] those behind move up, as in a
    dataset after `concatenate_datasets`, `map` and `filter`.

    Vectors are used as they are, without normalisation: lengths are kept when compressed, in half precision, so that a
    vector twice as long has twice the inner products; lengths below 1e-6 lose digits.

    A change costs what the changed passages cost, and some milliseconds a million passages: change many at once.
    Changes are put in segments of their own, and removed passages are only marked, until one of these limits is
    passed; then the same call puts the index in order:

    | what | when | loss |
    |---|---|---|
    | a segment is written without what was removed from it | a quarter of its tokens | none |
    | the smallest segments become one | it is not 4 times larger than all smaller ones together, or below 16,384 \
tokens | none |
    | everything is compressed anew, with new centroids | 4 times the tokens that the centroids were trained on, or \
the mean squared distance of tokens from their centroids is a tenth above that of new tokens of the same kind | what \
was compressed is rounded a second time |

    [`~.compact`] and [`~.rebuild`] do the same at any time; [`~.rebuild`] takes the original vectors if you have them.

    Make an index with [`~.build`], [`~.load`] or [`~.merge`].

    Example:
    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from hf_xlir.index import LateInteractionIndex, TokenEmbeddings

    >>> passages = Dataset.from_dict({"id": ["a", "b"], "text": ["north", "east"]})
    >>> embeddings = TokenEmbeddings(np.eye(2, dtype="float32"), np.array([1, 1]), ["a", "b"])
    >>> index = LateInteractionIndex.build(embeddings).attach(passages, "colbert")
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
        super().__init__(contents, settings, folder)
        self._device, self._moved = torch.device("cpu"), WeakKeyDictionary()

    @classmethod
    def build(cls, embeddings, nbits="auto", num_centroids=None, pooling_factor=1, seed=0, queries=None):
        r"""
        An index over token embeddings.

        Args:
            embeddings ([`TokenEmbeddings`]):
                From [`embed_passages`], in memory or memory-mapped. An exact index keeps them as they are.
            nbits (`int`, *optional*, defaults to `"auto"`):
                Bits a dimension of a compressed vector: 1, 2, 3, 4 or 8; `None` for exact search over the vectors
                themselves. `"auto"` is exact up to 131,072 tokens, about 1,000 passages, and 4 bits beyond: up to
                there an exact search takes at most about twice as long as a compressed one, 30 ms on two cores, and
                vectors of 128 dimensions fill at most 64 MiB. An index that grows beyond that is compressed then.
            num_centroids (`int`, *optional*):
                Centroids of a compressed index, at most 32,768 and never more than there are tokens. By default 8
                times the square root of the number of tokens.
            pooling_factor (`int`, *optional*, defaults to 1):
                How many times fewer vectors to keep of each passage, those added later included:
                [`~hf_xlir.index.late_interaction.token_pooling.pool_tokens`].
            seed (`int`, *optional*, defaults to 0):
                Of the sample that centroids are trained on, of their training, and of the codec's rotation: the same
                seed gives the same index on one machine.
            queries ([`QueryEmbeddings`], *optional*):
                A sample of what will be searched for, such as a hundred training questions, from [`embed_queries`].
                Precision goes to the directions that queries have most of: the more they differ from passages, as
                those filled up with `[MASK]` do, the better the same bytes find what exact search finds. Other
                queries are still served, less well. By default the pieces of passages count that
                [`embed_passages`] embedded as queries, which do nearly as well; without these, queries are taken to be
                as passages are.

        Returns:
            [`LateInteractionIndex`].

        Raises:
            ValueError: If there are no passages, a vector has a NaN or infinite value or a length above 60,000, or an
                argument is not one of those above.
        """
        settings = Settings(nbits, num_centroids, pooling_factor, seed).checked()
        check_vectors(embeddings)
        if not len(embeddings):
            raise ValueError("`embeddings` has no passages: there is nothing to index.")
        embeddings = pool_tokens(embeddings, settings.pooling_factor)
        moments = embeddings.query_moments
        if queries is not None:
            moments = query_moments(queries, embeddings.embedding_dim)
        contents = added(Contents([], (), embeddings.embedding_dim, moments), embeddings)
        return cls(settled(contents, settings), settings)

    def to(self, device):
        """Search on a device, such as `"cuda"`, to which vectors are copied at the next search. Returns the index."""
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
                Rank only these passages; `k` are found if so many are allowed. The fewer, the faster.
            preset (`"fast"`, `"balanced"` or `"exact"`, *optional*, defaults to `"balanced"`):
                How thoroughly to search what is compressed; `"exact"` scores every passage. What each finds is in
                [`~hf_xlir.index.late_interaction.search_limits.PRESETS`].
            n_probe, n_tokens, n_rerank (`int`, *optional*):
                Limits of the search in place of the preset's:
                [`~hf_xlir.index.late_interaction.search_limits.SearchLimits`].

        Returns:
            `datasets.search.SearchResults`: `scores`, falling, and `indices`, the passages' rows; of equal scores the
            lowest row comes first.

        Raises:
            ValueError: If shapes do not fit, a vector that counts has a NaN or infinite value, no token counts, `k` or
                a limit is below 1, there is no such preset, or an allowed id is unknown.
        """
        contents, limits = self.contents, search_limits(preset, n_probe, n_tokens, n_rerank)
        queries, mask = check_queries(query_embeddings, query_mask, self.embedding_dim, single=True)
        best = self._best(contents, queries, mask, check_k(k), limits, self._allowed_rows(contents, allowed_ids))
        return SearchResults(best.scores[0].numpy(), best.rows[0].numpy())

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
                Number of passages a query.
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
        queries, mask = check_queries(queries, query_mask, self.embedding_dim, single=False)
        k, rows = check_k(k), self._allowed_rows(contents, allowed_ids)
        step = EXACT_QUERIES_PER_STEP if contents.training is None else QUERIES_PER_STEP
        show = progress and logging.is_progress_bar_enabled()
        best = []
        with tqdm(total=len(queries), desc="Searching", unit="query", disable=not show, delay=2) as bar:
            for block, block_mask in zip(queries.split(step), mask.split(step), strict=True):
                best.append(self._best(contents, block, block_mask, k, limits, rows))
                bar.update(len(block))
        scores, rows = (torch.cat(parts) for parts in zip(*best, strict=True))
        return BatchedSearchResults(scores.numpy(), rows.numpy())

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
        segment, place = self.contents.place(self.contents.rows([id])[0])
        similarities, matches = segment.tokens.similarities(queries[0][mask[0]], place).max(dim=1)
        positions = mask[0].nonzero().flatten().tolist()
        return [TokenMatch(*match) for match in zip(positions, matches.tolist(), similarities.tolist(), strict=True)]

    def attach(self, dataset, name):
        r"""
        Make `dataset.get_nearest_examples(name, query_embeddings, k)` search this index.

        Later changes of the index are seen through the dataset, whose rows stay what they are: passages that are
        removed are not found any more, updated ones by their new vectors. Those that are added are not rows of the
        dataset: attach the index to one that has them.

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
        """What [`~.attach`] gives the dataset: searches this index and returns rows of the dataset."""
        return AttachedIndex(self, dataset)

    def _allowed_rows(self, contents, allowed_ids):
        """Rows of the given ids, rising, or `None` for all rows."""
        return None if allowed_ids is None else contents.rows(allowed_ids, "allowed_ids")

    def _best(self, contents, queries, mask, k, limits, allowed_rows):
        """The best `k` of the given rows, a [`TopK`], from all segments."""
        allowed = np.ones(len(contents.ids) + 1, dtype=bool)
        if allowed_rows is not None:
            allowed[:] = False
            allowed[allowed_rows] = True
        allowed[-1] = False  # where the -1 of removed passages points to
        best = TopK.empty(len(queries))
        for segment in contents.segments:
            own = torch.from_numpy(allowed[segment.rows])
            if not own.any():
                continue
            found = self._searched(segment.tokens).search(queries, mask, k, *limits, None if own.all() else own)
            rows = torch.cat([best.rows, torch.from_numpy(segment.rows)[found.rows]], dim=1)
            scores = torch.cat([best.scores, found.scores], dim=1)
            rows, order = rows.sort(dim=1)
            scores, places = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
            best = TopK(scores[:, :k], rows.gather(1, places[:, :k]))
        return best

    def _searched(self, tokens):
        """A segment's tokens on the device of the index."""
        if self._device.type == "cpu":
            return tokens
        if tokens not in self._moved:
            self._moved[tokens] = tokens.to(self._device)
        return self._moved[tokens]


__all__ = ["LateInteractionIndex", "TokenMatch"]
