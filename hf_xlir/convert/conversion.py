"""Checkpoints of other libraries, in and out."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download

from ..models.auto import check_processor, load_reader, load_retriever
from ..models.configuration_retriever import HF_XLIR_MODEL_TYPES
from .bge_m3 import HEAD, read_bge_m3
from .colbert import is_colbert, read_colbert, read_drdecr
from .dpr import read_dpr
from .export import export_pylate, export_sentence_transformers, export_transformers
from .fid import read_fid
from .files import Checkpoint, check_new, load_config, new_folder, read_json
from .modules import MODULES, SETTINGS
from .pylate import read_pylate
from .sentence_transformers import read_sentence_transformers


def _read_own(folder, tokenizer=None, **lengths):
    """A folder of this package, for export."""
    if load_config(folder).model_type == "fid_t5":
        if lengths:
            raise ValueError(f"`{folder}` has a reader, which takes none of {sorted(lengths)}.")
        return Checkpoint(*load_reader(folder, dtype="auto"), [])
    return Checkpoint(*load_retriever(folder, **lengths), [])


READERS = {
    "hf_xlir": _read_own,
    "colbert": read_colbert,
    "drdecr": read_drdecr,
    "pylate": read_pylate,
    "sentence-transformers": read_sentence_transformers,
    "dpr": read_dpr,
    "fid": read_fid,
    "bge-m3": read_bge_m3,
}
WRITERS = {
    "pylate": export_pylate,
    "sentence-transformers": export_sentence_transformers,
    "transformers": export_transformers,
}
FORMATS, TARGETS = tuple(READERS), ("hf_xlir", *WRITERS)
# Weights of other frameworks and exports, which no reader looks at
NOT_DOWNLOADED = ["*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "*.msgpack", "*.h5", "*.ot", "*.tflite", "*.gguf"]
# All that a repository given as `tokenizer` is asked for: its weights are not
OF_TOKENIZERS = ["*.json", "*.txt", "*.model", "*.jinja"]


class Conversion(NamedTuple):
    """What was converted: the format that was found, the model, its processor, and what the user should know."""

    format: str
    model: object
    processor: object
    notes: list[str]


def detect_format(path):
    r"""
    Which library wrote a checkpoint.

    Args:
        path (`str` or `os.PathLike`):
            A file or folder.

    Returns:
        `str`: `"hf_xlir"`, `"colbert"`, `"drdecr"`, `"pylate"`, `"sentence-transformers"`, `"dpr"`, `"fid"` or
        `"bge-m3"`. A folder of BGE-M3, which also is one of sentence-transformers, is the former.

    Raises:
        ValueError: If it is none of those.
        FileNotFoundError: If it is not there.

    Example:
    ```python
    >>> import json
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.convert import detect_format

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "config.json").write_text(json.dumps({"model_type": "dpr"}))
    ...     detect_format(folder)
    'dpr'

    ```
    """
    path = Path(path)
    if path.is_file():
        for format, suffixes in (("drdecr", (".dnn", ".model")), ("dpr", (".cp",))):
            if path.suffix in suffixes:
                return format
        raise ValueError(f"`{path}` does not say by its name what it is: give `format`, 'drdecr' or 'dpr'.")
    if not path.is_dir():
        raise FileNotFoundError(f"There is no file or folder `{path}`.")
    config = read_json(path / "config.json", default={})
    if config.get("model_type") in HF_XLIR_MODEL_TYPES:
        return "hf_xlir"
    if is_colbert(path):
        return "colbert"
    if (path / HEAD).is_file():
        return "bge-m3"
    if (path / MODULES).is_file():
        return _of_modules(path)
    if config.get("model_type") == "dpr":
        return "dpr"
    if {"FiDT5", "Retriever"} & set(config.get("architectures") or []):
        return "fid"
    raise ValueError(
        f"`{path}` is none of {list(FORMATS)}: it has no `artifact.metadata`, `{HEAD}` or `{MODULES}`, and its "
        f"`config.json` has model_type={config.get('model_type')!r} and architectures={config.get('architectures')}. "
        "Give `format` if you know it. A bare encoder needs no conversion: `from_pretrained` starts from it."
    )


def _of_modules(path):
    kind = read_json(path / SETTINGS, default={}).get("model_type", "SentenceTransformer")
    if kind == "ColBERT" or any(entry["type"].startswith("pylate.") for entry in read_json(path / MODULES)):
        return "pylate"
    if kind != "SentenceTransformer":
        raise ValueError(
            f"`{path}` has a `{kind}` of sentence-transformers; only a `SentenceTransformer` is converted."
        )
    return "sentence-transformers"


def convert_checkpoint(
    source,
    output_dir,
    format=None,
    to="hf_xlir",
    tokenizer=None,
    document_encoder=None,
    query_length=None,
    document_length=None,
    revision=None,
    token=None,
):
    r"""
    Convert a checkpoint of another library, or one of this package for another library. Embeddings stay the same.

    Args:
        source (`str` or `os.PathLike`):
            A folder, a file (`.dnn` and `.model` of PrimeQA, `.cp` of DPR) or a Hub repository.
        output_dir (`str` or `os.PathLike`):
            A new folder. It appears once all is written.
        format (`str`, *optional*):
            What `source` is, as [`detect_format`] names it. Found out by default.
        to (`"hf_xlir"`, `"pylate"`, `"sentence-transformers"` or `"transformers"`, *optional*):
            Who shall load what is written, this package by default. `"transformers"` is the encoder alone.
        tokenizer (`str`, *optional*):
            Folder or Hub repository of the tokenizer and, for a file, of the encoder's configuration, where `source`
            has none.
        document_encoder (`str`, *optional*):
            Folder or Hub repository of the other one of DPR's two encoders.
        query_length, document_length (`int`, *optional*):
            Most token ids of a query and a document, in place of those of the checkpoint.
        revision (`str`, *optional*):
            Branch, tag or commit of the repository `source`; its main branch by default. Of other repositories it is
            that.
        token (`str`, *optional*):
            For private and gated repositories, of `source`, `tokenizer` and `document_encoder`. By default that of
            `hf auth login`.

    Returns:
        [`Conversion`].

    Raises:
        ValueError: If a weight is missing, a pickle needs more than tensors and plain values, or something has no
            counterpart; nothing is written then.
        FileExistsError: If `output_dir` is there and not empty.
        FileNotFoundError: If `source` is not there.
        HfHubHTTPError: The Hub's own error, if a repository or revision is not there, or not for this `token`.

    Example:
    ```python
    >>> from hf_xlir.convert import convert_checkpoint

    >>> found = convert_checkpoint("lightonai/GTE-ModernColBERT-v1", "gte-moderncolbert")  # doctest: +SKIP
    >>> found.format  # doctest: +SKIP
    'pylate'

    ```
    """
    if to not in TARGETS:
        raise ValueError(f"`to` must be one of {list(TARGETS)}, got {to!r}.")
    check_new(output_dir)
    path, format = _located(source, format, revision, token)
    if format == to:
        raise ValueError(f"`{source}` is of the format {to!r} already.")
    model, processor, notes = _read(path, format, tokenizer, document_encoder, query_length, document_length, token)
    with new_folder(output_dir) as folder:
        if to == "hf_xlir":
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        else:
            notes = [*notes, *WRITERS[to](model, processor, folder)]
    return Conversion(format, model, processor, notes)


def read_checkpoint(
    source,
    format=None,
    tokenizer=None,
    document_encoder=None,
    query_length=None,
    document_length=None,
    revision=None,
    token=None,
):
    """Convert a checkpoint without writing it: a [`Conversion`]. Arguments and errors of [`convert_checkpoint`]."""
    path, format = _located(source, format, revision, token)
    return Conversion(format, *_read(path, format, tokenizer, document_encoder, query_length, document_length, token))


def _located(source, format, revision, token):
    """The path of a checkpoint on this machine, and its format."""
    if format is not None and format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}, got {format!r}.")
    if revision is not None and Path(source).exists():
        raise ValueError(f"`revision` is of a repository, but `{source}` is there on the disk: leave it out.")
    path = _local(source, revision=revision, token=token)
    return path, format or detect_format(path)


def _read(path, format, tokenizer, document_encoder, query_length, document_length, token):
    """Model, processor and notes of a checkpoint on this machine."""
    _check_kind(path, format)
    if tokenizer is not None and format == "hf_xlir":
        raise ValueError(f"`{path}` has its own tokenizer: leave `tokenizer` out.")
    options = {"query_length": query_length, "document_length": document_length}
    options = {name: value for name, value in options.items() if value is not None}
    if document_encoder is not None:
        if format != "dpr":
            raise ValueError(f"`document_encoder` is for 'dpr', but `{path}` is {format!r}.")
        options["document_encoder"] = _local(document_encoder, token=token)
    if tokenizer is not None and not Path(tokenizer).exists():
        tokenizer = _download(tokenizer, (0, 1), allow_patterns=OF_TOKENIZERS, token=token)
    model, processor, notes = READERS[format](path, tokenizer=tokenizer, **options)
    if model.config.model_type != "fid_t5":
        check_processor(processor, model)
    return model, processor, notes


def _check_kind(path, format):
    """Raise for a file where a format is a folder, and the other way round."""
    if path.is_file() and format not in ("drdecr", "dpr"):
        raise ValueError(f"`{path}` is a file, but {format!r} is a folder.")
    if path.is_dir() and format == "drdecr":
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".dnn", ".model"))
        raise ValueError(f"`{path}` is a folder, but 'drdecr' is one file: give one of {files} in it.")


def _local(source, **of_repository):
    """The path of a file or folder, or of a download; a folder around one checkpoint file is that file."""
    path = Path(source)
    if not path.exists():
        path = _download(source, ignore_patterns=NOT_DOWNLOADED, **of_repository)
    if path.is_dir() and not (path / "config.json").is_file():
        files = [*path.glob("*.dnn"), *path.glob("*.cp")]
        return files[0] if len(files) == 1 else path
    return path


def _download(source, slashes=(1,), **arguments):
    """The folder of a repository's files. Old repositories, such as `xlm-roberta-base`, have names without a slash."""
    path = Path(source)
    if str(source).count("/") not in slashes or path.suffix in (".dnn", ".model", ".cp") or path.is_absolute():
        raise FileNotFoundError(f"There is no file or folder `{source}`, and it is no `owner/name` of the Hub.")
    return Path(snapshot_download(str(source), **arguments))


__all__ = ["FORMATS", "TARGETS", "Conversion", "convert_checkpoint", "detect_format", "read_checkpoint"]
