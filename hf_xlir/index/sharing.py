"""Indexes and their passages as dataset repositories of the Hub."""

import json
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from datasets import Dataset
from datasets.search import BaseIndex
from huggingface_hub import snapshot_download

from ..hub.metadata import check_metadata
from ..hub.upload import files_of, push_files
from ..utils.storage import MANIFEST, read_folder
from .bm25 import BM25Index
from .card import BM25, DENSE, LATE_INTERACTION, build_index_card
from .checks import check_ids_match
from .dense.index import DenseIndex
from .late_interaction.index import LateInteractionIndex
from .passages import check_passages


CLASSES = {LATE_INTERACTION: LateInteractionIndex, DENSE: DenseIndex, BM25: BM25Index}
INDEX, PASSAGES = "index", "passages"  # folders of a repository
BYTES_PER_FILE = 500 * 2**20  # of passages, before parquet compresses them
ROWS_PER_WRITE = 10_000


class PublishedIndex(NamedTuple):
    r"""
    What [`load_index_from_hub`] returns.

    Args:
        index ([`LateInteractionIndex`], [`DenseIndex`] or [`BM25Index`]):
            The index, memory-mapped.
        passages (`datasets.Dataset`):
            Its passages, in the order of its rows.
    """

    index: BaseIndex
    passages: Dataset


def push_index_to_hub(
    index,
    passages,
    repo_id,
    *,
    model_id=None,
    model_revision=None,
    language=None,
    license=None,
    license_name=None,
    license_link=None,
    source=None,
    private=None,
    token=None,
    revision=None,
    commit_message="Upload index and passages",
    num_retries=5,
):
    r"""
    Publish an index and its passages as a dataset repository, with a card, in one commit: whatever happens, readers
    see all of the old version or all of the new. An upload that failed sends only what is missing when it is tried
    again.

    An index that is in memory, and the passages, are first written to the temporary folder (`TMPDIR`).

    Args:
        index ([`LateInteractionIndex`], [`DenseIndex`], [`BM25Index`], `str` or `os.PathLike`):
            The index, or the folder that it was saved to.
        passages (`datasets.Dataset`):
            Its passages, in the order in which they were indexed. All columns are published.
        repo_id (`str`):
            `"user/name"`, or a name alone for the user of the token. Made if absent.
        model_id, model_revision (`str`, *optional*):
            The model whose vectors the index holds, and its commit, for the card.
        language (`str` or `list[str]`, *optional*):
            Codes of the passages' languages, for the card.
        license (`str`, *optional*):
            The Hub's name of the passages' licence, for the card.
        license_name, license_link (`str`, *optional*):
            Of a licence that the Hub has no name for, `license="other"`: a name of its own, and where it is.
        source (`str`, *optional*):
            Where the passages come from, for the card.
        private (`bool`, *optional*):
            Whether a new repository is private. By default the namespace's setting.
        token (`str` or `bool`, *optional*):
            By default the one that is logged in.
        revision (`str`, *optional*):
            The branch, made if absent. By default `"main"`.
        commit_message (`str`, *optional*):
            Its first line.
        num_retries (`int`, *optional*, defaults to 5):
            How often to try again after a lost connection, an error of the server, or a commit by somebody else
            meanwhile.

    Returns:
        [`~huggingface_hub.CommitInfo`]: Its `oid` is what to give as `revision` to load this version.

    Raises:
        ValueError: If the passages are not those of the index, the folder holds no index or a damaged one, or the
            card's metadata are not valid.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses, for lack of a token for instance.

    Example:
    ```python
    >>> from hf_xlir.index.sharing import push_index_to_hub

    >>> push_index_to_hub(index, passages, "user/my-index", model_id="user/my-colbert")  # doctest: +SKIP

    ```
    """
    facts = {"language": language, "license": license, "license_name": license_name, "license_link": license_link}
    check_metadata(facts, "dataset")
    check_passages(passages)
    if not isinstance(passages, Dataset):
        raise ValueError(f"`passages` must be a `datasets.Dataset`, got {type(passages).__name__}.")
    with tempfile.TemporaryDirectory(prefix="hf_xlir-") as staging:
        staging = Path(staging)
        if isinstance(index, BaseIndex):
            folder = staging / "saved"
            _check_match(index, passages)
            index.save(folder)
        else:
            folder = Path(index)
            _check_match(_open(folder, str(folder), verify=True), passages)
        manifest, index_files = read_folder(folder, json.loads((folder / MANIFEST).read_text("utf-8"))["format"])
        if manifest.get("own_tokenize"):
            raise ValueError(
                "This BM25 index was built with a `tokenize` of its own, which cannot be published: readers would "
                "split questions another way. Build it without."
            )
        # In a repository files have the names of what they hold: what did not change is not another file
        manifest = {**manifest, "files": {name: {**each, "name": name} for name, each in manifest["files"].items()}}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        card = build_index_card(
            manifest, passages.column_names, repo_id, model_id, model_revision, source=source, **facts
        )
        card.save(staging / "README.md")
        _write_passages(passages, staging / PASSAGES)
        files = {
            "README.md": staging / "README.md",
            f"{INDEX}/{MANIFEST}": staging / MANIFEST,
            **{f"{INDEX}/{name}": file for name, file in index_files.items()},
            **{f"{PASSAGES}/{name}": file for name, file in files_of(staging / PASSAGES).items()},
        }
        return push_files(
            files,
            repo_id,
            repo_type="dataset",
            replaced=(f"{INDEX}/", f"{PASSAGES}/"),
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            num_retries=num_retries,
        )


