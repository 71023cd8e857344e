"""Datasets from readers: downloads, caching, memory mapping and streaming, for every loader of the package."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from .reading import RowErrors, is_url


logger = logging.get_logger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass
class RecordsConfig(datasets.BuilderConfig):
    """
    Everything that a dataset's content depends on, and hence the key of its cache.

    Args:
        features (`datasets.Features`):
            The columns.
        read (`Callable`):
            `read(files, names, errors, **options)` yields records; a function of a module, so that it can be pickled.
        options (`dict`):
            More arguments of `read`.
        others (`dict[str, str]`):
            Fingerprints of the other datasets that `read` gets.
        on_error (`str`, *optional*, defaults to `"raise"`):
            See [`RowErrors`].
        batch_size (`int`, *optional*, defaults to 10000):
            How many records are in memory at a time.
    """

    # To be raised when the same file and options give other records than before: old caches are then left alone.
    version: datasets.Version = field(default_factory=lambda: datasets.Version("1.0.0"))
    features: datasets.Features | None = None
    read: Callable | None = None
    options: dict = field(default_factory=dict)
    others: dict = field(default_factory=dict)
    on_error: str = "raise"
    batch_size: int = 10_000


class RecordsBuilder(datasets.ArrowBasedBuilder):
    """A split whose records come from a reader, written to Arrow files block by block."""

    BUILDER_CONFIG_CLASS = RecordsConfig

    # Whole datasets, which are no part of the key of the cache, while `config.others` is
    others: dict = {}

    def _info(self):
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager):
        generators = []
        for split, files in self.config.data_files.items():
            names = tuple(files)
            # Tuples: lists would count as shards, and the two files of a parallel text must stay together.
            paths = tuple(_download(dl_manager, name) for name in names)
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"files": paths, "names": names}))
        return generators

    def _generate_tables(self, files, names):
        errors = RowErrors(self.config.on_error)
        records = self.config.read(files, names, errors, **self.config.options, **self.others)
        schema = self.config.features.arrow_schema
        index = None
        for index, block in enumerate(blocks(records, self.config.batch_size)):
            yield Key(0, index), pa.Table.from_pylist(block, schema=schema)
        self.info.description = errors.report()
        _warn(self.info.description)
        if index is None:
            raise ValueError(
                f"`{'`, `'.join(names)}` has no rows to load: it is empty, or every row was left out. Check the "
                "file, and what you asked for."
            )


def _warn(report: str) -> None:
    """Log what was skipped, once: not in every epoch of a stream, but also when the dataset comes from the cache."""
    if report:
        logger.warning_once(report)


def blocks(items, size: int) -> Iterator[list]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def build_dataset(
    name: str,
    files: Sequence[str | os.PathLike],
    features: datasets.Features,
    read: Callable,
    *,
    options: dict | None = None,
    others: dict[str, datasets.Dataset] | None = None,
    split: str = "train",
    on_error: str = "raise",
    streaming: bool = False,
    cache_dir: str | None = None,
    batch_size: int = 10_000,
) -> datasets.Dataset | datasets.IterableDataset:
    r"""
    The dataset that `read` makes of local files or URLs.

    Args:
        name (`str`):
            The folder in the cache.
        files (`Sequence[str]`):
            Paths or URLs; all go to one call of `read`.
        features (`datasets.Features`):
            The columns.
        read (`Callable`):
            The reader, see [`RecordsConfig`].
        options (`dict`, *optional*):
            More arguments of `read`.
        others (`dict[str, datasets.Dataset]`, *optional*):
            More arguments of `read` that are datasets themselves.
        split (`str`, *optional*, defaults to `"train"`):
            What the split is called.
        on_error (`str`, *optional*, defaults to `"raise"`):
            See [`RowErrors`].
        streaming (`bool`, *optional*, defaults to `False`):
            Read during iteration and keep nothing.
        cache_dir (`str`, *optional*):
            Where Arrow files and downloads go; the default of `datasets` if not given. A file is read again when its
            size or time of change differs.
        batch_size (`int`, *optional*, defaults to 10000):
            How many records are in memory at a time.

    Returns:
        `datasets.Dataset`, memory-mapped, or `datasets.IterableDataset`. How many rows were skipped, and the first of
        them, is logged once, and is in `info.description`.

    Raises:
        ValueError: If a row cannot be read and `on_error="raise"`, or there is none.
        FileNotFoundError: If a local file does not exist.
        ConnectionError: If a URL cannot be reached.
    """
    RowErrors(on_error)
    resolved = [resolve_file(file) for file in files]
    builder = RecordsBuilder(
        cache_dir=cache_dir,
        dataset_name=name,
        data_files=DataFilesDict({split: DataFilesList(resolved, [_metadata(file) for file in resolved])}),
        features=features,
        read=read,
        options=options or {},
        others={argument: other._fingerprint for argument, other in (others or {}).items()},
        on_error=on_error,
        batch_size=batch_size,
    )
    builder.others = others or {}
    if streaming:
        return builder.as_streaming_dataset(split=split)
    try:
        builder.download_and_prepare(verification_mode="no_checks")
    except DatasetGenerationError as error:
        # `datasets` wraps whatever a reader raises; the reader's own message is the one that helps.
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise
    _warn(builder.info.description)
    return builder.as_dataset(split=split)


def download(url: str, cache_dir: str | None = None, extract: bool = False) -> str:
    """The path of a local copy of `url`, or the folder it is extracted to; a local path is given back."""
    config = datasets.DownloadConfig(cache_dir=None if cache_dir is None else str(Path(cache_dir) / "downloads"))
    dl_manager = datasets.DownloadManager(download_config=config)
    path = _download(dl_manager, url)
    return dl_manager.extract(path) if extract else path


def _download(dl_manager, url: str) -> str:
    try:
        return dl_manager.download(url)
    except OSError as error:
        raise ConnectionError(
            f"`{url}` could not be downloaded ({type(error).__name__}). Check the address and the connection, or "
            "download it by other means and pass the local file (or the folder it is in, where there is a `data_dir`)."
        ) from error


def resolve_file(path: str | os.PathLike) -> str:
    """An absolute path or a URL, as text; `FileNotFoundError` for a path where there is no file."""
    path = os.fspath(path)
    if is_url(path):
        return path
    local = Path(path).expanduser()
    if local.is_dir():
        raise FileNotFoundError(f"`{path}` is a folder. Pass the path of a file in it.")
    if not local.is_file():
        raise FileNotFoundError(f"There is no file `{path}`. Check the path (it was read from `{Path.cwd()}`).")
    return str(local.absolute())


def official_file(data_dir: str | os.PathLike | None, names: Sequence[str], url: str) -> str:
    """
    The first of `names` that the folder `data_dir` has, or `url` if no folder is given.

    Raises:
        FileNotFoundError: If the folder does not exist or has none of them.
    """
    if data_dir is None:
        return url
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder `{data_dir}`. Pass the folder that holds `{names[0]}`, or leave out `data_dir` to "
            "download it."
        )
    for name in names:
        if (folder / name).is_file():
            return str(folder / name)
    raise FileNotFoundError(
        f"`{data_dir}` has no file `{'` or `'.join(names)}`. Download {url} into that folder, or leave out `data_dir` "
        "to have it downloaded."
    )


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """`ValueError` with the choices if `value` is none of them."""
    if value not in choices:
        raise ValueError(f"`{argument}` is {value!r}. Choose one of {', '.join(map(repr, choices))}.")


def _metadata(path: str) -> tuple[str, ...]:
    if is_url(path):
        return ()
    stat = os.stat(path)
    return (str(stat.st_mtime_ns), str(stat.st_size))
