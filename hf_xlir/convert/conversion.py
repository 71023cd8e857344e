"""Reading checkpoints of other libraries, converting them, and exporting this package's models."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download

from ..models.auto import FAMILIES, check_processor, family_of, load_reader, load_retriever
from ..utils.checks import check_choice
from ..utils.files import check_new, new_folder
from .checkpoints import Checkpoint, load_config, read_json
from .colbert import BGE_M3_HEAD, is_colbert, read_bge_m3, read_colbert, read_drdecr
from .dpr_fid import read_dpr, read_fid
from .export import export_pylate, export_sentence_transformers, export_transformers
from .sentence_transformers import MODULES, module_format, read_pylate, read_sentence_transformers


def _read_own(folder, tokenizer=None, **lengths):
    """A folder of this package, for export."""
    family = FAMILIES.get(load_config(folder).model_type)
    if family is not None and family.role == "reader":
        if lengths:
            raise ValueError(f"`{folder}` has a reader: leave {sorted(lengths)} out.")
        return Checkpoint(*load_reader(folder, dtype="auto"), [])
    return Checkpoint(*load_retriever(folder, **lengths), [])


_READERS = {
    "hf_xlir": _read_own,
    "colbert": read_colbert,
    "drdecr": read_drdecr,
    "pylate": read_pylate,
    "sentence-transformers": read_sentence_transformers,
    "dpr": read_dpr,
    "fid": read_fid,
    "bge-m3": read_bge_m3,
}
_WRITERS = {
    "pylate": export_pylate,
    "sentence-transformers": export_sentence_transformers,
    "transformers": export_transformers,
}
FORMATS, TARGETS = tuple(_READERS), ("hf_xlir", *_WRITERS)
_FILE_FORMATS = {".dnn": "drdecr", ".model": "drdecr", ".cp": "dpr"}
# Weights of other frameworks and exports, which no reader needs
_NOT_DOWNLOADED = ["*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "*.msgpack", "*.h5", "*.ot", "*.tflite", "*.gguf"]
# The only files that are downloaded from a repository given as `tokenizer`
_TOKENIZER_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


class Conversion(NamedTuple):
    """
    A converted checkpoint.

    Attributes:
        format (`str`): The format of the source.
        model (`PreTrainedModel`): The model, in evaluation mode.
        processor (`ProcessorMixin`): Its processor.
        notes (`list[str]`): What the user should know, for example settings that were lost.
    """

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
        `"bge-m3"`. BGE-M3's folder is also one of sentence-transformers; `"bge-m3"` is returned.

    Raises:
        ValueError: If the format is not known.
        FileNotFoundError: If the path does not exist.

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
        if path.suffix not in _FILE_FORMATS:
            raise ValueError(
                f"The format of `{path}` is unknown: expected a name with {', '.join(_FILE_FORMATS)}, or `format`, "
                "'drdecr' or 'dpr'."
            )
        return _FILE_FORMATS[path.suffix]
    if not path.is_dir():
        raise FileNotFoundError(f"There is no file or folder `{path}`.")
    config = read_json(path / "config.json", default={})
    if config.get("model_type") in FAMILIES:
        return "hf_xlir"
    if is_colbert(path):
        return "colbert"
    if (path / BGE_M3_HEAD).is_file():
        return "bge-m3"
    if (path / MODULES).is_file():
        return module_format(path)
    if config.get("model_type") == "dpr":
        return "dpr"
    if {"FiDT5", "Retriever"} & set(config.get("architectures") or []):
        return "fid"
    raise ValueError(
        f"The format of `{path}` is unknown: expected one of {list(FORMATS)}. It has no `artifact.metadata`, "
        f"`{BGE_M3_HEAD}` or `{MODULES}`, and its `config.json` has model_type={config.get('model_type')!r} and "
        f"architectures={config.get('architectures')}. Give `format` if you know it. A bare encoder needs no "
        "conversion: `from_pretrained` starts from it."
    )


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
    r"""
    Load a checkpoint of another library as a model of this package, without writing files. Embeddings stay the same.

    Args:
        source (`str` or `os.PathLike`):
            A folder, a file (`.dnn` and `.model` of PrimeQA, `.cp` of DPR) or a Hub repository.
        format (`str`, *optional*):
            The format of `source`, as [`detect_format`] names it. Detected by default.
        tokenizer (`str`, *optional*):
            Folder or Hub repository of the tokenizer, if `source` has none. For a file it also gives the encoder's
            configuration.
        document_encoder (`str`, *optional*):
            Folder or Hub repository of the second of DPR's two encoders.
        query_length, document_length (`int`, *optional*):
            Most token ids per query and document. Defaults to the checkpoint's.
        revision (`str`, *optional*):
            Branch, tag or commit of the repository `source`. Defaults to its main branch. Other repositories are
            always read at their main branch.
        token (`str`, *optional*):
            Access token for private and gated repositories. Defaults to the token of `hf auth login`.

    Returns:
        [`Conversion`]

    Raises:
        ValueError: If a weight is missing, a pickle needs more than tensors and plain values, or a setting has no
            counterpart here.
        FileNotFoundError: If `source` does not exist.
        HfHubHTTPError: If a repository or revision does not exist or is not accessible with `token`.

    Example:
    ```python
    >>> from hf_xlir.convert import read_checkpoint

    >>> model = read_checkpoint("lightonai/GTE-ModernColBERT-v1").model  # doctest: +SKIP

    ```
    """
    path, format = _locate(source, format, revision, token)
    return _read(source, path, format, tokenizer, document_encoder, query_length, document_length, token)


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
            A new folder. It appears when it is complete.
        format (`str`, *optional*):
            The format of `source`, as [`detect_format`] names it. Detected by default.
        to (`"hf_xlir"`, `"pylate"`, `"sentence-transformers"` or `"transformers"`, *optional*):
            The library that loads `output_dir`. Defaults to this package. `"transformers"` is the encoder alone.
        tokenizer, document_encoder, query_length, document_length, revision, token (*optional*):
            As in [`read_checkpoint`].

    Returns:
        [`Conversion`]

    Raises:
        ValueError: As in [`read_checkpoint`], or if a setting has no counterpart in the library `to`. Nothing is
            written then.
        FileExistsError: If `output_dir` exists and is not empty.
        FileNotFoundError: If `source` does not exist.
        HfHubHTTPError: If a repository or revision does not exist or is not accessible with `token`.

    Example:
    ```python
    >>> from hf_xlir.convert import convert_checkpoint

    >>> found = convert_checkpoint("lightonai/GTE-ModernColBERT-v1", "gte-moderncolbert")  # doctest: +SKIP
    >>> found.format  # doctest: +SKIP
    'pylate'

    ```
    """
    check_choice("to", to, TARGETS)
    check_new(output_dir)
    path, format = _locate(source, format, revision, token)
    if format == to:
        raise ValueError(f"`{source}` has the format {to!r} already.")
    found = _read(source, path, format, tokenizer, document_encoder, query_length, document_length, token)
    return _write(found, output_dir, to)


