"""From the rows that a reader yields to a `datasets.Dataset`: downloads, caching, memory mapping, streaming."""

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

from ..utils.checks import quoted
from .reading import RowErrors, is_url


logger = logging.get_logger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass
class RecordsConfig(datasets.BuilderConfig):
    """
    Everything that the content of a dataset depends on, and hence the key of its cache: `read(files, names, errors,
    **options)` yields records, and `others` are fingerprints of further datasets that `read` gets.
    """

    # Raise it when the same file and options give other records than before, so that old caches are not used
    version: datasets.Version = field(default_factory=lambda: datasets.Version("1.0.0"))
    features: datasets.Features | None = None
    read: Callable | None = None
    options: dict = field(default_factory=dict)
    others: dict = field(default_factory=dict)
    on_error: str = "raise"
    batch_size: int = 10_000


class RecordsBuilder(datasets.ArrowBasedBuilder):
    """Writes the records of a reader to Arrow files, block by block."""

    BUILDER_CONFIG_CLASS = RecordsConfig

    # The datasets themselves; the cache key has only their fingerprints, in `config.others`
    others: dict = {}

    def _info(self):
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager):
        generators = []
        for split, files in self.config.data_files.items():
            names = tuple(files)
            # Tuples, since lists count as shards, and the two files of a parallel text belong together
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
                f"{quoted(names)} has no rows to load: it is empty, or every row was skipped. Check the file and the "
                "arguments."
            )


def _warn(report: str) -> None:
    """Log the skipped rows once per process: not in every epoch of a stream, but also for a cached dataset."""
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
    """
    The dataset of the records that `read` yields from local files or URLs; see [`RecordsConfig`].

    `name` is the folder in the cache, which is used again while the files' sizes and times of change stay the same.
    `others` are datasets that `read` also gets. A reader's own `ValueError` or `OSError` passes through unchanged;
    `ConnectionError` names a URL that cannot be reached. Skipped rows are in `info.description`, and logged once.
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
        # `datasets` wraps the errors of a reader, whose own message says what to do
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise
    _warn(builder.info.description)
    return builder.as_dataset(split=split)


def download(url: str, cache_dir: str | None = None, extract: bool = False) -> str:
    """The path of a local copy of `url`, or of the folder it is extracted to; a local path is returned as it is."""
    config = datasets.DownloadConfig(cache_dir=None if cache_dir is None else str(Path(cache_dir) / "downloads"))
    dl_manager = datasets.DownloadManager(download_config=config)
    path = _download(dl_manager, url)
    return dl_manager.extract(path) if extract else path


def _download(dl_manager, url: str) -> str:
    try:
        return dl_manager.download(url)
    except OSError as error:
        raise ConnectionError(
            f"`{url}` could not be downloaded ({type(error).__name__}). Check the address and the connection, or pass "
            "a local copy of the file (or its folder as `data_dir`)."
        ) from error


def resolve_file(path: str | os.PathLike) -> str:
    """An absolute path or a URL, as text; `FileNotFoundError` if a path is not a file."""
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
    """The first of `names` in the folder `data_dir`, or `url` without a folder; `FileNotFoundError` if it has none."""
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


def _metadata(path: str) -> tuple[str, ...]:
    if is_url(path):
        return ()
    stat = os.stat(path)
    return (str(stat.st_mtime_ns), str(stat.st_size))
