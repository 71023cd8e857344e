"""From what a user gives to the parts of a system."""

import os
from collections.abc import Mapping
from pathlib import Path

from datasets import load_from_disk
from transformers.utils import CONFIG_NAME

from ..data.collection import load_passages
from ..index.base import load_index
from ..index.bm25 import BM25Index
from ..utils.storage import MANIFEST
from .model_part import ModelPart
from .reranker import Reranker
from .retriever import Retriever
from .system import RetrievalSystem
from .system_folder import check_is_repository, is_system, open_system


def load_model(path, with_reader=False, dtype=None, trust_remote_code=False, **hub_arguments):
    r"""
    What a folder or repository holds, for the argument `model` of a pipeline.

    Args:
        path (`str` or `os.PathLike`):
            Folder or repository of a system, or of a retriever.
        with_reader (`bool`, *optional*, defaults to `False`):
            Whether to take a system's reader along.
        dtype (`str` or `torch.dtype`, *optional*):
            Type of the weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether a retriever's repository may run code of its own.
        hub_arguments:
            `revision`, `token`, `cache_dir` and `local_files_only`.

    Returns:
        [`RetrievalSystem`] or, of a retriever alone, [`ModelPart`].
    """
    _check_path(path)
    if is_system(path, **hub_arguments):
        return open_system(path, with_reader, dtype, **hub_arguments)
    return ModelPart.open(path, "retriever", dtype, trust_remote_code=trust_remote_code, **hub_arguments)


def build_system(model, processor, index, passages, retrievers, fusion, reranker, reranker_processor, with_reader):
    """The [`RetrievalSystem`] of a [`RetrievalPipeline`]'s arguments."""
    if isinstance(model, str | os.PathLike):
        raise TypeError(f"`model` must be a model, got {str(model)!r}: load it with `from_pretrained`.")
    reranker = None if reranker is None else Reranker(*given(reranker, reranker_processor, "reranker"))
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
        retrievers = _of_one_model(index, model, processor)
    elif not all(each is None for each in (model, processor, index)):
        raise ValueError("Give `retrievers`, or `model`, `processor` and `index`: not both.")
    return RetrievalSystem(_loaded(passages), dict(retrievers), fusion, reranker)


def given(model, processor, kind):
    """A model and its processor as they are, or in the place of both the [`ModelPart`] of a folder or repository."""
    if isinstance(model, str | os.PathLike):
        _check_path(model)
        return ModelPart.open(model, kind), None
    return model, processor


def _check_path(path):
    """Raise for what is neither a repository's id nor a folder with a model or system."""
    if not os.path.isdir(path):
        check_is_repository(path)
    elif not Path(path, CONFIG_NAME).is_file():
        what = f"is an index, for the argument `index`: it has no {CONFIG_NAME}"
        if not Path(path, MANIFEST).is_file():
            what = f"has no {CONFIG_NAME}: neither a system nor a model was saved there, or not to the end"
        raise ValueError(f"`{path}` {what}.")


def _of_one_model(index, model, processor):
    """A retriever for each index; among several, BM25 has no model."""
    indexes = index if isinstance(index, Mapping) else {"retriever": index}
    indexes = {
        name: load_index(each) if isinstance(each, str | os.PathLike) else each for name, each in indexes.items()
    }
    words = {name for name, each in indexes.items() if isinstance(each, BM25Index)}
    if len(indexes) == 1 or len(words) == len(indexes):
        words = set()  # a model that no index needs is a mistake
    return {
        name: Retriever(each) if name in words else Retriever(each, model, processor) for name, each in indexes.items()
    }


def _loaded(passages):
    if not isinstance(passages, str | os.PathLike):
        return passages
    return load_from_disk(str(passages)) if Path(passages).is_dir() else load_passages(passages)


__all__ = ["build_system", "given", "load_model"]
