"""The BM25 index: passages that share rare words with a question."""

import unicodedata
from collections.abc import Callable
from functools import cached_property

import numpy as np
import regex
from datasets.search import BaseIndex, BatchedSearchResults, SearchResults

from ..data.passages import check_passages, read_rows
from ..utils.checks import check_choice
from ..utils.progress import progress_bar
from ..utils.storage import FolderWriter, check_replaceable, load_folder
from .checks import check_ids_match, check_k, rows_of_ids
from .embeddings import read_ids, write_ids


INDEX_FORMAT = "hf_xlir.bm25_index"
ROWS_PER_READ = 10_000
# File names, by the arguments of `bm25s` that set them
FILES = {
    "data_name": "data.npy",
    "indices_name": "indices.npy",
    "indptr_name": "indptr.npy",
    "vocab_name": "vocabulary.json",
    "params_name": "parameters.json",
}
WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")
# Scripts without spaces between words; Unicode assigns the mark of long vowels to two of them, and so to neither
SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
PART = regex.compile(rf"(?P<spaceless>[{SPACELESS}]+)|[^{SPACELESS}]+")
LETTER = regex.compile(r"\p{L}")
CHARACTER = regex.compile(r"\X")  # a letter with its marks
PASSAGES_LOOKED_AT = 1000
SHARE_WITHOUT_SPACES = 0.2  # of the letters; below it they are names in passages of another script


