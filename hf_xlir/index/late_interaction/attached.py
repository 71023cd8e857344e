"""A late-interaction index as one `datasets.Dataset` sees it."""

import numpy as np
from datasets.search import BaseIndex, BatchedSearchResults, SearchResults

from ..checks import check_ids_match


class AttachedIndex(BaseIndex):
    r"""
    Searches a [`LateInteractionIndex`] and returns rows of the dataset that it was attached to, whatever became of the
    index since: passages that were removed from it are not found, and neither are those added, which the dataset does
    not have. [`LateInteractionIndex.attach`] makes it.

    Args:
        index ([`LateInteractionIndex`]):
            The index.
        dataset (`datasets.Dataset`):
            Its passages, in their order.
    """

    def __init__(self, index, dataset):
        check_ids_match(dataset, index.ids)
        self.index, self._at_first = index, index.contents
        self._known = self._at_first, None  # contents, and the dataset's row of each of their rows

    def __len__(self):
        return len(self._at_first.ids)

    def __deepcopy__(self, memo):
        return self  # `dataset.with_format` and its like need no second index in memory

    @property
    def ids(self):
        """The ids of the dataset's rows."""
        return self._at_first.ids

    def search(self, query, k=10, query_mask=None, allowed_ids=None, **limits):
        """See [`LateInteractionIndex.search`]."""
        allowed, rows = self._allowed(allowed_ids)
        scores, found = self.index.search(query, k, query_mask, allowed, **limits)
        return SearchResults(scores, found if rows is None else rows[found])

    def search_batch(self, queries, k=10, query_mask=None, allowed_ids=None, **limits):
        """See [`LateInteractionIndex.search_batch`]."""
        allowed, rows = self._allowed(allowed_ids)
        scores, found = self.index.search_batch(queries, k, query_mask, allowed, **limits)
        return BatchedSearchResults(scores, found if rows is None else rows[found])

    def _allowed(self, allowed_ids):
        """Ids to search among, and the dataset's row of each row of the index; `None` where nothing changed."""
        contents, rows = self._known
        if contents is not self.index.contents:
            contents = self.index.contents
            own = self._at_first.row_of_id
            rows = np.array([own.get(id, -1) for id in contents.ids], dtype=np.int64)
            self._known = contents, rows
        if rows is None:
            return allowed_ids, None
        if allowed_ids is not None:
            own = self._at_first.rows(allowed_ids, "allowed_ids")  # raises for what is no row of the dataset
            allowed_ids = [id for id in (self.ids[row] for row in own) if id in contents.row_of_id]
        elif (rows < 0).any():
            allowed_ids = [contents.ids[row] for row in np.flatnonzero(rows >= 0)]
        return allowed_ids, rows


__all__ = ["AttachedIndex"]
