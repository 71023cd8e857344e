"""The BM25 index: passages that share rare words with a question."""

from functools import cached_property

import numpy as np
from datasets.search import BaseIndex, BatchedSearchResults, SearchResults
from tqdm.auto import tqdm
from transformers.utils import logging

from ..utils.storage import FolderWriter, check_replaceable, load_folder
from .bm25_words import TOKENIZERS, splitter, words
from .checks import check_ids_match, check_k, rows_of_ids
from .embeddings import read_ids, write_ids
from .passages import check_passages, read_rows


INDEX_FORMAT = "hf_xlir.bm25_index"
ROWS_PER_READ = 10_000
# What `bm25s` calls its files, and what they are called here
FILES = {
    "data_name": "data.npy",
    "indices_name": "indices.npy",
    "indptr_name": "indptr.npy",
    "vocab_name": "vocabulary.json",
    "params_name": "parameters.json",
}


class BM25Index(BaseIndex):
    r"""
    Ranks passages by BM25 over title and text, computed by `bm25s` (https://huggingface.co/papers/2407.03618) with
    Lucene's formula. Made by [`~BM25Index.build`] or [`~BM25Index.load`].

    It finds words, not meanings: a question in another language than the passages matches in names and numbers only.
    A passage that shares no word with the question is not found, so that there may be fewer than `k`, or none.

    Results are rows: positions in `index.ids`, and so in a `datasets.Dataset` of the passages.

    Args:
        scorer (`bm25s.BM25`):
            The words' scores.
        ids (`list[str]`):
            The passages' ids, in the order of rows.
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*):
            What split the passages into words; see [`~BM25Index.build`].

    Example:
    ```python
    >>> from hf_xlir.index.bm25 import BM25Index

    >>> texts = {"a": "Paris lies on the Seine.", "b": "Rome lies on the Tiber.", "c": "The Seine flows north."}
    >>> index = BM25Index.build([{"id": id, "text": text} for id, text in texts.items()], progress=False)
    >>> scores, rows = index.search_batch(["Where is the Seine?", "Tiber"], k=2)
    >>> rows.tolist()  # nothing else has the word
    [[2, 0], [1, -1]]

    ```
    """

    kind, queries, format = "bm25", "text", INDEX_FORMAT

    def __init__(self, scorer, ids, tokenize=None):
        self.ids, self.tokenize = ids, splitter(tokenize)
        self._scorer = scorer

    def __len__(self):
        return len(self.ids)

    def __deepcopy__(self, memo):
        return self  # it never changes: `dataset.with_format` and its like need no second one in memory

    @classmethod
    def build(cls, passages, k1=0.9, b=0.4, tokenize=None, progress=True):
        r"""
        An index over passages.

        Args:
            passages (`datasets.Dataset` or `list[dict]`):
                Rows with `id`, `text` and optionally `title`. Their words are held in memory, eight bytes each.
            k1 (`float`, *optional*, defaults to 0.9):
                How much repeated words count; DPR's value.
            b (`float`, *optional*, defaults to 0.4):
                How much long passages are discounted, from 0 to 1; DPR's value.
            tokenize (`str` or `Callable[[str], list[str]]`, *optional*, defaults to `"words"`):
                Splits a text into words. `"words"` are runs of letters, digits and marks, in lower case; `"bigrams"`
                also takes pairs of characters for words where a script has no spaces between them, as those of
                Chinese, Japanese and Thai. [`~hf_xlir.index.bm25_words.tokenizer_for`] says which of the two suits.
                Or a function, for instance one that stems; such an index is saved without it.
            progress (`bool`, *optional*, defaults to `True`):
                Whether to show progress bars, unless the bars of Transformers are switched off.

        Returns:
            [`BM25Index`].

        Raises:
            ValueError: If there are no passages, one has no id or no text, two have the same id, none has a word, or
                `k1` or `b` is out of range.
        """
        import bm25s

        if not k1 >= 0 or not 0 <= b <= 1:
            raise ValueError(f"`k1` must be a number from 0, and `b` one from 0 to 1, got {k1} and {b}.")
        ids = check_passages(passages)
        split = splitter(tokenize)
        show = progress and logging.is_progress_bar_enabled()
        vocabulary, tokens = {}, []
        with tqdm(total=len(passages), desc="Words", unit="passage", disable=not show) as bar:
            for start in range(0, len(passages), ROWS_PER_READ):
                rows = read_rows(passages, start, start + ROWS_PER_READ)
                for title, text in zip(rows["title"] or [""] * len(rows["text"]), rows["text"], strict=True):
                    # numbers, which all passages share, take less memory than words
                    tokens.append([vocabulary.setdefault(word, len(vocabulary)) for word in split(f"{title} {text}")])
                bar.update(len(rows["text"]))
        if not vocabulary:
            raise ValueError("No passage has a word: give a `tokenize` that finds some.")
        scorer = bm25s.BM25(method="lucene", k1=k1, b=b)
        scorer.index((tokens, vocabulary), create_empty_token=False, show_progress=show)
        return cls(scorer, ids, tokenize)

    def search(self, query, k=10, allowed_ids=None):
        r"""
        The best passages for one question; see [`~BM25Index.search_batch`].

        Args:
            query (`str`):
                The question.
            k (`int`, *optional*, defaults to 10):
                Most passages.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages.

        Returns:
            `datasets.search.SearchResults`: Scores, falling, and rows, of the passages that were found.
        """
        if not isinstance(query, str):
            raise ValueError(f"A query must be a text, got {type(query).__name__}. For several use the batch search.")
        scores, rows = self.search_batch([query], k, allowed_ids)
        return SearchResults(scores[0][rows[0] >= 0], rows[0][rows[0] >= 0])

    def search_batch(self, queries, k=10, allowed_ids=None):
        r"""
        The best passages for each of several questions.

        Args:
            queries (`list[str]`):
                The questions.
            k (`int`, *optional*, defaults to 10):
                Most passages a question.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages, for every question; how rare a word is remains a matter of all passages.

        Returns:
            `datasets.search.BatchedSearchResults`: Scores, falling, and rows, each of shape `(num_queries, min(k,
            number of allowed passages))`; of equal scores the lowest row comes first. Behind the passages that were
            found the rows are -1 and the scores 0.

        Raises:
            ValueError: If the questions are no list of texts, `k` is below 1, or an allowed id is unknown.
        """
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise ValueError("Queries of BM25 must be a list of texts.")
        width, forbidden = min(check_k(k), len(self)), None
        if allowed_ids is not None:
            allowed = rows_of_ids(allowed_ids, self._row_of_id)
            width, forbidden = min(width, len(allowed)), np.ones(len(self), dtype=bool)
            forbidden[allowed] = False
        scores = np.zeros((len(queries), width), dtype=np.float32)
        rows = np.full((len(queries), width), -1, dtype=np.int64)
        vocabulary = self._scorer.vocab_dict
        for place, query in enumerate(queries):
            known = [vocabulary[word] for word in self.tokenize(query) if word in vocabulary]
            if known and width:
                values = self._scorer.get_scores_from_ids(known)
                if forbidden is not None:
                    values[forbidden] = 0
                best = _best(values, width)
                scores[place, : len(best)], rows[place, : len(best)] = values[best], best
        return BatchedSearchResults(scores, rows)

    def attach(self, dataset, name="bm25"):
        r"""
        Make `dataset.get_nearest_examples(name, question, k)` search this index.

        Args:
            dataset (`datasets.Dataset`):
                The passages, in the order in which they were indexed.
            name (`str`, *optional*, defaults to `"bm25"`):
                What to call the index.

        Returns:
            [`BM25Index`]: This index.

        Raises:
            ValueError: If the dataset has another number of rows, or other ids or another order of them.
        """
        check_ids_match(dataset, self.ids)
        dataset._indexes[name] = self
        return self

    def save(self, path):
        r"""
        Write the index to a folder, all at once: until the end, readers of an index already there see the old one.

        Args:
            path (`str` or `os.PathLike`):
                The folder, made if absent.

        Raises:
            ValueError: If the folder holds something else, such as embeddings.
            OSError: If the folder cannot be written.
        """
        check_replaceable(path, INDEX_FORMAT)
        with FolderWriter(path) as folder:
            names = {argument: folder.file(name).name for argument, name in FILES.items()}
            self._scorer.save(folder.path, show_progress=False, **names)
            write_ids(folder, self.ids)
            own, name = self.tokenizer_name is None, self.tokenizer_name
            folder.commit(INDEX_FORMAT, num_passages=len(self), own_tokenize=own, tokenize=name)

    @classmethod
    def load(cls, path, tokenize=None):
        r"""
        Open an index written by [`~BM25Index.save`]; the words' scores stay on disk until a search reads them.

        Args:
            path (`str` or `os.PathLike`):
                The folder.
            tokenize (`Callable[[str], list[str]]`, *optional*):
                The function that the index was built with, if it was one: functions are not saved.

        Returns:
            [`BM25Index`].

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it holds no such index, a file is missing, truncated or damaged, or `tokenize` is missing,
                or given where the index was built without.
        """
        import bm25s

        def open_files(manifest, files):
            if manifest["own_tokenize"] != (tokenize is not None):
                built, remedy = ("a", "give it here, too") if manifest["own_tokenize"] else ("no", "leave it out")
                raise ValueError(f"`{path}` was built with {built} `tokenize` of its own: {remedy}.")
            names = {argument: files[name].name for argument, name in FILES.items()}
            scorer = bm25s.BM25.load(
                path, mmap=True, show_progress=False, override_params={"backend": "numpy"}, **names
            )
            ids = read_ids(files)
            if not manifest["num_passages"] == len(ids) == scorer.scores["num_docs"]:
                raise ValueError(f"`{path}` is damaged: its files are not the index that its manifest describes.")
            return cls(scorer, ids, tokenize or manifest.get("tokenize"))  # none is named in folders of old

        return load_folder(path, INDEX_FORMAT, open_files)

    @property
    def tokenizer_name(self):
        """What splits texts into words, as [`~BM25Index.build`] calls it, or `None` for a function of one's own."""
        return next((name for name, split in TOKENIZERS.items() if split is self.tokenize), None)

    def check_saveable(self):
        """A `ValueError` if texts are split by a function of the user's, which is not saved."""
        if self.tokenizer_name is None:
            raise ValueError(
                "This BM25 index was built with a function as `tokenize`, which cannot be saved: build it with the "
                "name of a tokenizer."
            )

    @cached_property
    def _row_of_id(self):
        return {id: row for row, id in enumerate(self.ids)}


def _best(scores, k):
    """Rows of the `k` highest scores above 0, falling; of equal scores the lowest row first."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        lowest = np.partition(scores[rows], -k)[-k]
        rows = rows[scores[rows] >= lowest]
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


__all__ = ["BM25Index", "words"]