class BM25Index(BaseIndex):
    r"""
    Ranks passages by BM25 over title and text, computed by `bm25s` (https://huggingface.co/papers/2407.03618) with
    Lucene's formula. Make one with [`~BM25Index.build`] or [`~BM25Index.load`].

    It finds words, not meanings: a question in another language than the passages matches names and numbers only. A
    passage that shares no word with the question is not found, so there may be fewer than `k`, or none.

    Results are rows: positions in `index.ids`, and so in a `datasets.Dataset` of the passages.

    Args:
        scorer (`bm25s.BM25`):
            The scores of words.
        ids (`list[str]`):
            The passages' ids, in the order of rows.
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*):
            What splits texts into words; see [`~BM25Index.build`].

    Example:
    ```python
    >>> from hf_xlir.index import BM25Index

    >>> texts = {"a": "Paris lies on the Seine.", "b": "Rome lies on the Tiber.", "c": "The Seine flows north."}
    >>> index = BM25Index.build([{"id": id, "text": text} for id, text in texts.items()], progress=False)
    >>> scores, rows = index.search_batch(["Where is the Seine?", "Tiber"], k=2)
    >>> rows.tolist()  # -1: no other passage has the word
    [[2, 0], [1, -1]]

    ```
    """

    kind, queries, format = "bm25", "text", INDEX_FORMAT

    def __init__(self, scorer, ids, tokenize=None):
        self.ids, self.tokenize = ids, _splitter(tokenize)
        self._scorer = scorer

    def __len__(self):
        return len(self.ids)

    def __deepcopy__(self, memo):
        return self  # it never changes, so the copies that `dataset.with_format` makes can share it

    @classmethod
    def build(cls, passages, k1=0.9, b=0.4, tokenize=None, progress=True, *, ids=None):
        r"""
        Build an index over passages.

        Args:
            passages (`datasets.Dataset`, `list[dict]` or `list[str]`):
                Rows with `id`, `text` and optionally `title`, or texts with `ids`. Memory holds eight bytes per word.
            k1 (`float`, *optional*, defaults to 0.9):
                How much repeated words count; DPR's value.
            b (`float`, *optional*, defaults to 0.4):
                How much long passages are discounted, from 0 to 1; DPR's value.
            tokenize (`str` or `Callable[[str], list[str]]`, *optional*, defaults to `"words"`):
                Splits a text into words. `"words"` are runs of letters, digits and marks, in lower case; `"bigrams"`
                are also pairs of characters in scripts without spaces, such as those of Chinese, Japanese and Thai.
                [`bm25_tokenizer_for`] chooses between the two. A function, such as one that stems, is not saved with
                the index.
            progress (`bool`, *optional*, defaults to `True`):
                Whether to show progress bars, unless the bars of transformers are switched off.
            ids (`list[str]`, *optional*):
                The ids of passages that are given as texts, each one once.

        Returns:
            [`BM25Index`]

        Raises:
            ValueError: If there are no passages, a passage has no id or no text, two have the same id, no passage has
                a word, or `k1` or `b` is out of range.
        """
        import bm25s

        if not k1 >= 0 or not 0 <= b <= 1:
            raise ValueError(f"`k1` must be at least 0, and `b` from 0 to 1, got {k1} and {b}.")
        if ids is not None:
            passages = _with_ids(passages, ids)
        ids = check_passages(passages)
        split = _splitter(tokenize)
        vocabulary, tokens = {}, []
        with progress_bar(show=progress, total=len(passages), desc="Words", unit="passage") as bar:
            for start in range(0, len(passages), ROWS_PER_READ):
                rows = read_rows(passages, start, start + ROWS_PER_READ)
                for title, text in zip(rows["title"] or [""] * len(rows["text"]), rows["text"], strict=True):
                    # numbers, which all passages share, take less memory than words
                    tokens.append([vocabulary.setdefault(word, len(vocabulary)) for word in split(f"{title} {text}")])
                bar.update(len(rows["text"]))
        if not vocabulary:
            raise ValueError("No passage has a word: give another `tokenize`.")
        scorer = bm25s.BM25(method="lucene", k1=k1, b=b)
        scorer.index((tokens, vocabulary), create_empty_token=False, show_progress=not bar.disable)
        return cls(scorer, ids, tokenize)

    def search(self, query, k=10, allowed_ids=None):
        r"""
        The best passages for one question; see [`~BM25Index.search_batch`].

        Args:
            query (`str`):
                The question.
            k (`int`, *optional*, defaults to 10):
                Maximum number of passages.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages.

        Returns:
            `datasets.search.SearchResults`: Scores in falling order and rows of the passages that were found.
        """
        if not isinstance(query, str):
            raise ValueError(f"A query must be a string, got {type(query).__name__}; `search_batch` takes several.")
        scores, rows = self.search_batch([query], k, allowed_ids)
        return SearchResults(scores[0][rows[0] >= 0], rows[0][rows[0] >= 0])

    def search_batch(self, queries, k=10, allowed_ids=None):
        r"""
        The best passages for each of several questions.

        Args:
            queries (`list[str]`):
                The questions.
            k (`int`, *optional*, defaults to 10):
                Maximum number of passages per question.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages, for every question. All passages count for how rare a word is.

        Returns:
            `datasets.search.BatchedSearchResults`: Scores in falling order and rows, each of shape `(num_queries,
            min(k, number of allowed passages))`; of equal scores the lowest row comes first. After the passages that
            were found, rows are -1 and scores 0.

        Raises:
            ValueError: If the questions are not a list of texts, `k` is below 1, or an allowed id is unknown.
        """
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise ValueError("Queries of BM25 must be a list of strings.")
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
                Name of the index in the dataset.

        Returns:
            [`BM25Index`]: This index.

        Raises:
            ValueError: If the dataset has another number of rows, other ids, or another order.
        """
        check_ids_match(dataset, self.ids)
        dataset._indexes[name] = self
        return self

    def save(self, path):
        r"""
        Write the index to a folder. Until all of it is written, readers of the folder see the index that was there.

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
        Open an index that [`~BM25Index.save`] wrote; scores stay on disk until a search reads them.

        Args:
            path (`str` or `os.PathLike`):
                The folder.
            tokenize (`Callable[[str], list[str]]`, *optional*):
                The function that the index was built with, if it was built with one: functions are not saved.

        Returns:
            [`BM25Index`].

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it does not hold a BM25 index, a file is missing, truncated or damaged, or `tokenize` is
                missing, or is given although the index was built without.
        """
        import bm25s

        def open_files(manifest, files):
            if manifest["own_tokenize"] != (tokenize is not None):
                built = (
                    "with a `tokenize` function: give it" if tokenize is None else "without `tokenize`: leave it out"
                )
                raise ValueError(f"`{path}` was built {built}.")
            names = {argument: files[name].name for argument, name in FILES.items()}
            scorer = bm25s.BM25.load(
                path, mmap=True, show_progress=False, override_params={"backend": "numpy"}, **names
            )
            ids = read_ids(files)
            if not manifest["num_passages"] == len(ids) == scorer.scores["num_docs"]:
                raise ValueError(f"`{path}` is damaged: its files are not the index that its manifest describes.")
            return cls(scorer, ids, tokenize or manifest.get("tokenize"))  # folders of the first version name none

        return load_folder(path, INDEX_FORMAT, open_files)

    @property
    def tokenizer_name(self):
        """The name of `tokenize`, or `None` for a function."""
        return next((name for name, split in BM25_TOKENIZERS.items() if split is self.tokenize), None)

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


def words(text):
    """Runs of letters, digits and marks, in lower case."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def bigrams(text):
    """
    [`words`], but in scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every two neighbouring
    characters, as in Lucene's analyzer for Chinese and Japanese: "東京都" gives "東京" and "京都".
    """
    found = []
    for word in words(text):
        for part in PART.finditer(word):
            if part["spaceless"] is None:
                found.append(part[0])
                continue
            characters = CHARACTER.findall(part[0])
            pairs = zip(characters, characters[1:], strict=False)
            found += [first + second for first, second in pairs] or characters
    return found


