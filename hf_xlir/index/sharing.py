"""Indexes and their passages as dataset repositories on the Hub."""

import json
import math
import os
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import DatasetCardData, snapshot_download

from ..data.passages import check_passages
from ..hub.cards import UNKNOWN, license_text, listed, render_card
from ..hub.metadata import LICENSE, check_metadata
from ..hub.papers import find_papers
from ..hub.upload import files_of, push_files
from ..utils.storage import MANIFEST, read_folder
from .base import bind_index, check_index, index_attribute, index_class, load_index


INDEX, PASSAGES = "index", "passages"  # folders of a repository
BYTES_PER_FILE = 500 * 2**20  # of passages, before parquet compresses them
ROWS_PER_WRITE = 10_000
# Tags and papers by what an index is searched with
METHODS = {
    "token_vectors": ("late-interaction", ("2004.12832", "2112.01488")),
    "vectors": ("dense-retrieval", ("2004.04906",)),
}


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
    Publish an index and its passages as a dataset repository, with a card, in one commit: readers see all of the old
    version or all of the new one. A repeated upload sends only what is missing.

    An index in memory, and the passages, are first written to the temporary folder (`TMPDIR`).

    Args:
        index ([`SearchIndex`], `str` or `os.PathLike`):
            An index whose format is registered, or the folder that it was saved to.
        passages (`datasets.Dataset`):
            Its passages, in the order in which they were indexed. All columns are published.
        repo_id (`str`):
            `"user/name"`, or a name alone for the user of the token. Created if it does not exist.
        model_id, model_revision (`str`, *optional*):
            For the card: the model whose vectors the index holds, and its commit.
        language (`str` or `list[str]`, *optional*):
            For the card: codes of the passages' languages.
        license (`str`, *optional*):
            For the card: the Hub's name of the passages' license.
        license_name, license_link (`str`, *optional*):
            For `license="other"`: the license's name, and a link to its text.
        source (`str`, *optional*):
            For the card: where the passages come from, as Markdown.
        private (`bool`, *optional*):
            Whether a new repository is private. By default the namespace's setting.
        token (`str` or `bool`, *optional*):
            By default the token of the logged-in user.
        revision (`str`, *optional*):
            The branch, created if it does not exist. By default `"main"`.
        commit_message (`str`, *optional*):
            First line of the commit message.
        num_retries (`int`, *optional*, defaults to 5):
            How often to try again after a lost connection, an error of the server, or a concurrent commit.

    Returns:
        [`~huggingface_hub.CommitInfo`]: Its `oid` is the `revision` that loads this version.

    Raises:
        ValueError: If the passages are not those of the index, the folder holds no index or a damaged one, the index
            cannot be saved, or the card's metadata are not valid.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses, for example without a token.

    Example:
    ```python
    >>> from hf_xlir.index import push_index_to_hub

    >>> push_index_to_hub(index, passages, "user/my-index", model_id="user/my-colbert")  # doctest: +SKIP

    ```
    """
    facts = {"language": language, "license": license, "license_name": license_name, "license_link": license_link}
    check_metadata(facts)
    check_passages(passages)
    if not isinstance(passages, Dataset):
        raise ValueError(f"`passages` must be a `datasets.Dataset`, got {type(passages).__name__}.")
    with tempfile.TemporaryDirectory(prefix="hf_xlir-") as staging:
        staging = Path(staging)
        if isinstance(index, str | os.PathLike):
            folder, index = Path(index), load_index(index, _has_checksums(index))
        else:
            check_saveable(index)
            folder = staging / "saved"
            index.save(folder)
        check_saveable(index)
        bind_index(index, passages)
        if _has_checksums(folder):
            manifest, index_files = read_folder(folder, index.format)
            # In a repository files are named by their role, so that an unchanged file keeps its path
            manifest = {
                **manifest,
                "files": {name: {**each, "name": name} for name, each in manifest["files"].items()},
            }
        else:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            index_files = {name: file for name, file in files_of(folder).items() if name != MANIFEST}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        num_bytes = sum(file.stat().st_size for name, file in index_files.items() if name != "ids.json")
        facts |= {"model_id": model_id, "model_revision": model_revision, "source": source, "repo_id": repo_id}
        _card(index, manifest, num_bytes, passages.column_names, facts).save(staging / "README.md")
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
            A repository of [`push_index_to_hub`].
        revision (`str`, *optional*):
            Branch or commit. By default `"main"`.
        token (`str` or `bool`, *optional*):
            By default the token of the logged-in user.
        cache_dir (`str`, *optional*):
            Where downloads and the Arrow file of the passages go. By default the caches of `huggingface_hub` and
            `datasets`.
        verify (`bool`, *optional*, defaults to `True`):
            Whether to compare the checksums of all files of the index, which reads them once. Otherwise only the
            checksums of files up to 16 MiB are compared, and the sizes of all.

    Returns:
        `tuple[SearchIndex, datasets.Dataset]`: The index, and its passages in the order of its rows.

    Raises:
        huggingface_hub.errors.RepositoryNotFoundError: If there is no such repository, or it is private and the token
            may not read it.
        FileNotFoundError: If the repository has no index, such as one whose first upload did not end.
        ValueError: If a file is damaged, or the passages are not those of the index.

    Example:
    ```python
    >>> from hf_xlir.index import load_index_from_hub

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
            f"The dataset repository `{repo_id}`{at} has no {INDEX}/{MANIFEST}: `push_index_to_hub` did not make it, "
            "or its first upload has not ended."
        )
    index = load_index(snapshot / INDEX, verify and _has_checksums(snapshot / INDEX))
    parquet = sorted(map(str, (snapshot / PASSAGES).glob("*.parquet")))
    if not parquet:
        raise FileNotFoundError(f"The dataset repository `{repo_id}` has an index, but no passages.")
    passages = Dataset.from_parquet(parquet, cache_dir=cache_dir)
    bind_index(index, passages)
    return index, passages


def check_saveable(index):
    """Raise if an index cannot be saved and read back by its format."""
    if index_attribute(check_index(index), "save") is None or index_attribute(index, "format") is None:
        raise ValueError(
            f"An index of kind {index.kind!r} without `save` or `format` cannot be saved: add both and `load`, and "
            "register its class with `register_index`."
        )
    index_class(index.format)  # raises for a format that is not registered
    if hasattr(index, "check_saveable"):
        index.check_saveable()


def _has_checksums(folder):
    """Whether the manifest of an index lists its files, as those of this package do."""
    file = Path(folder, MANIFEST)
    return file.is_file() and "files" in json.loads(file.read_text("utf-8"))


def _card(index, manifest, num_bytes, columns, facts):
    """The card of an index and its passages. `manifest` is that of the index's folder, `facts` are the user's."""
    languages, count = listed(facts["language"]), manifest.get("num_passages", len(index.ids))
    license = {name: facts[name] for name in LICENSE}
    tag, papers = METHODS.get(index.queries, (index.kind, ()))
    bits = sorted({str(codec["nbits"]) for codec in manifest.get("codecs", ())})
    if any(segment["codec"] is None for segment in manifest.get("segments", ())):
        bits.append("not compressed")
    metadata = DatasetCardData(
        language=languages or None,
        **license,
        size_categories=[_size_category(count)],
        task_categories=["text-retrieval"],
        tags=["hf_xlir", "retrieval-index", tag],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "passages/*.parquet"}]}],
        **({} if facts["model_id"] is None else {"base_model": facts["model_id"]}),
    )
    facts = {
        **facts,
        "metadata": metadata,
        "name": facts["repo_id"].rpartition("/")[-1],
        "kind": index.kind,
        "queries": index.queries,
        "num_passages": count,
        "columns": columns,
        "num_bytes": num_bytes,
        "num_tokens": manifest.get("num_tokens"),
        "bits": ", ".join(bits) or None,
        "dimensions": index_attribute(index, "embedding_dim"),
        "languages": ", ".join(languages) or UNKNOWN,
        "license": license_text(**license),
        "papers": find_papers(papers),
    }
    return render_card("index.md.jinja", facts)


def _size_category(count):
    """The Hub's name of a number of rows, such as `"1K<n<10K"`."""
    names = ["1", "10", "100"]
    bounds = [f"{name}{unit}" for unit in ("K", "M", "B") for name in names] + ["1T"]
    power = len(str(count)) - 4  # 1,000 rows: 0
    if power < 0:
        return "n<1K"
    return f"{bounds[power]}<n<{bounds[power + 1]}" if power + 1 < len(bounds) else "n>1T"


def _write_passages(passages, folder):
    """Parquet files, equal for equal passages."""
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


__all__ = ["check_saveable", "load_index_from_hub", "push_index_to_hub"]
