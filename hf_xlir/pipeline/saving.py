"""Folders and repositories with a whole system: they appear at once, and are read as they are used."""

import json
import os
import re
import shutil
import time
import uuid
from dataclasses import fields
from pathlib import Path

from datasets import Dataset, load_from_disk
from datasets.table import InMemoryTable
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ..index.base import load_index
from ..index.fusion import FUSION_OPTIONS
from ..index.sharing import check_saveable as check_index_saveable
from ..utils.files import write_text
from ..utils.storage import DRAFT_LIFETIME
from .configuration_system import FORMAT_VERSION, RetrievalSystemConfig
from .model_part import ForeignEncoder, ModelPart, check_is_repository, check_path
from .reader import Reader
from .reranker import Reranker
from .retriever import Retriever
from .system import RetrievalSystem


PARTS = ("passages", "retriever", "index", "reranker", "reader")
TAGGED = re.compile(rf"({'|'.join(PARTS)})(-\w+)?-[0-9a-f]{{12}}")
RETRIEVER_KEYS = ("name", "kind", "index", "model")
# Keys that transformers adds to a `config.json`, without meaning for a system
FROM_TRANSFORMERS = ("model_type", "auto_map", "custom_pipelines", "_name_or_path", "_commit_hash")


def load_model(path, with_reader=False, dtype=None, trust_remote_code=False, **hub_arguments):
    """What a folder or repository holds: a [`RetrievalSystem`], or the [`ModelPart`] of a retriever."""
    check_path(path)
    if PreTrainedConfig.get_config_dict(path, **hub_arguments)[0].get("model_type") == "xlir_system":
        return open_system(path, with_reader, dtype, **hub_arguments)
    return ModelPart.open(path, "retriever", dtype, trust_remote_code=trust_remote_code, **hub_arguments)


def check_saveable(system, defaults):
    """Raise, before anything is written, if a part of a system cannot be saved."""
    for name, each in system.retrievers.items():
        check_index_saveable(each.index)
        if isinstance(each.model, ForeignEncoder):
            raise ValueError(
                f"The encoder of `{name}`, a `{each.model.model_type}`, cannot be saved with the system: convert it "
                "with `hf_xlir.convert`, or save the parts of the pipeline separately."
            )
    for name, value in defaults.items():
        if not isinstance(value, str | int | float | bool | list | dict | None):
            raise ValueError(f"The default of `{name}`, a `{type(value).__name__}`, cannot be saved: leave it out.")


def save_system(system, path, task, defaults):
    """
    Write a system to a folder at once: until the end, readers of a system that was there see the old one.

    Each part gets a folder with a new name, and `config.json` names these folders. Replacing that file is the one step
    that publishes everything. Then the old parts are removed.
    """
    path, tag = Path(path), uuid.uuid4().hex[:12]
    if path.exists() and not path.is_dir():
        raise ValueError(f"`{path}` is a file: give a folder.")
    before = _replaceable(path)
    check_saveable(system, defaults)
    for part in system.model_parts():
        if part.is_within(path):  # part of the system that is replaced there
            part.get()
    path.mkdir(parents=True, exist_ok=True)
    written, folders = [], {}

    def write(part, save, key):
        """Write a part to a folder, once per key, and return the folder's name."""
        if key not in folders:
            name = part if not (path / part).exists() else f"{part}-{tag}"
            written.append(path / name)
            save(path / name)
            folders[key] = name
        return folders[key]

    def write_model(name, owner):
        return None if owner is None else write(name, owner.model.save, owner.model.key)

    try:
        retrievers = []
        for name, each in system.retrievers.items():
            suffix = f"-{name}" if len(system.retrievers) > 1 else ""
            index = write(f"index{suffix}", each.index.save, id(each.index))
            entry = {"name": name, "kind": each.kind, "index": index}
            if each.model is not None:
                entry["model"] = write_model(f"retriever{suffix}", each)
            retrievers.append(entry)
        config = RetrievalSystemConfig(
            task=task,
            passages=write("passages", lambda folder: _save_passages(system, folder), "passages"),
            retrievers=retrievers,
            fusion=system.fusion,
            reranker=write_model("reranker", system.reranker),
            reader=write_model("reader", system.reader),
            defaults=defaults,
            save_id=tag,
        )
        write_text(path / CONFIG_NAME, json.dumps(config.parts(), indent=2))
    except BaseException:
        for folder in written:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    _remove_old_parts(path, before, config)


def open_system(path, with_reader=True, dtype=None, revision=None, token=None, cache_dir=None, local_files_only=False):
    """
    Open a system that [`save_system`] wrote, from a folder or repository, whose parts are downloaded now. Indexes and
    passages are memory-mapped. Models' configurations are read now, their weights at first use.
    """
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    if os.path.isdir(path):
        folder = Path(path).absolute()  # weights are read later, when the working directory may be another
    else:
        check_is_repository(path)
        folder = Path(hf_hub_download(str(path), CONFIG_NAME, revision=revision, **hub)).parent
        patterns = [CONFIG_NAME, *(f"{name}/*" for name in _parts(_read_config(folder, path), with_reader))]
        # The folder is named by the commit, so that a later push does not mix in
        snapshot_download(str(path), allow_patterns=patterns, revision=folder.name, **hub)
    while True:
        if not (folder / CONFIG_NAME).exists():
            raise ValueError(f"`{path}` has no {CONFIG_NAME}: no system was saved there completely.")
        unchanged = _Unchanged(folder / CONFIG_NAME)
        try:
            config = _read_config(folder, path)
            system = _open_parts(folder, path, config, with_reader, dtype, unchanged)
            unchanged()
            return system
        except (OSError, ValueError):
            if not unchanged.was_replaced():  # a concurrent save is not the reason
                raise