def export_checkpoint(model, output_dir, to, processor=None, revision=None, token=None):
    r"""
    Write a model of this package for another library. Embeddings stay the same.

    Args:
        model (`PreTrainedModel`, `str` or `os.PathLike`):
            The model, or its folder or Hub repository.
        output_dir (`str` or `os.PathLike`):
            A new folder. It appears when it is complete.
        to (`"pylate"`, `"sentence-transformers"` or `"transformers"`):
            The library that loads it. A ColBERT goes to PyLate, a dual encoder to sentence-transformers, and each
            family to plain transformers: a retriever's encoder alone, or a reader's backbone.
        processor (`ProcessorMixin`, *optional*):
            The processor, where `model` is a model.
        revision, token (`str`, *optional*):
            As in [`read_checkpoint`], where `model` is a repository.

    Returns:
        [`Conversion`], whose notes say what the other library does differently.

    Raises:
        ValueError: If the model's family or a setting has no counterpart in that library, or the processor does not
            match. Nothing is written then.
        FileExistsError: If `output_dir` exists and is not empty.

    Example:
    ```python
    >>> from hf_xlir.convert import export_checkpoint

    >>> export_checkpoint("my-colbert", "my-colbert-pylate", "pylate")  # doctest: +SKIP

    ```
    """
    check_choice("to", to, tuple(_WRITERS))
    if not hasattr(model, "state_dict"):
        if processor is not None:
            raise ValueError(f"`{model}` has its own processor: leave `processor` out.")
        return convert_checkpoint(model, output_dir, "hf_xlir", to, revision=revision, token=token)
    check_new(output_dir)
    if family_of(model).role == "retriever":
        check_processor(processor, model)
    return _write(Conversion("hf_xlir", model, processor, []), output_dir, to)


