"""Registration with the Auto classes: the only place that registers anything. And loading by family."""

from contextlib import contextmanager
from dataclasses import fields

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

from .configuration_biencoder import BiEncoderConfig
from .configuration_colbert_xlmr import ColBERTXLMRConfig
from .configuration_fid_t5 import FiDT5Config
from .modeling_biencoder import BiEncoderModel
from .modeling_colbert_xlmr import ColBERTXLMRModel
from .modeling_fid_t5 import FiDT5ForConditionalGeneration
from .processing_biencoder import BiEncoderProcessor
from .processing_colbert_xlmr import ColBERTXLMRProcessor
from .processing_fid_t5 import FiDT5Processor


FAMILIES = (
    (ColBERTXLMRConfig, ColBERTXLMRModel, ColBERTXLMRProcessor, AutoModel),
    (BiEncoderConfig, BiEncoderModel, BiEncoderProcessor, AutoModel),
    (FiDT5Config, FiDT5ForConditionalGeneration, FiDT5Processor, AutoModelForSeq2SeqLM),
)

for config_class, model_class, processor_class, auto_model in FAMILIES:
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    auto_model.register(config_class, model_class, exist_ok=True)
    AutoProcessor.register(config_class, processor_class, exist_ok=True)
AutoModel.register(FiDT5Config, FiDT5ForConditionalGeneration, exist_ok=True)


def register_for_hub_export():
    """
    Let `save_pretrained` write the modelling code beside the weights.

    After this call a saved folder, or a repository it is pushed to, loads with `trust_remote_code=True` where this
    package is not installed. Without it a folder needs the package.

    Where the package is installed, `import hf_xlir` comes before any Auto class: it registers the three families.
    Without that import `AutoModel` does not know them, and `AutoProcessor` returns the bare tokenizer.

    Example:
    ```python
    >>> from hf_xlir import register_for_hub_export

    >>> register_for_hub_export()

    ```
    """
    for config_class, model_class, processor_class, auto_model in FAMILIES:
        config_class.register_for_auto_class()
        model_class.register_for_auto_class(auto_model.__name__)
        processor_class.register_for_auto_class()


@contextmanager
def hub_export():
    """
    [`register_for_hub_export`] for a `with` block alone.

    Example:
    ```python
    >>> from hf_xlir.models.auto import hub_export

    >>> with hub_export():
    ...     model.save_pretrained("my-colbert")  # doctest: +SKIP

    ```
    """
    before = {each: each._auto_class for *classes, _ in FAMILIES for each in classes}
    register_for_hub_export()
    try:
        yield
    finally:
        for each, value in before.items():
            each._auto_class = value


def load_retriever(path, model_type=None, **settings):
    r"""
    A retriever and its processor: one that was saved, or a new one from a bare encoder.

    Args:
        path (`str` or `os.PathLike`):
            Folder or Hub repository of a retriever, or of a bare encoder such as XLM-R.
        model_type (`"colbert_xlmr"` or `"biencoder"`, *optional*):
            The family. A retriever's folder says it; a bare encoder's does not.
        settings:
            Fields of the configuration that change, such as `document_length`. `None` keeps what is there.

    Returns:
        `tuple` of the model, in evaluation mode, and the processor with the model's settings.

    Raises:
        ValueError: If the family is unknown or not that of the folder, the folder has no tokenizer, or a setting is no
            field of its configuration.
        OSError: If there is no such folder or repository.

    Example:
    ```python
    >>> from hf_xlir.models.auto import load_retriever

    >>> model, processor = load_retriever("FacebookAI/xlm-roberta-base", "biencoder", pooling="mean")  # doctest: +SKIP

    ```
    """
    families = {config.model_type: (config, model, processor) for config, model, processor, _ in FAMILIES[:2]}
    if model_type is None:
        model_type = AutoConfig.from_pretrained(path).model_type
        if model_type not in families:
            raise ValueError(
                f"`{path}` holds a model of type {model_type!r}, which is no retriever: say with `model_type` which "
                f"family to make of it, one of {sorted(families)}."
            )
    if model_type not in families:
        raise ValueError(f"`model_type` must be one of {sorted(families)}, got {model_type!r}.")
    config_class, model_class, processor_class = families[model_type]
    settings = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(settings.keys() - {field.name for field in fields(config_class)})
    if unknown:
        raise ValueError(f"A model of type {model_type!r} has no {unknown}: leave them out.")
    tokenizer = AutoTokenizer.from_pretrained(path)
    _check_vocabulary(tokenizer, path)
    model = model_class.from_pretrained(path, **settings)
    return model, processor_class.from_config(tokenizer, model.config)


def load_reader(path, dtype="float32", **settings):
    r"""
    A reader and its processor: one that was saved or that the FiD repository released, or a new one from a plain T5,
    mT5 or umT5 model.

    Args:
        path (`str` or `os.PathLike`):
            Folder or Hub repository.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"float32"`):
            Of the weights. Training needs float32, whatever they were saved in; autocast computes in less.
        settings:
            Of the processor, where they change: `text_maxlength`, `answer_maxlength`, `n_context`, `passage_eos`.
            `None` keeps what is there.

    Returns:
        `tuple` of the model, in evaluation mode, and the processor.

    Raises:
        TypeError: If a setting is unknown or of another type.
        ValueError: If a setting is out of range, or the folder holds a model of another family or no tokenizer: the
            readers that the FiD repository released have none, [`~hf_xlir.convert.convert_checkpoint`] adds it.
        OSError: If there is no such folder or repository.

    Example:
    ```python
    >>> from hf_xlir.models.auto import load_reader

    >>> model, processor = load_reader("google/mt5-base", n_context=20)  # doctest: +SKIP

    ```
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(settings.keys() - set(FiDT5Processor.settings))
    if unknown:
        raise TypeError(f"`FiDT5Processor` has no settings {unknown}: leave them out.")
    processor = FiDT5Processor.from_pretrained(path, **settings)
    _check_vocabulary(processor.tokenizer, path)
    model = FiDT5ForConditionalGeneration.from_pretrained(path, dtype=dtype)
    num_pieces, vocab_size = len(processor.tokenizer), model.config.vocab_size
    if num_pieces > vocab_size:
        raise ValueError(f"The tokenizer of `{path}` has {num_pieces} pieces, its model only {vocab_size}.")
    return model, processor


def _check_vocabulary(tokenizer, path):
    """Where the files are missing, transformers makes up a tokenizer of some families that knows no word."""
    if len(tokenizer) - len(set(tokenizer.all_special_tokens)) < 2:
        raise ValueError(
            f"`{path}` has no tokenizer, so that every text would be unknown pieces: copy the files of the one that "
            "its model was trained with, such as `tokenizer.json`, into it."
        )


__all__ = ["hub_export", "load_reader", "load_retriever", "register_for_hub_export"]
