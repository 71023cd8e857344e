"""Reading other libraries' files without running what is in them, and writing a folder that is whole or not there."""

import json
import os
import pickle
import re
import shutil
import uuid
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer


# Random states that training scripts save beside the weights: arrays of numbers, made without running anything
_RECONSTRUCT = np._core.multiarray._reconstruct
NUMPY_ARRAYS = [
    *(np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd")),
    *((_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
# Of a transformers configuration: where it came from, not what it is
ORIGIN_FIELDS = ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path")

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


class Checkpoint(NamedTuple):
    """What a reader of a format gives: a model, its processor, and what the user should know of the two."""

    model: torch.nn.Module
    processor: object
    notes: list[str]


def read_json(path, default=None):
    """
    What a JSON file holds, or `default` where there is no such file.

    Raises:
        ValueError: If it is no JSON object or list.
        FileNotFoundError: If it is absent and there is no default.
    """
    path = Path(path)
    if not path.is_file():
        if default is None:
            raise FileNotFoundError(f"`{path.parent}` has no `{path.name}`: copy the folder again.")
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` is no JSON ({error}): copy it again.") from None


def read_pickle(path):
    r"""
    What a file by `torch.save` holds, if it is tensors, arrays of numbers and plain values.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Raises:
        ValueError: If the pickle needs more than that: it is not loaded, since loading would run what it names. Or if
            the file is damaged.

    Example:
    ```python
    >>> import tempfile
    >>> import torch
    >>> from hf_xlir.convert.files import read_pickle

    >>> with tempfile.NamedTemporaryFile() as file:
    ...     torch.save({"epoch": 3}, file.name)
    ...     read_pickle(file.name)
    {'epoch': 3}

    ```
    """
    try:
        with torch.serialization.safe_globals(NUMPY_ARRAYS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, EOFError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        needs = f"`{named[1]}`" if named else "something else, or is damaged"
        raise ValueError(
            f"`{path}` is refused: beside tensors and plain values its pickle needs {needs}, and loading that could "
            "run code. If you trust the file, load it with the library that wrote it and save its weights alone."
        ) from None
    except RuntimeError as error:  # of an archive that ends too early, say
        raise ValueError(f"`{path}` is damaged ({str(error).splitlines()[0][:120]}): copy it again.") from None


def read_weights(folder):
    r"""
    All weights of a folder: `model.safetensors` or, where there is none, `pytorch_model.bin`, in one file or several.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.

    Returns:
        `dict[str, torch.Tensor]`: On the CPU.

    Raises:
        FileNotFoundError: If it has no such file.
        ValueError: If a pickle needs more than tensors.
    """
    folder = Path(folder)
    for name, read in (("model.safetensors", load_file), ("pytorch_model.bin", read_pickle)):
        index = folder / f"{name}.index.json"
        files = [folder / name] if (folder / name).is_file() else []
        if not files and index.is_file():
            files = [folder / part for part in sorted(set(read_json(index)["weight_map"].values()))]
        if files:
            return {key: value for file in files for key, value in read(file).items()}
    raise FileNotFoundError(f"`{folder}` has no weights: neither `model.safetensors` nor `pytorch_model.bin`.")


def under(weights, prefix):
    """The weights whose names begin with `prefix` and a dot, without them."""
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in weights.items() if name.startswith(start)}


def load_encoder(folder):
    r"""
    The transformer of a folder, complete.

    Raises:
        ValueError: If its weights are incomplete, or it is an encoder-decoder, an adapter or one with code of its own.
    """
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
    """The transformers configuration of a folder or repository, whose own code is never run."""
    return AutoConfig.from_pretrained(path, trust_remote_code=False)


def encoder_fields(config):
    """A transformers configuration as the `encoder_config` of a retriever."""
    return {name: value for name, value in config.to_dict().items() if name not in ORIGIN_FIELDS}


def load_tokenizer(path, **kwargs):
    """
    The tokenizer of a folder or repository.

    Raises:
        ValueError: If it has none.
    """
    hint = "give `tokenizer`, a folder or Hub repository that has it."
    # For some families transformers makes up an empty tokenizer where there is no vocabulary
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in VOCABULARIES):
        raise ValueError(f"`{path}` has no tokenizer ({', '.join(VOCABULARIES)}): {hint}")
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as error:
        raise ValueError(f"No tokenizer can be loaded from `{path}`: {hint} ({error})") from None


def make_processor(processor_class, tokenizer, config):
    """
    The processor that matches a model. The most that a tokenizer says it takes is no limit here: where one library
    wrote down the length of queries, say, another one's documents may be longer.
    """
    tokenizer.model_max_length = max(tokenizer.model_max_length, config.query_length, config.document_length)
    return processor_class.from_config(tokenizer, config)


def fill(model, weights, source):
    r"""
    Put all of a checkpoint's weights into a model, in evaluation mode and in their own precision.

    Args:
        model (`PreTrainedModel`):
            The model.
        weights (`dict[str, torch.Tensor]`):
            By the model's own names.
        source (`str` or `os.PathLike`):
            Where they are from, for messages.

    Raises:
        ValueError: If one is missing, of another shape or too many. Left out without a word are only the heads of
            pre-training, which no retriever uses.
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
            "They would be random, so nothing is converted."
        )
    if unknown:
        raise ValueError(
            f"`{source}` has {len(unknown)} weights that `{type(model).__name__}` has no place for, such as "
            f"{unknown[:3]}: without them it would be another model."
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


def check_new(path):
    """
    Raise if a folder that shall be written is there already.

    Raises:
        FileExistsError: If it is there and not empty.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"`{path}` is there already: give another folder, or remove it first.")


@contextmanager
def new_folder(path):
    """A folder to write into, beside `path`; it gets that name once all is written, and goes if something fails."""
    path = Path(path)
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.unfinished-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        yield unfinished
        if path.exists():
            path.rmdir()
        os.replace(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


__all__ = [
    "Checkpoint",
    "check_new",
    "encoder_fields",
    "fill",
    "load_config",
    "load_encoder",
    "load_tokenizer",
    "make_processor",
    "new_folder",
    "read_json",
    "read_pickle",
    "read_weights",
    "under",
]