BM25_TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"words": words, "bigrams": bigrams}


def _splitter(tokenize):
    """The function that splits texts, from its name or as it is."""
    if tokenize is None:
        return words
    if isinstance(tokenize, str):
        check_choice("tokenize", tokenize, tuple(BM25_TOKENIZERS))
        return BM25_TOKENIZERS[tokenize]
    return tokenize


def bm25_tokenizer_for(passages):
    r"""
    Which `tokenize` of [`BM25Index.build`] suits passages: `"bigrams"` if at least a fifth of the letters of the first
    thousand are in scripts without spaces, otherwise `"words"`.

    Args:
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.

    Returns:
        `str`: `"bigrams"` or `"words"`.

    Example:
    ```python
    >>> from hf_xlir.index import bm25_tokenizer_for

    >>> texts = ("東京は日本の首都。", "Tokyo (東京) is the capital.")
    >>> [bm25_tokenizer_for([{"id": "a", "text": text}]) for text in texts]
    ['bigrams', 'words']

    ```
    """
    letters = spaceless = 0
    rows = read_rows(passages, 0, PASSAGES_LOOKED_AT)
    for text in [*rows["text"], *(rows["title"] or [])]:
        letters += len(LETTER.findall(text))
        spaceless += sum(len(LETTER.findall(part[0])) for part in PART.finditer(text) if part["spaceless"])
    return "bigrams" if spaceless and spaceless >= SHARE_WITHOUT_SPACES * letters else "words"


def _with_ids(texts, ids):
    """Texts and their ids as passages."""
    texts, ids = list(texts), list(ids)
    if len(texts) != len(ids) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"`ids` are for passages given as strings: got {len(ids)} ids for {len(texts)} passages.")
    return [{"id": id, "text": text} for id, text in zip(ids, texts, strict=True)]


def _best(scores, k):
    """Rows of the `k` highest scores above 0, best first; of equal scores the lowest row first."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        lowest = np.partition(scores[rows], -k)[-k]
        rows = rows[scores[rows] >= lowest]
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


__all__ = ["BM25_TOKENIZERS", "BM25Index", "bigrams", "bm25_tokenizer_for", "words"]