class _Unchanged:
    """Raises if another system was saved in the folder since: its parts do not belong to those read before."""

    def __init__(self, file):
        self.file, self.before = file, file.read_bytes()

    def was_replaced(self):
        """Whether the folder now has another configuration."""
        return self.file.exists() and self.file.read_bytes() != self.before

    def __call__(self):
        if self.was_replaced() or not self.file.exists():
            raise ValueError(
                f"`{self.file.parent}` was removed or saved again since this pipeline was loaded from there: load it "
                "again."
            )


def _parts(config, with_reader):
    """Names of the folders that are wanted."""
    return [name for name in config.folders() if with_reader or name != config.reader]


def _open_parts(folder, path, config, with_reader, dtype, unchanged):
    missing = [name for name in _parts(config, with_reader) if not (folder / name).is_dir()]
    if missing:
        raise ValueError(f"`{path}` lacks {missing}, which its {CONFIG_NAME} names: copy or download it again.")
    opened = {}

    def model(name, kind):
        if name not in opened:
            opened[name] = ModelPart.open(folder / name, kind, dtype, unchanged)
        return opened[name]

    retrievers = {}
    for entry in config.retrievers:
        index = load_index(folder / entry["index"])
        if index.kind != entry["kind"]:
            raise ValueError(
                f"`{folder / entry['index']}` holds an index of kind {index.kind!r}, but the {CONFIG_NAME} of "
                f"`{path}` names {entry['kind']!r}: copy or download it again."
            )
        retrievers[entry["name"]] = Retriever(index, model(entry["model"], "retriever") if "model" in entry else None)
    return RetrievalSystem(
        _load_passages(folder / config.passages),
        retrievers,
        config.fusion,
        None if config.reranker is None else Reranker(model(config.reranker, "reranker")),
        None if config.reader is None or not with_reader else Reader(model(config.reader, "reader")),
        config.defaults,
    )


def _read_config(folder, path):
    """The configuration of a system in a folder, checked before any part is opened. Messages name `path`."""
    values, _ = PreTrainedConfig.get_config_dict(folder)
    if values.get("model_type") != "xlir_system":
        raise ValueError(
            f"`{path}` holds a model of type {values.get('model_type')!r}, not a whole system: give its `index` and "
            "`passages`, too."
        )
    version = values.get("format_version", 0)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"`{path}` has format version {version}, this hf_xlir reads versions up to {FORMAT_VERSION}: upgrade "
            "hf_xlir."
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
        _check_keys(path, f"its retriever {entry['name']!r}", entry, RETRIEVER_KEYS)
    generation = (config.defaults or {}).get("generate_kwargs") or {}
    if not {"custom_generate", "trust_remote_code"}.isdisjoint(generation):
        raise ValueError(f"The {CONFIG_NAME} of `{path}` makes `generate` run code from elsewhere, which is refused.")
    outside = [name for name in config.folders() if not re.fullmatch(r"[\w-]+", name)]
    if outside:
        raise ValueError(f"The {CONFIG_NAME} of `{path}` names {outside}, which are not folders in it.")
    return config


def _check_keys(path, owner, values, known):
    """Raise for an unknown key: a misspelt one would silently change the system."""
    unknown = sorted(values.keys() - set(known))
    if unknown:
        own = ", ".join(repr(name) for name in known if name not in FROM_TRANSFORMERS)
        raise ValueError(
            f"The {CONFIG_NAME} of `{path}` cannot be read: {owner} has the key {unknown[0]!r}, which this hf_xlir "
            f"does not know. Known keys are {own}: correct the key, or upgrade hf_xlir."
        )


def _is_retriever(entry):
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        return False
    return {"name", "kind", "index"} <= entry.keys()


def _load_passages(folder):
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise ValueError(f"`{folder}` is damaged ({error}): copy or download it again.") from error


def _save_passages(system, folder):
    """The columns that results have, without vectors, which are in the index."""
    passages = system.passages.select_columns(system.columns)
    for name in passages.list_indexes():  # of the copy, which could not be saved with them
        passages.drop_index(name)
    # Without file names: Datasets refuses to overwrite files that are mapped
    table = InMemoryTable(passages.data.table)
    passages = Dataset(table, passages.info, passages.split, passages._indices)
    passages.save_to_disk(str(folder))


def _replaceable(path):
    """The configuration of the system that is in a folder, or `None`. Raises for anything else."""
    if not (path / CONFIG_NAME).exists():
        return None
    values, _ = PreTrainedConfig.get_config_dict(path)
    if values.get("model_type") != "xlir_system":
        raise ValueError(
            f"`{path}` holds a model of type {values.get('model_type')!r}, whose {CONFIG_NAME} would be overwritten: "
            "give another folder."
        )
    return RetrievalSystemConfig.from_pretrained(path)


def _remove_old_parts(path, before, config):
    """Remove the parts of the system before, and those of writers that were killed at least a day ago."""
    old = set() if before is None else {name for name in before.folders() if re.fullmatch(r"[\w-]+", name)}
    for folder in path.iterdir():
        if TAGGED.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > DRAFT_LIFETIME:
            old.add(folder.name)
    for name in old - set(config.folders()):
        shutil.rmtree(path / name, ignore_errors=True)


__all__ = ["PARTS", "check_saveable", "load_model", "open_system", "save_system"]
