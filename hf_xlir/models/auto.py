"""The model families: one record per family, registration with the Auto classes, and loading with a processor."""

from contextlib import contextmanager
from dataclasses import dataclass, fields

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer, PreTrainedConfig

from .configuration_biencoder import BiEncoderConfig
from .configuration_colbert_xlmr import ColBERTXLMRConfig
from .configuration_fid_t5 import FiDT5Config
from .modeling_biencoder import BiEncoderModel
from .modeling_colbert_xlmr import ColBERTXLMRModel
from .modeling_fid_t5 import FiDT5ForConditionalGeneration
from .modeling_retriever import check_positions
from .processing_biencoder import BiEncoderProcessor
from .processing_colbert_xlmr import ColBERTXLMRProcessor
from .processing_fid_t5 import FiDT5Processor


@dataclass(frozen=True)
class ModelFamily:
    r"""
    What the package knows about a family of models. Training, indexes, pipelines, conversion and cards ask it.

    Args:
        config (`type`):
            The configuration class. Its `model_type` is the family's name.
        model (`type`):
            The model class.
        processor (`type`):
            The processor class. A retriever's processor has `process_queries(texts)`, `process_documents(texts)`,
            `score(queries, documents)` and the class method `from_config(tokenizer, config)`.
        auto_model (`type`, *optional*, defaults to `AutoModel`):
            The Auto class that loads the model. `AutoModel` loads every family, too.
        role (`"retriever"` or `"reader"`, *optional*, defaults to `"retriever"`):
            What the model does.
        vectors (`"vectors"` or `"token_vectors"`, *optional*):
            What a retriever gives: one vector per text or one vector per token. `None` for a reader.
        card_template (`str`, *optional*):
            File name of the model card's template in `hf_xlir/hub/templates`. By default the template of the role.
        exports (`tuple[str, ...]`, *optional*, defaults to `()`):
            Libraries that [`~hf_xlir.convert.export_checkpoint`] can write such a model for.
    """

    config: type
    model: type
    processor: type
    auto_model: type = AutoModel
    role: str = "retriever"
    vectors: str | None = None
    card_template: str | None = None
    exports: tuple[str, ...] = ()

    def __post_init__(self):
        allowed = {"retriever": ("vectors", "token_vectors"), "reader": (None,)}
        if self.role not in allowed:
            raise ValueError(f"`role` must be one of {sorted(allowed)}, got {self.role!r}.")
        if self.vectors not in allowed[self.role]:
            raise ValueError(
                f"`vectors` of a {self.role} must be one of {list(allowed[self.role])}, got {self.vectors!r}."
            )
        if not getattr(self.config, "model_type", ""):
            raise ValueError(f"`{self.config.__name__}` has no `model_type`: set the class attribute.")


FAMILIES = {}


def register_family(family):
    r"""
    Make a family known to this package and to the Auto classes. A family defined outside the package then loads with
    `AutoModel`, trains with [`RetrieverTrainer`] and searches in a [`RetrievalPipeline`]. A second registration of the
    same `model_type` replaces the first.

    Args:
        family ([`ModelFamily`]):
            The family.

    Returns:
        [`ModelFamily`]: The same record.

    Example:
    ```python
    >>> from hf_xlir import BiEncoderConfig, BiEncoderModel, BiEncoderProcessor
    >>> from hf_xlir.models import ModelFamily, register_family

    >>> class MyConfig(BiEncoderConfig):
    ...     model_type = "my_retriever"

    >>> class MyModel(BiEncoderModel):
    ...     config_class = MyConfig

    >>> class MyProcessor(BiEncoderProcessor):
    ...     config_class = MyConfig

    >>> register_family(ModelFamily(MyConfig, MyModel, MyProcessor, vectors="vectors"))  # doctest: +SKIP

    ```
    """
    AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
    for auto_model in {AutoModel, family.auto_model}:
        auto_model.register(family.config, family.model, exist_ok=True)
    AutoProcessor.register(family.config, family.processor, exist_ok=True)
    FAMILIES[family.config.model_type] = family
    return family