def load_index_from_hub(repo_id, revision=None, token=None, cache_dir=None, verify=True):
    r"""
    Download an index and its passages, or find them in the cache, and open both memory-mapped.

    Args:
        repo_id (`str`):
            A repository that [`push_index_to_hub`] made.
        revision (`str`, *optional*):
            Branch or commit. By default `"main"`.
        token (`str` or `bool`, *optional*):
            By default the one that is logged in.
        cache_dir (`str`, *optional*):
            Where downloads go, and the Arrow file of the passages. By default the caches of `huggingface_hub` and
            `datasets`.
        verify (`bool`, *optional*, defaults to `True`):
            Whether to compare the checksums of all of the index's files, which reads them once. Without, those of
            files up to 16 MiB are compared, and the sizes of all.

    Returns:
        [`PublishedIndex`]: `index` and `passages`; `index.attach(passages, name)` brings them together.

    Raises:
        huggingface_hub.errors.RepositoryNotFoundError: If there is no such repository, or it is private and the token
            may not read it.
        FileNotFoundError: If the repository has no index, such as one whose first upload did not end.
        ValueError: If a file is damaged, or the passages are not those of the index.

    Example:
    ```python
    >>> from hf_xlir.index.sharing import load_index_from_hub

    >>> index, passages = load_index_from_hub("user/my-index")  # doctest: +SKIP
    >>> index.attach(passages, "colbert")  # doctest: +SKIP

    ```
    """
    snapshot = Path(
        snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=[f"{INDEX}/*", f"{PASSAGES}/*.parquet"],
        )
    )
    if not (snapshot / INDEX / MANIFEST).is_file():
        at = "" if revision is None else f" at `{revision}`"
        raise FileNotFoundError(
            f"The dataset repository `{repo_id}`{at} has no {INDEX}/{MANIFEST}: it is none of `push_index_to_hub`, or "
            "its first upload has not ended."
        )
    index = _open(snapshot / INDEX, repo_id, verify)
    parquet = sorted(map(str, (snapshot / PASSAGES).glob("*.parquet")))
    if not parquet:
        raise FileNotFoundError(f"The dataset repository `{repo_id}` has an index, but no passages.")
    passages = Dataset.from_parquet(parquet, cache_dir=cache_dir)
    _check_match(index, passages)
    return PublishedIndex(index, passages)


def _open(folder, name, verify):
    """The index in a folder, of whatever kind."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder `{folder}`.")
    kind = None
    if (folder / MANIFEST).is_file():
        kind = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("format")
    if kind not in CLASSES:
        found = f"has no {MANIFEST}" if kind is None else f"holds `{kind}`"
        raise ValueError(f"`{name}` {found}: expected an index, one of {sorted(CLASSES)}.")
    if verify:
        read_folder(folder, kind, verify=True)
    return CLASSES[kind].load(folder)


def _check_match(index, passages):
    """Raise unless the passages are the index's rows."""
    if type(index) not in CLASSES.values():
        names = sorted(each.__name__ for each in CLASSES.values())
        raise ValueError(f"`index` must be one of {names}, or a folder of one, got {type(index).__name__}.")
    if index.ids is not None:
        check_ids_match(passages, index.ids)
    elif len(index) != len(passages):
        raise ValueError(f"There are {len(passages)} passages, but the index has {len(index)}.")


def _write_passages(passages, folder):
    """Parquet files, the same ones each time."""
    folder.mkdir()
    schema, count = passages.features.arrow_schema, len(passages)
    num_files = max(1, math.ceil(passages.data.nbytes / BYTES_PER_FILE))
    rows_per_file = math.ceil(count / num_files)
    starts = range(0, count, rows_per_file)
    with passages.formatted_as("arrow"):
        for number, start in enumerate(starts):
            stop = min(start + rows_per_file, count)
            with pq.ParquetWriter(folder / f"train-{number:05}-of-{len(starts):05}.parquet", schema) as writer:
                for row in range(start, stop, ROWS_PER_WRITE):
                    writer.write_table(passages[row : min(row + ROWS_PER_WRITE, stop)].cast(schema))


__all__ = ["PublishedIndex", "load_index_from_hub", "push_index_to_hub"]
