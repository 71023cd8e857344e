"""A whole system: passages, what finds them, what reranks them, and what reads them."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk

from ..data import load_passages
from ..index import DenseIndex, LateInteractionIndex, TokenEmbeddings
from ..index.base import load_index
from ..index.checks import check_k
from ..index.fusion import check_fusion, fuse
from ..index.retrieval import RetrievedRows
from .model_part import encoder_part, given_part
from .reranker import Reranker
from .retriever import Retriever


ADDED_COLUMNS = ("score", "retrieval_score", "reader_score", "matches")
NUM_CANDIDATES = 100


class RetrievalSystem:
    """
    The parts of a pipeline, and how they work together: `passages` (a `datasets.Dataset` in the order of the indexes),
    `retrievers` by name, `fusion` (`method`, `weights` by name, `rank_constant`), a [`Reranker`] and a [`Reader`].
    `defaults` are arguments of calls that were saved with the system.
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
        """Use the models on a device. Each is moved there at its next use. Returns this system."""
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

    def search_options(self):
        """Names of the arguments that the indexes' searches take."""
        return tuple(dict.fromkeys(name for each in self.retrievers.values() for name in each.search_options))

    def check(self, k, num_candidates=None, explain=False, **_):
        """Raise for wrong arguments of [`~RetrievalSystem.retrieve`] before any work."""
        check_k(k)
        if num_candidates is not None:
            check_k(num_candidates)
        if explain and not any(each.explains for each in self.retrievers.values()):
            kinds = [each.kind for each in self.retrievers.values()]
            raise ValueError(
                f"`explain=True` needs a late-interaction index with one of our models, got indexes of kind {kinds}."
            )

    def retrieve(self, texts, k=10, num_candidates=None, allowed_ids=None, explain=False, **options):
        """The best passages for each question as lists of dictionaries; see [`RetrievalPipeline.__call__`]."""
        self.check(k, num_candidates, explain)
        allowed_ids = allowed_ids if allowed_ids is None or isinstance(allowed_ids, str) else list(allowed_ids)
        depth = k
        if self.reranker is not None or len(self.retrievers) > 1:
            depth = max(k, num_candidates or NUM_CANDIDATES)
        found = {}
        for name, each in self.retrievers.items():
            own = {key: value for key, value in options.items() if key in each.search_options}
            found[name] = each.search(texts, depth, allowed_ids, self.device, **own)
        passages = self._read(row for _, rows_of_all, _ in found.values() for rows in rows_of_all for row in rows)

        results = []
        for place in range(len(texts)):
            rankings = [(rows[place], scores[place]) for scores, rows, _ in found.values()]
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
        """Answers from the passages that are found; see [`QuestionAnsweringPipeline.__call__`]."""
        k = self.reader.n_context() if n_context is None else n_context
        check_k(num_answers)
        passages = self.retrieve(texts, k, **search)
        answers, looked = self.reader.read(texts, passages, num_answers, generate_kwargs, self.device)
        results = []
        for of_one, own, scores in zip(answers, passages, looked, strict=True):
            for passage, score in zip(own, scores, strict=True):
                passage["reader_score"] = score
            result = {**of_one[0], "passages": own}
            if num_answers > 1:
                result["answers"] = of_one
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
        """The passages by the reranker's scores; equal ones stay in order."""
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
        """Add to each passage which tokens matched, by the first index that explains its scores."""
        name, retriever = next(item for item in self.retrievers.items() if item[1].explains)
        _, _, queries = found[name]
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
    if not len(passages):
        raise ValueError("`passages` is empty: give at least one passage.")
    missing = [name for name in ("id", "text") if name not in passages.column_names]
    if missing:
        raise ValueError(f"Passages have `id`, `text` and optionally `title`, but these lack {missing}.")
    taken = [name for name in ADDED_COLUMNS if name in passages.column_names]
    if taken:
        raise ValueError(f"Results have a `{taken[0]}` of their own: rename or remove that column of the passages.")
    return passages


def build_system(model, processor, index, passages, retrievers, fusion, reranker, reranker_processor, with_reader):
    """The [`RetrievalSystem`] of a [`RetrievalPipeline`]'s arguments; `model` may also be an encoder."""
    reranker = None if reranker is None else Reranker(*given_part(reranker, reranker_processor, "reranker"))
    fusion = {name: value for name, value in fusion.items() if value is not None}
    if isinstance(model, RetrievalSystem):
        if not all(each is None for each in (processor, index, passages, retrievers)):
            raise ValueError("A whole system has its own `processor`, `index` and `passages`: leave them out.")
        if reranker is None and not fusion and (with_reader or not model.reader):
            return model  # its parts were compared when it was made
        reader = model.reader if with_reader else None
        reranker, fusion = reranker or model.reranker, {**model.fusion, **fusion}
        return RetrievalSystem(model.passages, model.retrievers, fusion, reranker, reader, model.defaults)
    if passages is None:
        raise ValueError("There are no `passages`: give those that the index was built over.")
    if retrievers is None:
        if index is None:
            raise ValueError("There is no `index`: give one, or several in `retrievers`.")
        retrievers = _retrievers(index, model, processor)
    elif not all(each is None for each in (model, processor, index)):
        raise ValueError("Give `retrievers`, or a model with `index`: not both.")
    return RetrievalSystem(_loaded(passages), dict(retrievers), fusion, reranker)


def build_index(encoder, passages, index_settings, embedding_settings):
    """The encoder, an index over the passages in memory, and the passages as a dataset."""
    encoder, passages = encoder_part(encoder), checked_passages(_loaded(passages))
    embeddings = encoder.embed_passages(passages, **embedding_settings)
    index_class = LateInteractionIndex if isinstance(embeddings, TokenEmbeddings) else DenseIndex
    return encoder, index_class.build(embeddings, **index_settings), passages


def _retrievers(index, model, processor):
    """A retriever per index. Among several indexes, those that are searched with texts get no model."""
    indexes = index if isinstance(index, Mapping) else {"retriever": index}
    indexes = {
        name: load_index(each) if isinstance(each, str | os.PathLike) else each for name, each in indexes.items()
    }
    texts = {name for name, each in indexes.items() if getattr(each, "queries", None) == "text"}
    if len(indexes) == 1 or len(texts) == len(indexes):
        texts = set()  # a model that no index needs is a mistake
    return {
        name: Retriever(each) if name in texts else Retriever(each, model, processor) for name, each in indexes.items()
    }


def _loaded(passages):
    if not isinstance(passages, str | os.PathLike):
        return passages
    return load_from_disk(str(passages)) if Path(passages).is_dir() else load_passages(passages)


__all__ = ["RetrievalSystem", "build_index", "build_system", "checked_passages"]
