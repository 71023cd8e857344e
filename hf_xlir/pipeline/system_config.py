"""The `config.json` of a folder with a whole system, read with suspicion."""

import re
from dataclasses import fields

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ..index.fusion import FUSION_OPTIONS
from .configuration_system import FORMAT_VERSION, RetrievalSystemConfig
from .retriever import KINDS


ENTRY = ("name", "kind", "index", "model")  # of a retriever
# In a system's `config.json`, and of no consequence: what transformers adds
FROM_TRANSFORMERS = ("model_type", "auto_map", "custom_pipelines", "_name_or_path", "_commit_hash")


def read_config(folder, path):
    r"""
    The configuration of a system, checked before any part is opened.

    Args:
        folder (`str` or `os.PathLike`):
            Where its `config.json` is.
        path (`str` or `os.PathLike`):
            What to call it in messages: the folder, or the repository that it was downloaded from.

    Returns:
        [`RetrievalSystemConfig`].

    Raises:
        ValueError: If it is of no system or one of a later version, has a key that is unknown or a value of another
            type, does not name the parts, or would read or run what is elsewhere.
    """
    values, _ = PreTrainedConfig.get_config_dict(folder)
    if values.get("model_type") != "xlir_system":
        raise ValueError(
            f"`{path}` holds a model of type {values.get('model_type')!r}, not a whole system: give its `index` and "
            "`passages`, too."
        )
    version = values.get("format_version", 0)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"`{path}` has version {version} of its layout, this hf_xlir reads up to "
            f"{FORMAT_VERSION}: upgrade hf_xlir."
        )
    _check_keys(path, "it", values, [*FROM_TRANSFORMERS, *(field.name for field in fields(RetrievalSystemConfig))])
    try:
        config = RetrievalSystemConfig.from_pretrained(folder)
    except StrictDataclassError as error:
        raise ValueError(f"The {CONFIG_NAME} of `{path}` is damaged: {error}") from error
    if config.passages is None or not config.retrievers or not all(map(_is_retriever, config.retrievers)):
        raise ValueError(f"The {CONFIG_NAME} of `{path}` is damaged: it does not name the parts of a system.")
    _check_keys(path, "its `fusion`", config.fusion or {}, FUSION_OPTIONS)
    for entry in config.retrievers:
        _check_keys(path, f"its retriever {entry['name']!r}", entry, ENTRY)
    generation = (config.defaults or {}).get("generate_kwargs") or {}
    if not {"custom_generate", "trust_remote_code"}.isdisjoint(generation):
        raise ValueError(f"The {CONFIG_NAME} of `{path}` has `generate` run code from elsewhere, which is refused.")
    outside = [name for name in config.folders() if not re.fullmatch(r"[\w-]+", name)]
    if outside:
        raise ValueError(f"The {CONFIG_NAME} of `{path}` names {outside}, which are no folders in it.")
    return config


def _check_keys(path, what, values, known):
    """Raise for a key that is none of those: a misspelt one would make another system without a word."""
    unknown = sorted(values.keys() - set(known))
    if unknown:
        own = ", ".join(repr(name) for name in known if name not in FROM_TRANSFORMERS)
        raise ValueError(
            f"The {CONFIG_NAME} of `{path}` cannot be read: {what} has the key {unknown[0]!r}, which this hf_xlir "
            f"does not know. Known are {own}: correct the key, or upgrade hf_xlir."
        )


def _is_retriever(entry):
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        return False
    return {"name", "kind", "index"} <= entry.keys() and entry["kind"] in KINDS


__all__ = ["read_config"]
