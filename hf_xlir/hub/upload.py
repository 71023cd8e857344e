"""Uploads that appear whole or not at all: all files of a repository's new version in one commit."""

import time
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # its own choice: httpx or httpx2
from transformers.utils import logging

from .metadata import CARD, check_card


logger = logging.get_logger(__name__)

SECONDS_BEFORE_RETRY = 1.0  # doubled with each attempt
TEMPORARY = (408, 409, 412, 425, 429)  # like every status from 500 on


def push_files(
    files,
    repo_id,
    repo_type="model",
    replaced=(),
    private=None,
    token=None,
    revision=None,
    commit_message="Upload with hf_xlir",
    num_retries=5,
):
    r"""
    Put files into a repository on the Hub in one commit. The repository is created if it does not exist.

    The contents of large files are sent first, where no reader sees them. One commit then shows all files at once and
    removes those that they replace. (`HfApi.upload_folder` may make several commits, between which readers see a
    mixture.) When a failed upload is repeated, by this call or after a kill by another, contents that have arrived are
    not sent again.

    Args:
        files (`dict[str, str | os.PathLike]`):
            Files by their path in the repository. A `README.md` is checked first, here and by the Hub.
        repo_id (`str`):
            `"user/name"`, or a name alone for the user of the token.
        repo_type (`"model"` or `"dataset"`, *optional*, defaults to `"model"`):
            Type of the repository.
        replaced (`tuple[str]`, *optional*):
            Prefixes of paths. Files in the repository with such a path that are not among `files` are removed.
        private (`bool`, *optional*):
            Whether a new repository is private. By default the namespace's setting.
        token (`str` or `bool`, *optional*):
            By default the token of the logged-in user.
        revision (`str`, *optional*):
            The branch, created if it does not exist, or a pull request (`"refs/pr/1"`). By default `"main"`.
        commit_message (`str`, *optional*):
            First line of the commit message.
        num_retries (`int`, *optional*, defaults to 5):
            How often to try again after a lost connection, an error of the server, or a concurrent commit.

    Returns:
        [`~huggingface_hub.CommitInfo`]: The new commit, or the last one if nothing has changed.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If there are no files, or the card's metadata are not valid.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses, for example without a token.

    Example:
    ```python
    >>> from hf_xlir.hub import push_files

    >>> push_files({"config.json": "my-colbert/config.json"}, "user/my-colbert")  # doctest: +SKIP

    ```
    """
    if not files:
        raise ValueError("`files` is empty: give at least one file.")
    missing = [str(file) for file in files.values() if not Path(file).is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files do not exist, such as {missing[:3]}: nothing was uploaded.")
    if CARD in files:
        check_card(Path(files[CARD]).read_text(encoding="utf-8"))
    api = HfApi(token=token, library_name="hf_xlir")
    for attempt in range(num_retries + 1):
        try:
            return _commit(api, files, repo_id, repo_type, tuple(replaced), private, revision, commit_message)
        except Exception as error:
            error.add_note(f"Readers of `{repo_id}` see the version before. The same call sends only what is missing.")
            if attempt == num_retries or not _is_temporary(error):
                raise
            seconds = SECONDS_BEFORE_RETRY * 2**attempt
            logger.warning(f"The upload to `{repo_id}` failed ({error}). Trying again in {seconds:g} s.")
            time.sleep(seconds)


def files_of(folder, ignore_patterns=()):
    """The files of a folder and its subfolders as `push_files` takes them, without those that match a pattern."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder `{folder}`.")
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.as_posix(): folder / path
        for path in paths
        if not any(each.match(pattern) for pattern in ignore_patterns for each in (path, *path.parents))
    }


def _commit(api, files, repo_id, repo_type, replaced, private, revision, commit_message):
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):  # pull requests exist already
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    head = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    operations = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
    if replaced:
        present = api.list_repo_files(repo_id, repo_type=repo_type, revision=head)
        old = [path for path in present if path.startswith(replaced) and path not in files]
        operations += [CommitOperationDelete(path) for path in old]
    # `create_commit` has the Hub validate the card first. The list of files to remove holds for this parent only, not
    # after a concurrent commit
    return api.create_commit(
        repo_id, operations, commit_message=commit_message, repo_type=repo_type, revision=revision, parent_commit=head
    )


def _is_temporary(error):
    """Whether an error, or its cause, is one of a connection or a server that may recover."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            return status in TEMPORARY or status >= 500
        if isinstance(error, httpx.TransportError):
            return True
        error = error.__cause__
    return False


__all__ = ["files_of", "push_files"]
