"""A model of a system with what prepares its inputs: given, or in a folder and read at first use."""

import shutil
import threading
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer

from ..models.auto import check_processor
from ..models.modeling_fid_t5 import FiDT5ForConditionalGeneration
from ..models.processing_fid_t5 import FiDT5Processor
from .part_facts import facts_of, write_facts


RETRIEVER_TYPES = ("colbert_xlmr", "biencoder")


class ModelPart:
    r"""
    A model and its processor. Of those in a folder, only the configuration is read before they are used.

    Attributes:
        config (`PreTrainedConfig`):
            The model's configuration.
        key (`int`):
            The same for parts with the same model.

    Args:
        config (`PreTrainedConfig`):
            The model's configuration.
        load (`Callable[[], tuple]`):
            Returns the model and its processor or tokenizer. It is called once.
        copy (`Callable[[Path], None]`, *optional*):
            Writes both to a folder as they are, without loading them.
        path (`str` or `os.PathLike`, *optional*):
            Where they are read from.
    """

    def __init__(self, config, load, copy=None, path=None):
        self.config, self.key = config, id(self)
        self._load, self._copy, self._path, self._facts = load, copy, path, None
        self._loaded, self._lock = None, threading.Lock()

    @classmethod
    def of(cls, model, processor, what):
        """A model and a processor as objects. `what` is what the processor is called in messages."""
        if processor is None:
            raise ValueError(f"`{type(model).__name__}` needs its processor: give `{what}`, too.")
        if model.config.model_type in RETRIEVER_TYPES:
            check_processor(processor, model)
        part = cls(model.config, None)
        part._loaded, part.key = (model, processor), id(model)
        return part

    @classmethod
    def open(cls, path, kind, dtype=None, unchanged=None, **hub_arguments):
        r"""
        What a folder or repository holds.

        Args:
            path (`str` or `os.PathLike`):
                The folder, or the repository's id.
            kind (`"retriever"`, `"reranker"` or `"reader"`):
                What it must hold.
            dtype (`str` or `torch.dtype`, *optional*):
                Type of the weights; by default that of the files.
            unchanged (`Callable[[], None]`, *optional*):
                Raises if the folder is not any more what it was. Without it, everything is read at once.
            hub_arguments:
                As `from_pretrained` takes them: `revision`, `token`, `cache_dir`, `trust_remote_code` ...
        """
        hub_arguments.setdefault("trust_remote_code", False)  # left open, transformers would ask at the terminal
        config = AutoConfig.from_pretrained(path, **hub_arguments)
        if kind == "retriever" and config.model_type not in RETRIEVER_TYPES:
            raise ValueError(
                f"`{path}` holds a model of type {config.model_type!r}, expected a retriever: one of "
                f"{', '.join(map(repr, RETRIEVER_TYPES))}."
            )
        if kind == "reader":
            model_class, processor_class = FiDT5ForConditionalGeneration, FiDT5Processor
        elif config.model_type in RETRIEVER_TYPES:
            model_class, processor_class = AutoModel, AutoProcessor
        else:
            model_class, processor_class = AutoModelForSequenceClassification, AutoTokenizer

        def load():
            given = hub_arguments if dtype is None else {**hub_arguments, "dtype": dtype}
            try:
                model = model_class.from_pretrained(path, **given)
                processor = processor_class.from_pretrained(path, **hub_arguments)
            except (OSError, ValueError):
                if unchanged is not None:
                    unchanged()
                raise
            if config.model_type in RETRIEVER_TYPES:
                check_processor(processor, model)
            if unchanged is not None:
                unchanged()
            return model, processor

        def copy(folder):
            shutil.copytree(path, folder)
            unchanged()

        may_copy = unchanged is not None and dtype in (None, "auto")
        part = cls(config, load, copy if may_copy else None, path)
        if unchanged is None:
            part.get()
        return part

    def get(self, device=None):
        """The model, on a device and in evaluation mode, and its processor."""
        with self._lock:  # a server's threads ask at once
            if self._loaded is None:
                self._loaded = self._load()
            model, processor = self._loaded
            if model.training:
                model.eval()
            if device is not None and model.device != device:
                model.to(device)
        return model, processor

    def facts(self, token=None, offline=True):
        """What is known of the model's origin, languages and licence: [`~hf_xlir.pipeline.part_facts.facts_of`]."""
        if self._facts is None or not offline:
            source = self._path or self.config._name_or_path
            self._facts = facts_of(source, getattr(self.config, "_commit_hash", None), token, offline)
        return self._facts

    def is_within(self, folder):
        """Whether the weights are still to be read from somewhere in a folder."""
        return self._loaded is None and Path(folder).resolve() in Path(self._path).resolve().parents

    def save(self, folder):
        """Write both to a folder that does not exist; what was never used is copied as it is."""
        if self._loaded is None and self._copy is not None:
            self._copy(folder)
        else:
            for each in self.get():
                each.save_pretrained(folder)
            write_facts(self.facts(), folder)


__all__ = ["RETRIEVER_TYPES", "ModelPart"]