def _locate(source, format, revision, token):
    """The path of a checkpoint, downloaded if necessary, and its format."""
    if format is not None:
        check_choice("format", format, FORMATS)
    if revision is not None and Path(source).exists():
        raise ValueError(f"`revision` is for repositories, but `{source}` is on the disk: leave it out.")
    path = _local(source, revision=revision, token=token)
    format = format or detect_format(path)
    if path.is_file() and format not in _FILE_FORMATS.values():
        raise ValueError(f"`{path}` is a file, but {format!r} is a folder.")
    if path.is_dir() and format == "drdecr":
        files = sorted(file.name for file in path.iterdir() if _FILE_FORMATS.get(file.suffix) == "drdecr")
        raise ValueError(f"`{path}` is a folder, but 'drdecr' is a file: give one of {files} in it.")
    return path, format


def _read(source, path, format, tokenizer, document_encoder, query_length, document_length, token):
    if tokenizer is not None and format == "hf_xlir":
        raise ValueError(f"`{source}` has its own tokenizer: leave `tokenizer` out.")
    options = {"query_length": query_length, "document_length": document_length}
    options = {name: value for name, value in options.items() if value is not None}
    if document_encoder is not None:
        if format != "dpr":
            raise ValueError(f"`document_encoder` is for 'dpr', but `{source}` is {format!r}: leave it out.")
        options["document_encoder"] = _local(document_encoder, token=token)
    if tokenizer is not None and not Path(tokenizer).exists():
        tokenizer = _download(tokenizer, (0, 1), allow_patterns=_TOKENIZER_FILES, token=token)
    found = Conversion(format, *_READERS[format](path, tokenizer=tokenizer, **options))
    if family_of(found.model).role == "retriever":
        check_processor(found.processor, found.model)
    return found


def _write(found, output_dir, to):
    notes, family = found.notes, family_of(found.model)
    if to != "hf_xlir" and to not in family.exports:
        raise ValueError(
            f"A model of type {family.config.model_type!r} can be exported to {list(family.exports)}, got {to!r}."
        )
    with new_folder(output_dir) as folder:
        if to == "hf_xlir":
            found.model.save_pretrained(folder)
            found.processor.save_pretrained(folder)
        else:
            notes = [*notes, *_WRITERS[to](found.model, found.processor, folder)]
    return found._replace(notes=notes)


def _local(source, **of_repository):
    """The path of a file or folder, or of a download. A folder with one checkpoint file stands for the file."""
    path = Path(source)
    if not path.exists():
        path = _download(source, ignore_patterns=_NOT_DOWNLOADED, **of_repository)
    if path.is_dir() and not (path / "config.json").is_file():
        files = [*path.glob("*.dnn"), *path.glob("*.cp")]
        return files[0] if len(files) == 1 else path
    return path


def _download(source, slashes=(1,), **arguments):
    """The folder of a repository's files. Old repositories, such as `xlm-roberta-base`, have names without a slash."""
    path = Path(source)
    if str(source).count("/") not in slashes or path.suffix in _FILE_FORMATS or path.is_absolute():
        raise FileNotFoundError(f"There is no file or folder `{source}`, nor is it an `owner/name` of the Hub.")
    return Path(snapshot_download(str(source), **arguments))


__all__ = [
    "FORMATS",
    "TARGETS",
    "Conversion",
    "convert_checkpoint",
    "detect_format",
    "export_checkpoint",
    "read_checkpoint",
]
