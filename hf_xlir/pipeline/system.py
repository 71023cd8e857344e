"""A whole system: passages, what finds them, what ranks them anew, and what reads them."""

import copy

import numpy as np
import torch
from datasets import Dataset

from ..index.checks import check_k
from ..index.fusion import check_fusion, fuse
from ..index.late_interaction.search_limits import search_limits
from ..index.retrieval import RetrievedRows
from .retriever import SEARCH_OPTIONS


ADDED_COLUMNS = ("score", "retrieval_score", "reader_score", "matches")
NUM_CANDIDATES = 100


class RetrievalSystem:
    r"""
    The parts of a pipeline, and how they work together.

    Args:
        passages (`datasets.Dataset`):
            Rows with `id`, `text` and optionally `title` and others, in the order of the indexes.
        retrievers (`dict[str, Retriever]`):
            What finds passages, by name.
        fusion (`dict`, *optional*):
            How the rankings of several retrievers become one: `method`, `weights` (by name) and `rank_constant` of
            [`~hf_xlir.index.fusion.fuse`].
        reranker ([`Reranker`], *optional*):
            What ranks the found passages anew.
        reader ([`Reader`], *optional*):
            What answers from them.
        defaults (`dict`, *optional*):
            Arguments of a pipeline's calls that were saved with the system.

    Raises:
        ValueError: If the parts do not fit together.
    """

    def __init__(self, passages, retrievers, fusion=None, reranker=None, reader=None, defaults=None):
        if not retrievers:
            raise ValueError("There is no retriever: give an `index`, or several in `retrievers`.")
        if not all(name.isidentifier() for name in retrievers):
            raise ValueError(f"Names of retrievers must be identifiers, got {list(retrievers)}.")
        self.passages = checked_passages(passages)
        vectors = {getattr(each.index, "column", None) for each in retrievers.values()}
        self.columns = [name for name in self.passages.column_names if name not in vectors]
        for each in retrievers.values():
            each.attach(self.passages)
        self.fusion = dict(fusion or {})
        check_fusion(len(retrievers), **self._fusion_arguments(retrievers))
        self.retrievers, self.reranker, self.reader = retrievers, reranker, reader
        self.defaults = dict(defaults or {})
        self.device = torch.device("cpu")

    def to(self, device):
        """Use the models on a device; each is moved there when it is used next. Returns this system."""
        self.device = torch.device(device)
        return self

    def copy(self, **changes):
        """The same parts in another system, with some attributes changed."""
        copied = copy.copy(self)
        vars(copied).update(changes)
        return copied

    def model_parts(self):
        """The [`ModelPart`] of each model."""
        owners = [*self.retrievers.values(), self.reranker, self.reader]
        return [each.model for each in owners if each is not None and each.model is not None]

    def check(self, k, num_candidates=None, explain=False, **options):
        """Raise for arguments of [`~RetrievalSystem.retrieve`] that are wrong, before any work."""
        check_k(k)
        if num_candidates is not None:
            check_k(num_candidates)
        kinds = [each.kind for each in self.retrievers.values()]
        for name in options:
            takers = [kind for kind, names in SEARCH_OPTIONS.items() if name in names]
            if not takers:
                known = sorted(each for names in SEARCH_OPTIONS.values() for each in names)
                raise TypeError(f"A search takes no argument `{name}`; it takes {', '.join(map(repr, known))}.")
            if not set(takers) & set(kinds):
                raise ValueError(f"`{name}` is for an index of kind {takers[0]!r}; this pipeline has {kinds}.")
        limits = {name: options[name] for name in SEARCH_OPTIONS["late_interaction"] if name in options}
        search_limits(**{"preset": "balanced", **limits})
        if explain and "late_interaction" not in kinds:
            raise ValueError(f"`explain=True` needs a late-interaction index; this pipeline has {kinds}.")

    def retrieve(self, texts, k=10, num_candidates=None, allowed_ids=None, explain=False, **options):
        r"""
        The best passages for each question.

        Args:
            texts (`list[str]`):
                The questions.
            k (`int`, *optional*, defaults to 10):
                Passages a question; all that are allowed if there are fewer.
            num_candidates (`int`, *optional*, defaults to 100):
                Passages that each retriever finds where several are fused, and that are ranked anew where there is a
                reranker; at least `k`.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages.
            explain (`bool`, *optional*, defaults to `False`):
                Whether to say which tokens matched.
            options:
                Of the indexes' search.

        Returns:
            `list[list[dict]]`: For each question its passages, best first.
        """
        self.check(k, num_candidates, explain, **options)
        allowed_ids = allowed_ids if allowed_ids is None or isinstance(allowed_ids, str) else list(allowed_ids)
        depth = k
        if self.reranker is not None or len(self.retrievers) > 1:
            depth = max(k, num_candidates or NUM_CANDIDATES)
        found = {}
        for name, each in self.retrievers.items():
            own = {key: value for key, value in options.items() if key in SEARCH_OPTIONS[each.kind]}
            found[name] = each.search(texts, depth, allowed_ids, self.device, **own)
        passages = self._read(row for each in found.values() for rows in each.rows for row in rows)

        results = []
        for place in range(len(texts)):
            rankings = [(each.rows[place], each.scores[place]) for each in found.values()]
            rows, scores = rankings[0] if len(rankings) == 1 else self._fused(rankings, passages)
            ranked = zip(rows[:depth], scores[:depth], strict=True)
            results.append([{**passages[row], "score": score} for row, score in ranked])
        if self.reranker is not None:
            results = self._reranked(texts, results)
        results = [of_one[:k] for of_one in results]
        if explain:
            self._explain(texts, results, found)
        return results

    def answer(self, texts, n_context=None, num_answers=1, generate_kwargs=None, **search):
        r"""
        Answer questions from the passages that are found for them.

        Args:
            texts (`list[str]`):
                The questions.
            n_context (`int`, *optional*):
                Passages to find and read. By default as many as the reader's processor says.
            num_answers (`int`, *optional*, defaults to 1):
                Answers a question.
            generate_kwargs (`dict`, *optional*):
                Arguments of the reader's `generate`.
            search:
                Arguments of [`~RetrievalSystem.retrieve`] other than `k`.

        Returns:
            `list[dict]`: For each question `answer`, `score`, `passages` and, if several answers were asked for,
            `answers`.
        """
        k = self.reader.n_context() if n_context is None else n_context
        check_k(num_answers)
        passages = self.retrieve(texts, k, **search)
        answers, looked = self.reader.read(texts, passages, num_answers, generate_kwargs, self.device)
        results = []
        for of_one, own, scores in zip(answers, passages, looked, strict=True):
            for passage, score in zip(own, scores, strict=True):
                passage["reader_score"] = score
            result = {"answer": of_one[0].text, "score": of_one[0].score, "passages": own}
            if num_answers > 1:
                result["answers"] = [{"answer": each.text, "score": each.score} for each in of_one]
            results.append(result)
        return results

    def _fusion_arguments(self, retrievers):
        """What [`fuse`] takes, with the weights in the order of the retrievers."""
        arguments = dict(self.fusion)
        weights = arguments.pop("weights", None)
        if weights is not None:
            if set(weights) != set(retrievers):
                raise ValueError(f"`weights` must be one for each of {list(retrievers)}, got {list(weights)}.")
            arguments["weights"] = [weights[name] for name in retrievers]
        return arguments

    def _fused(self, rankings, passages):
        """Rows and scores of several rankings, each of rows and scores."""
        row_of_id = {passages[row]["id"]: row for rows, _ in rankings for row in rows}
        ids = [[passages[row]["id"] for row in rows] for rows, _ in rankings]
        scores = [scores for _, scores in rankings]
        best, values = fuse(ids, scores, **self._fusion_arguments(self.retrievers))
        return [row_of_id[id] for id in best], values

    def _reranked(self, texts, results):
        """The passages by the reranker's scores; of equal ones the first stays first."""
        scores = self.reranker.score(texts, results, self.device)
        reranked = []
        for of_one, values in zip(results, scores, strict=True):
            of_one = [
                {**passage, "score": value, "retrieval_score": passage["score"]}
                for passage, value in zip(of_one, values, strict=True)
            ]
            reranked.append(sorted(of_one, key=lambda passage: -passage["score"]))
        return reranked

    def _explain(self, texts, results, found):
        """Put into each passage which tokens matched, by the first late-interaction index."""
        name, retriever = next(item for item in self.retrievers.items() if item[1].kind == "late_interaction")
        queries = found[name].queries
        for place, text in enumerate(texts):
            for passage in results[place]:
                passage["matches"] = retriever.explain(text, queries.embeddings[place], queries.mask[place], passage)

    def _read(self, rows):
        """Passages as dictionaries by their row, with one read of the dataset."""
        rows = np.unique(np.fromiter(rows, np.int64))
        [passages] = RetrievedRows(self.passages, self.columns, rows, [np.arange(len(rows))]) if len(rows) else [[]]
        return dict(zip(rows.tolist(), passages, strict=True))


def checked_passages(passages):
    """Passages as a `datasets.Dataset` with the columns that a pipeline needs, and none that it writes itself."""
    if isinstance(passages, list):
        passages = Dataset.from_list(passages)
    if not isinstance(passages, Dataset):
        raise ValueError(
            f"`passages` must be a `datasets.Dataset` or a list of dictionaries, got {type(passages).__name__}."
        )
    missing = [name for name in ("id", "text") if name not in passages.column_names]
    if missing:
        raise ValueError(f"Passages have `id`, `text` and optionally `title`, but these lack {missing}.")
    taken = [name for name in ADDED_COLUMNS if name in passages.column_names]
    if taken:
        raise ValueError(f"Results have a `{taken[0]}` of their own: rename or remove that column of the passages.")
    return passages


__all__ = ["RetrievalSystem", "checked_passages"]
