"""Folders and repositories with a whole system: they appear at once, and are read as they are used."""

import json
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from datasets import Dataset, load_from_disk
from datasets.table import InMemoryTable
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ..index.bm25 import BM25Index
from ..utils.files import write_text
from ..utils.storage import DRAFT_LIFETIME
from .configuration_system import RetrievalSystemConfig
from .model_part import ModelPart
from .reader import Reader
from .reranker import Reranker
from .retriever import KINDS, Retriever
from .system import RetrievalSystem
from .system_config import read_config


PARTS = ("passages", "retriever", "index", "reranker", "reader")
TAGGED = re.compile(rf"({'|'.join(PARTS)})(-\w+)?-[0-9a-f]{{12}}")


def is_system(path, **hub_arguments):
    """Whether a folder or repository holds a whole system rather than one model."""
    return PreTrainedConfig.get_config_dict(path, **hub_arguments)[0].get("model_type") == "xlir_system"


def save_system(system, path, task, defaults):
    r"""
    Write a system to a folder, all at once: until the end, readers of one already there see the old one.

    Each part gets a folder of its own, of a name that is not taken, and `config.json` names them. Replacing that file
    is the one step that publishes everything; then the old parts go.

    Args:
        system ([`RetrievalSystem`]):
            The system.
        path (`str` or `os.PathLike`):
            The folder, made if absent. What is in it otherwise is left alone.
        task (`str`):
            What the system is for.
        defaults (`dict`):
            Arguments of a call, numbers and strings.

    Raises:
        ValueError: If the folder holds a model or something else with a `config.json`, or a part cannot be saved.
        OSError: If the folder cannot be written to, or is full; what it held is unchanged.
    """
    path, tag = Path(path), uuid.uuid4().hex[:12]
    if path.exists() and not path.is_dir():
        raise ValueError(f"`{path}` is a file: give a folder.")
    before = _replaceable(path)
    for name, each in system.retrievers.items():
        if isinstance(each.index, BM25Index) and each.index.tokenizer_name is None:
            raise ValueError(
                f"The BM25 index of `{name}` has a `tokenize` of its own, and a function is not saved: build it with "
                "the default one, or save the parts apart."
            )
    for name, value in defaults.items():
        if not isinstance(value, str | int | float | bool | list | dict | None):
            raise ValueError(
                f"The default of `{name}` is a `{type(value).__name__}`, which is not saved: leave it out."
            )
    for part in system.model_parts():
        if part.is_within(path):  # of the system that is replaced there
            part.get()
    path.mkdir(parents=True, exist_ok=True)
    written, folders = [], {}

    def write(part, save, key=None):
        """Write a part to a folder of its own, once, and return the name of that folder."""
        if key is None or key not in folders:
            name = part if not (path / part).exists() else f"{part}-{tag}"
            written.append(path / name)
            save(path / name)
            folders[key] = name
        return folders[key]

    try:
        several = len(system.retrievers) > 1
        retrievers = []
        for name, each in system.retrievers.items():
            suffix = f"-{name}" if several else ""
            entry = {
                "name": name,
                "kind": each.kind,
                "index": write(f"index{suffix}", each.index.save, id(each.index)),
            }
            if each.model is not None:
                entry["model"] = write(f"retriever{suffix}", each.model.save, each.model.key)
            retrievers.append(entry)
        reranker, reader = system.reranker, system.reader
        config = RetrievalSystemConfig(
            task=task,
            passages=write("passages", lambda folder: _save_passages(system, folder), "passages"),
            retrievers=retrievers,
            fusion=system.fusion,
            reranker=None if reranker is None else write("reranker", reranker.model.save, reranker.model.key),
            reader=None if reader is None else write("reader", reader.model.save, reader.model.key),
            defaults=defaults,
            save_id=tag,
        )
        write_text(path / CONFIG_NAME, json.dumps(config.parts(), indent=2))
    except BaseException:
        for folder in written:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    _remove_what_was_replaced(path, before, config)