def family_of(config_or_model):
    r"""
    The record of a model's family.

    Args:
        config_or_model (`PreTrainedConfig` or `PreTrainedModel`):
            A configuration, or a model, which peft or `torch.compile` may have wrapped.

    Returns:
        [`ModelFamily`]

    Raises:
        ValueError: If the family is not registered.

    Example:
    ```python
    >>> from hf_xlir import BiEncoderConfig
    >>> from hf_xlir.models import family_of

    >>> family_of(BiEncoderConfig()).vectors
    'vectors'

    ```
    """
    config = getattr(config_or_model, "config", config_or_model)
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        raise ValueError(
            f"Expected a model of a registered family, one of {sorted(FAMILIES)}, got type {model_type!r}. Register "
            "another family with `register_family`."
        )
    return FAMILIES[model_type]


for each in (
    ModelFamily(
        config=ColBERTXLMRConfig,
        model=ColBERTXLMRModel,
        processor=ColBERTXLMRProcessor,
        vectors="token_vectors",
        exports=("pylate", "transformers"),
    ),
    ModelFamily(
        config=BiEncoderConfig,
        model=BiEncoderModel,
        processor=BiEncoderProcessor,
        vectors="vectors",
        exports=("sentence-transformers", "transformers"),
    ),
    ModelFamily(
        config=FiDT5Config,
        model=FiDT5ForConditionalGeneration,
        processor=FiDT5Processor,
        auto_model=AutoModelForSeq2SeqLM,
        role="reader",
        exports=("transformers",),
    ),
):
    register_family(each)


def register_for_hub_export():
    """
    Let `save_pretrained` write the modelling code beside the weights, from this call on.

    A saved folder, or a repository that it is pushed to, then loads with `trust_remote_code=True` where this package
    is not installed. Without this call a folder needs the package.

    Where the package is installed, import `hf_xlir` before you use an Auto class: the import registers the families.
    Without it `AutoModel` does not know them, and `AutoProcessor` returns the bare tokenizer.

    Example:
    ```python
    >>> from hf_xlir import register_for_hub_export

    >>> register_for_hub_export()

    ```
    """
    for family in FAMILIES.values():
        family.config.register_for_auto_class()
        family.model.register_for_auto_class(family.auto_model.__name__)
        family.processor.register_for_auto_class()


@contextmanager
def hub_export():
    """
    [`register_for_hub_export`] for the duration of a `with` block.

    Example:
    ```python
    >>> from hf_xlir.models import hub_export

    >>> with hub_export():
    ...     model.save_pretrained("my-colbert")  # doctest: +SKIP

    ```
    """
    before = {
        each: each._auto_class
        for family in FAMILIES.values()
        for each in (family.config, family.model, family.processor)
    }
    register_for_hub_export()
    try:
        yield
    finally:
        for each, value in before.items():
            each._auto_class = value


def load_retriever(path, model_type=None, **settings):
    r"""
    Load a retriever and its processor, or start a new retriever from a bare encoder.

    Args:
        path (`str` or `os.PathLike`):
            Folder or Hub repository of a retriever, or of a bare encoder such as XLM-R.
        model_type (`str`, *optional*):
            The family, such as `"colbert_xlmr"` or `"biencoder"`. A bare encoder needs it; a retriever's folder names
            its own.
        settings:
            Fields of the configuration to change, such as `document_length`. `None` keeps the saved value.

    Returns:
        `tuple` of the model, in evaluation mode, and the processor with the model's settings.

    Raises:
        ValueError: If the family is unknown or differs from the folder's, the folder has no tokenizer, or a setting is
            not a field of the configuration.
        OSError: If the folder or repository does not exist.

    Example:
    ```python
    >>> from hf_xlir.models import load_retriever

    >>> model, processor = load_retriever("FacebookAI/xlm-roberta-base", "biencoder", pooling="mean")  # doctest: +SKIP

    ```
    """
    retrievers = {name: family for name, family in FAMILIES.items() if family.role == "retriever"}
    if model_type is None:
        model_type = AutoConfig.from_pretrained(path).model_type
        if model_type not in retrievers:
            raise ValueError(
                f"`{path}` holds a model of type {model_type!r}, expected a retriever. To start one from an encoder, "
                f"give `model_type`, one of {sorted(retrievers)}."
            )
    if model_type not in retrievers:
        raise ValueError(f"`model_type` must be one of {sorted(retrievers)}, got {model_type!r}.")
    family = retrievers[model_type]
    settings = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(settings.keys() - {field.name for field in fields(family.config)})
    if unknown:
        raise ValueError(f"`{family.config.__name__}` has no fields {unknown}: leave them out.")
    tokenizer = AutoTokenizer.from_pretrained(path)
    _check_vocabulary(tokenizer, path)
    model = family.model.from_pretrained(path, **settings)
    return model, family.processor.from_config(tokenizer, model.config)


