"""Reading checkpoints of other libraries without running their code, and building complete models from them."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ..models.auto import FAMILIES


# Training scripts save random states beside the weights: arrays of numbers, which load without running anything
_RECONSTRUCT = np._core.multiarray._reconstruct
_NUMPY_ARRAYS = [
    *(np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd")),
    *((_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
# Fields of a transformers configuration that describe its origin, not the model
_ORIGIN_FIELDS = ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path")

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


class Checkpoint(NamedTuple):
    """What a reader returns: a model, its processor, and notes for the user."""

    model: torch.nn.Module
    processor: object
    notes: list[str]


def read_json(path, default=None):
    """The contents of a JSON file; `default`, if given, where the file does not exist."""
    path = Path(path)
    if not path.is_file():
        if default is None:
            raise FileNotFoundError(f"`{path.parent}` has no `{path.name}`: copy the folder again.")
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` is not valid JSON ({error}): copy it again.") from None


def read_pickle(path, *keys):
    """
    The contents of a `torch.save` file with tensors, arrays of numbers and plain values. A pickle that needs more is
    refused, because loading it would run code. With `keys` the contents must be a dictionary that has them.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_ARRAYS):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, EOFError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        needs = f"`{named[1]}`" if named else "something else, or is damaged"
        raise ValueError(
            f"`{path}` is refused: besides tensors and plain values its pickle needs {needs}, and loading that could "
            "run code. If you trust the file, load it with the library that wrote it and save only its weights."
        ) from None
    except RuntimeError as error:  # for example an archive that ends too early
        raise ValueError(f"`{path}` is damaged ({str(error).splitlines()[0][:120]}): copy it again.") from None
    if keys and not (isinstance(found, dict) and set(keys) <= found.keys()):
        got = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"`{path}` must hold a dict with {' and '.join(f'`{key}`' for key in keys)}, got {got}.")
    return found


def read_weights(folder):
    """All weights of a folder, from `model.safetensors` or else `pytorch_model.bin`, in one file or several."""
    folder = Path(folder)
    for name, read in (("model.safetensors", load_file), ("pytorch_model.bin", read_pickle)):
        index = folder / f"{name}.index.json"
        files = [folder / name] if (folder / name).is_file() else []
        if not files and index.is_file():
            files = [folder / part for part in sorted(set(read_json(index)["weight_map"].values()))]
        if files:
            return {key: value for file in files for key, value in read(file).items()}
    raise FileNotFoundError(f"`{folder}` has no weights: neither `model.safetensors` nor `pytorch_model.bin`.")


def under(weights, prefix, new_prefix=""):
    """The weights whose names begin with `prefix` and a dot, with `new_prefix` in its place."""
    start = f"{prefix}."
    return {new_prefix + name[len(start) :]: value for name, value in weights.items() if name.startswith(start)}


def load_transformer(folder):
    """The transformer of a folder with all its weights. Encoder-decoders, adapters and custom code are refused."""
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"`{folder}` is an adapter of peft: merge it into its model (`merge_and_unload`) first.")
    config = load_config(folder)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"`{folder}` has a model of type {config.model_type!r}, an encoder-decoder. A retriever needs an encoder, "
            "such as XLM-R or BERT."
        )
    encoder, info = AutoModel.from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(f"`{folder}` lacks {len(missing)} weights of its encoder, such as {missing[:3]}.")
    return encoder


def load_config(path):
    """The transformers configuration of a folder or repository. Its own code is never run."""
    return AutoConfig.from_pretrained(path, trust_remote_code=False)


def load_tokenizer(path, **kwargs):
    """The tokenizer of a folder or repository."""
    hint = "give `tokenizer`, a folder or Hub repository that has it."
    # For some families transformers makes up an empty tokenizer where there is no vocabulary
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in _VOCABULARIES):
        raise ValueError(f"`{path}` has no tokenizer ({', '.join(_VOCABULARIES)}): {hint}")
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as error:
        raise ValueError(f"No tokenizer can be loaded from `{path}`: {hint} ({error})") from None


def base_of(path, tokenizer, *named):
    """Where the tokenizer and configuration of a checkpoint file are: as given, or as the file names it."""
    base = next((each for each in (tokenizer, *named) if each), None)
    if base is None:
        raise ValueError(
            f"`{path}` does not name its encoder: give `tokenizer`, a folder or Hub repository of that encoder, such "
            "as FacebookAI/xlm-roberta-base or google-bert/bert-base-uncased."
        )
    return base


def build_retriever(model_type, encoder_config, fields, weights, tokenizer, source, notes=()):
    """
    A retriever of a family with all of a checkpoint's weights, under the model's own names, and its processor.
    `encoder_config` is the configuration of the encoder, `fields` are those of the family's configuration.
    """
    family = FAMILIES[model_type]
    encoder = {name: value for name, value in encoder_config.to_dict().items() if name not in _ORIGIN_FIELDS}
    model = fill(family.model(family.config(encoder_config=encoder, **fields)), weights, source)
    # A tokenizer's own maximum is not a limit here: it may be the length of queries, and documents may be longer
    lengths = tokenizer.model_max_length, model.config.query_length, model.config.document_length
    tokenizer.model_max_length = max(lengths)
    return Checkpoint(model, family.processor.from_config(tokenizer, model.config), list(notes))


def fill(model, weights, source):
    """
    Put a checkpoint's weights, named as the model's, into a model in evaluation mode and in their own precision.
    Missing, unknown and misshapen weights are errors; only heads of pre-training are left out silently.
    """
    own = model.state_dict()
    unused = [re.compile(each) for each in [*(model._keys_to_ignore_on_load_unexpected or []), r"token_type_ids$"]]
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(
        name for name in weights.keys() - own.keys() if not any(pattern.search(name) for pattern in unused)
    )
    wrong = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if missing:
        raise ValueError(
            f"`{source}` lacks {len(missing)} weights, such as {missing[:3]} (names of `{type(model).__name__}`). "
            "They would stay random, so nothing is converted."
        )
    if unknown:
        raise ValueError(
            f"`{source}` has {len(unknown)} weights that `{type(model).__name__}` has no place for, such as "
            f"{unknown[:3]}. The converted model would differ without them."
        )
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"`{source}` has `{name}` of shape {tuple(weights[name].shape)}, but its configuration describes "
            f"{tuple(own[name].shape)}."
        )
    model.load_state_dict({name: weights[name] for name in own})
    dtypes = {weights[name].dtype for name in own if weights[name].is_floating_point()}
    return model.to(dtypes.pop() if len(dtypes) == 1 else torch.float32).eval()


__all__ = [
    "Checkpoint",
    "base_of",
    "build_retriever",
    "fill",
    "load_config",
    "load_tokenizer",
    "load_transformer",
    "read_json",
    "read_pickle",
    "read_weights",
    "under",
]
