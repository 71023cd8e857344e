"""A model of a system with what prepares its inputs: given as an object, or in a folder and read at first use."""

import os
import shutil
import threading
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer
from transformers.utils import CONFIG_NAME

from ..hub.metadata import known_facts, write_facts
from ..index import embed_passages, embed_queries
from ..index.encoders import Encoder, as_encoder
from ..models.auto import FAMILIES, check_processor
from ..utils.storage import MANIFEST


class ModelPart:
    """
    A model and its processor or tokenizer. If they are in a folder, only the configuration is read before first use.

    `config` is the model's configuration, and `key` is equal for parts with the same model. `load` returns the model
    and its processor and is called once; `copy` writes both to a folder without loading them; `path` is where they are
    read from.
    """

    def __init__(self, config, load, copy=None, path=None):
        self.config, self.key = config, id(self)
        self._load, self._copy, self._path, self._facts = load, copy, path, None
        self._loaded, self._lock = None, threading.Lock()

    @classmethod
    def of(cls, model, processor, name):
        """A model and a processor as objects. `name` is what messages call the processor."""
        if processor is None:
            raise ValueError(f"`{type(model).__name__}` needs its processor: give `{name}`, too.")
        if role_of(model.config) == "retriever":
            check_processor(processor, model)
        part = cls(model.config, None)
        part._loaded, part.key = (model, processor), id(model)
        return part

    @classmethod
    def open(cls, path, kind, dtype=None, unchanged=None, **hub_arguments):
        """
        What a folder or repository holds: a `"retriever"`, `"reranker"` or `"reader"`. `unchanged` raises if the
        folder has changed since; without it, everything is read at once. `hub_arguments` are those of
        `from_pretrained`: `revision`, `token`, `trust_remote_code` ...
        """
        hub_arguments.setdefault("trust_remote_code", False)  # by default transformers asks at the terminal
        config = AutoConfig.from_pretrained(path, **hub_arguments)
        family = FAMILIES.get(config.model_type)
        if kind == "retriever" and role_of(config) != "retriever":
            known = sorted(name for name, each in FAMILIES.items() if each.role == "retriever")
            raise ValueError(f"`{path}` holds a model of type {config.model_type!r}, expected a retriever: {known}.")
        if kind == "reader":
            if role_of(config) != "reader":
                family = FAMILIES["fid_t5"]  # it reads folders of T5, and refuses others with a reason
            model_class, processor_class = family.model, family.processor
        elif role_of(config) == "retriever":
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
            if role_of(config) == "retriever":
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

    @property
    def model_type(self):
        """The model's type."""
        return self.config.model_type

    @property
    def vectors(self):
        """What the model gives for a text: `"vectors"`, `"token_vectors"` or `None`."""
        family = FAMILIES.get(self.config.model_type)
        return None if family is None else family.vectors

    @property
    def embedding_dim(self):
        """Dimensions of a retriever's vectors, `None` if the configuration does not say."""
        hidden_size = getattr(self.config.get_text_config(), "hidden_size", None)
        return getattr(self.config, "embedding_dim", None) or hidden_size

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

    def embed(self, texts, device=None):
        """Questions as [`QueryEmbeddings`]."""
        return embed_queries(*self.get(device), texts)

    def embed_passages(self, passages, **settings):
        """Passages as [`TokenEmbeddings`] or [`DenseEmbeddings`]."""
        return embed_passages(*self.get(), passages, **settings)

    def facts(self, token=None, offline=True):
        """What is known of the model's origin, languages and license: [`~hf_xlir.hub.metadata.known_facts`]."""
        if self._facts is None or not offline:
            source = self._path or self.config._name_or_path
            self._facts = known_facts(source, getattr(self.config, "_commit_hash", None), token, offline)
        return self._facts

    def is_within(self, folder):
        """Whether the weights are still to be read from somewhere in a folder."""
        return self._loaded is None and Path(folder).resolve() in Path(self._path).resolve().parents

    def save(self, folder):
        """Write both to a folder that does not exist. A part that was never used is copied."""
        if self._loaded is None and self._copy is not None:
            self._copy(folder)
        else:
            for each in self.get():
                each.save_pretrained(folder)
            write_facts(self.facts(), folder)


class ForeignEncoder:
    """An encoder of another library: any object with `encode_query`. It stays where it is and cannot be saved."""

    config, save = None, None

    def __init__(self, encoder):
        self.encoder, self.key, self.model_type = encoder, id(encoder), type(encoder).__name__
        self.vectors = getattr(encoder, "vectors", None)
        self.embedding_dim = getattr(encoder, "embedding_dim", None)

    def embed(self, texts, device=None):
        """Questions as [`QueryEmbeddings`]."""
        return embed_queries(self.encoder, texts)

    def embed_passages(self, passages, **settings):
        """Passages as [`TokenEmbeddings`] or [`DenseEmbeddings`]."""
        return embed_passages(self.encoder, passages, **settings)

    def facts(self, token=None, offline=True):
        """Nothing is known."""
        return {}

    def is_within(self, folder):
        """It is in memory."""
        return False


def encoder_part(encoder, processor=None):
    """The part of an encoder: given as a part, path, `(model, processor)`, model with processor, or foreign object."""
    if isinstance(encoder, ModelPart | ForeignEncoder):
        return encoder
    encoder = as_encoder(encoder, processor)
    if isinstance(encoder, Encoder):
        return ModelPart.of(encoder.model, encoder.processor, "processor")
    return ForeignEncoder(encoder)


def given_part(model, processor, kind):
    """A model and its processor as they are, or the [`ModelPart`] of a folder or repository and `None`."""
    if isinstance(model, str | os.PathLike):
        check_path(model)
        return ModelPart.open(model, kind), None
    return model, processor


def check_path(path):
    """Raise for a path that is neither a repository's id nor a folder with a model or system."""
    if not os.path.isdir(path):
        check_is_repository(path)
    elif not Path(path, CONFIG_NAME).is_file():
        if Path(path, MANIFEST).is_file():
            raise ValueError(f"`{path}` has no {CONFIG_NAME} but holds an index: give it as `index`.")
        raise ValueError(f"`{path}` has no {CONFIG_NAME}: no system or model was saved there completely.")


def check_is_repository(path):
    """Raise for a path that is not a folder and cannot be a repository's id."""
    try:
        validate_repo_id(str(path))
    except HFValidationError as error:
        raise FileNotFoundError(f"There is no folder `{path}`, and no repository has such an id.") from error


def role_of(config):
    """What the model of a configuration is for, `"retriever"` or `"reader"`; `None` for a model of another library."""
    family = FAMILIES.get(getattr(config, "model_type", None))
    return None if family is None else family.role


__all__ = [
    *("ForeignEncoder", "ModelPart", "check_is_repository", "check_path", "encoder_part", "given_part", "role_of")
]