def load_reader(path, dtype="float32", **settings):
    r"""
    Load a Fusion-in-Decoder reader and its processor: a saved one, one that the FiD repository released, or a new one
    from a plain T5, mT5 or umT5 model.

    Args:
        path (`str` or `os.PathLike`):
            Folder or Hub repository.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"float32"`):
            Type of the weights. Training needs float32 weights even where the file has fewer bits; autocast computes
            in less.
        settings:
            Settings of the processor to change: `text_maxlength`, `answer_maxlength`, `n_context`, `passage_eos`.
            `None` keeps the saved value.

    Returns:
        `tuple` of the model, in evaluation mode, and the processor.

    Raises:
        TypeError: If a setting is unknown or has the wrong type.
        ValueError: If a setting is out of range, or the folder holds a model of another family or no tokenizer. The
            readers that the FiD repository released have none; [`~hf_xlir.convert.convert_checkpoint`] adds it.
        OSError: If the folder or repository does not exist.

    Example:
    ```python
    >>> from hf_xlir.models import load_reader

    >>> model, processor = load_reader("google/mt5-base", n_context=20)  # doctest: +SKIP

    ```
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    family = _reader_family(path)
    unknown = sorted(settings.keys() - set(family.processor.settings))
    if unknown:
        raise TypeError(f"`{family.processor.__name__}` has no settings {unknown}: leave them out.")
    processor = family.processor.from_pretrained(path, **settings)
    _check_vocabulary(processor.tokenizer, path)
    model = family.model.from_pretrained(path, dtype=dtype)
    num_pieces, vocab_size = len(processor.tokenizer), model.config.vocab_size
    if num_pieces > vocab_size:
        raise ValueError(f"The tokenizer of `{path}` has {num_pieces} pieces, but its model only {vocab_size}.")
    return model, processor


def _reader_family(path):
    """The family of a saved reader. For anything else that of FiD, which reads T5's folders and refuses others."""
    try:
        family = FAMILIES.get(PreTrainedConfig.get_config_dict(path)[0].get("model_type"))
    except (OSError, ValueError):
        family = None
    return family if family is not None and family.role == "reader" else FAMILIES[FiDT5Config.model_type]


def _check_vocabulary(tokenizer, path):
    """For some families transformers makes up a tokenizer without words where the files are missing."""
    if len(tokenizer) - len(set(tokenizer.all_special_tokens)) < 2:
        raise ValueError(
            f"`{path}` has no tokenizer, so every text would be unknown pieces. Copy the tokenizer's files, such as "
            "`tokenizer.json`, into it."
        )


def check_processor(processor, model):
    r"""
    Check that a retriever's processor and model belong together, before work starts. With another model's processor
    the model would fail halfway, or give vectors that match nothing.

    Args:
        processor (`ProcessorMixin`):
            The processor.
        model (`PreTrainedModel`):
            The model, which peft or `torch.compile` may have wrapped.

    Raises:
        ValueError: If the processor belongs to another family, its settings differ from the model's configuration, it
            has more pieces than the model has embeddings, or its texts may be longer than the encoder's positions.

    Example:
    ```python
    >>> from hf_xlir.models import check_processor

    >>> check_processor(processor, model)  # doctest: +SKIP

    ```
    """
    names = type(processor).__name__, type(model).__name__
    expected = FAMILIES.get(model.config.model_type)
    if expected is None or expected.role != "retriever":
        raise ValueError(f"Expected a retriever, got `{names[1]}` of type {model.config.model_type!r}.")
    if not isinstance(processor, expected.processor):
        raise ValueError(f"`{names[1]}` needs its own processor, a `{expected.processor.__name__}`, got `{names[0]}`.")
    if hasattr(processor, "check_config"):
        processor.check_config(model.config)
    num_pieces, vocab_size = len(processor.tokenizer), model.config.get_text_config().vocab_size
    if num_pieces > vocab_size:
        raise ValueError(f"The tokenizer of `{names[0]}` has {num_pieces} pieces, but `{names[1]}` only {vocab_size}.")
    check_positions(model)


__all__ = [
    "FAMILIES",
    "ModelFamily",
    "check_processor",
    "family_of",
    "hub_export",
    "load_reader",
    "load_retriever",
    "register_family",
    "register_for_hub_export",
]