def open_system(path, with_reader=True, dtype=None, revision=None, token=None, cache_dir=None, local_files_only=False):
    r"""
    A system that [`save_system`] wrote. Indexes and passages are memory-mapped; of models, only
    the configurations are read, and weights when they are used first.

    Args:
        path (`str` or `os.PathLike`):
            Folder, or id of a repository, whose parts are downloaded now.
        with_reader (`bool`, *optional*, defaults to `True`):
            Whether to take the reader along if there is one.
        dtype (`str` or `torch.dtype`, *optional*):
            Type of all models' weights; by default that of the files.
        revision, token, cache_dir, local_files_only (*optional*):
            As for `from_pretrained`.

    Returns:
        [`RetrievalSystem`].

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no system or one of a later version, a part is missing or damaged, or parts do not fit
            together.
    """
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    if os.path.isdir(path):
        folder = Path(path).absolute()  # weights are read later, wherever the process is then
    else:
        check_is_repository(path)
        folder = Path(hf_hub_download(str(path), CONFIG_NAME, revision=revision, **hub)).parent
        patterns = [CONFIG_NAME, *(f"{name}/*" for name in _parts(read_config(folder, path), with_reader))]
        # Named by its commit, whatever was pushed meanwhile
        snapshot_download(str(path), allow_patterns=patterns, revision=folder.name, **hub)
    while True:
        if not (folder / CONFIG_NAME).exists():
            raise ValueError(f"`{path}` has no {CONFIG_NAME}: no system was saved there, or not to the end.")
        unchanged = _Unchanged(folder / CONFIG_NAME)
        try:
            config = read_config(folder, path)
            system = _open_parts(folder, path, config, with_reader, dtype, unchanged)
            unchanged()
            return system
        except (OSError, ValueError):
            if not unchanged.was_replaced():  # nobody saved there meanwhile: the fault is the folder's
                raise


def check_is_repository(path):
    """Raise for a path that is no folder and cannot be a repository's id."""
    try:
        validate_repo_id(str(path))
    except HFValidationError as error:
        raise FileNotFoundError(f"There is no folder `{path}`, and no repository has such an id.") from error


class _Unchanged:
    """Raises when another system was saved in the folder since: its parts do not belong to those read before."""

    def __init__(self, file):
        self.file, self.before = file, file.read_bytes()

    def was_replaced(self):
        """Whether the folder has another configuration by now."""
        return self.file.exists() and self.file.read_bytes() != self.before

    def __call__(self):
        if self.was_replaced() or not self.file.exists():
            raise ValueError(
                f"`{self.file.parent}` was removed or saved anew since this pipeline was loaded from there: load it "
                "again."
            )


def _parts(config, with_reader):
    """Names of the folders that are wanted."""
    return [name for name in config.folders() if with_reader or name != config.reader]


def _open_parts(folder, path, config, with_reader, dtype, unchanged):
    missing = [name for name in _parts(config, with_reader) if not (folder / name).is_dir()]
    if missing:
        raise ValueError(f"`{path}` lacks {missing}, which its {CONFIG_NAME} names: copy or download it again, whole.")
    opened = {}

    def model(name, kind):
        if name not in opened:
            opened[name] = ModelPart.open(folder / name, kind, dtype, unchanged)
        return opened[name]

    retrievers = {}
    for entry in config.retrievers:
        index = KINDS[entry["kind"]][0].load(folder / entry["index"])
        retrievers[entry["name"]] = Retriever(index, model(entry["model"], "retriever") if "model" in entry else None)
    return RetrievalSystem(
        _load_passages(folder / config.passages),
        retrievers,
        config.fusion,
        None if config.reranker is None else Reranker(model(config.reranker, "reranker")),
        None if config.reader is None or not with_reader else Reader(model(config.reader, "reader")),
        config.defaults,
    )


def _load_passages(folder):
    """Passages from the disk; what Datasets and Arrow say of a damaged folder is no remedy."""
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise ValueError(f"`{folder}` is damaged ({error}): copy or download it again.") from error


def _save_passages(system, folder):
    """The columns that results have, without vectors, which are in the index."""
    passages = system.passages.select_columns(system.columns)
    for name in passages.list_indexes():  # of the copy, which could not be saved with them
        passages.drop_index(name)
    # Without its files' names: Datasets refuses to write where they were, though they may be gone and only mapped
    table = InMemoryTable(passages.data.table)
    passages = Dataset(table, passages.info, passages.split, passages._indices)
    passages.save_to_disk(str(folder))


def _replaceable(path):
    """The configuration of the system that is in a folder already, or `None`; raises for anything else."""
    if not (path / CONFIG_NAME).exists():
        return None
    values, _ = PreTrainedConfig.get_config_dict(path)
    if values.get("model_type") != "xlir_system":
        raise ValueError(
            f"`{path}` holds a model of type {values.get('model_type')!r}, whose {CONFIG_NAME} would be overwritten: "
            "give another folder."
        )
    return RetrievalSystemConfig.from_pretrained(path)


def _remove_what_was_replaced(path, before, config):
    """The parts of the system that was there, and those of writers that were killed a day ago or earlier."""
    old = set() if before is None else {name for name in before.folders() if re.fullmatch(r"[\w-]+", name)}
    for folder in path.iterdir():
        if TAGGED.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > DRAFT_LIFETIME:
            old.add(folder.name)
    for name in old - set(config.folders()):
        shutil.rmtree(path / name, ignore_errors=True)


__all__ = ["PARTS", "check_is_repository", "is_system", "open_system", "save_system"]
