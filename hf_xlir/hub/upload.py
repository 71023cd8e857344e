"""Uploads that appear whole or not at all: all files of a repository's new version in one commit."""

import time
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # or httpx2: the one that it uses
from transformers.utils import logging

from .metadata import check_card


logger = logging.get_logger(__name__)

CARD = "README.md"
SECONDS_BEFORE_RETRY = 1.0  # doubled each time
PASSING = (408, 409, 412, 425, 429)  # and everything from 500 on: what may go well a moment later


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
    Make a repository of the Hub, if it is not there, and put files into it in one commit.

    The contents of large files go first, where no reader sees them, and are not sent a second time when an upload is
    tried again, by this call or after a kill by another. One commit then shows all files at once, and removes those
    that they replace. `HfApi.upload_folder` may make several commits, between which readers see a mixture.

    Args:
        files (`dict[str, str | os.PathLike]`):
            Paths in the repository, and the files that go there. A `README.md` is checked first,
            here and by the Hub.
        repo_id (`str`):
            `"user/name"`, or a name alone for the user of the token.
        repo_type (`"model"` or `"dataset"`, *optional*, defaults to `"model"`):
            What it is.
        replaced (`tuple[str]`, *optional*):
            Beginnings of paths: files of the repository with such a path that are not among `files` are removed.
        private (`bool`, *optional*):
            Whether a new repository is private. By default the namespace's setting.
        token (`str` or `bool`, *optional*):
            By default the token that is logged in.
        revision (`str`, *optional*):
            The branch, made if absent, or a pull request (`"refs/pr/1"`). By default `"main"`.
        commit_message (`str`, *optional*):
            Its first line.
        num_retries (`int`, *optional*, defaults to 5):
            How often to try again after a lost connection, an error of the server, or a commit by somebody else
            meanwhile.

    Returns:
        [`~huggingface_hub.CommitInfo`]: Of the commit, or of the last one if nothing has changed.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If there are no files, or the card's metadata are not valid.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses, for lack of a token for instance.

    Example:
    ```python
    >>> from hf_xlir.hub.upload import files_of, push_files

    >>> push_files(files_of("my-colbert"), "user/my-colbert")  # doctest: +SKIP

    ```
    """
    if not files:
        raise ValueError("`files` is empty: give at least one.")
    missing = [str(file) for file in files.values() if not Path(file).is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files are not there, such as {missing[:3]}: nothing was uploaded.")
    if CARD in files:
        check_card(Path(files[CARD]).read_text(encoding="utf-8"), repo_type)
    api = HfApi(token=token, library_name="hf_xlir")
    for attempt in range(num_retries + 1):
        try:
            return _commit(api, files, repo_id, repo_type, tuple(replaced), private, revision, commit_message)
        except Exception as error:
            error.add_note(
                f"Readers of `{repo_id}` see what they saw before. The same call again sends only what is missing."
            )
            if attempt == num_retries or not _may_pass(error):
                raise
            seconds = SECONDS_BEFORE_RETRY * 2**attempt
            logger.warning(f"Uploading to `{repo_id}` failed ({error}): trying again in {seconds:g} s.")
            time.sleep(seconds)


def files_of(folder, ignore_patterns=()):
    r"""
    The files of a folder, as [`push_files`] takes them.

    Args:
        folder (`str` or `os.PathLike`):
            The folder; those in it are read, too.
        ignore_patterns (`Iterable[str]`, *optional*):
            Patterns of relative paths to leave out, as in `pathlib.PurePath.match`.

    Returns:
        `dict[str, pathlib.Path]`

    Raises:
        FileNotFoundError: If there is no such folder.
    """
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
    if revision is not None and not revision.startswith("refs/"):  # such as a pull request, which is there
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    head = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    operations = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
    if replaced:
        present = api.list_repo_files(repo_id, repo_type=repo_type, revision=head)
        old = [path for path in present if path.startswith(replaced) and path not in files]
        operations += [CommitOperationDelete(path) for path in old]
    # A parent: what to remove was listed there, and another's commit would bring what was not
    return api.create_commit(
        repo_id, operations, commit_message=commit_message, repo_type=repo_type, revision=revision, parent_commit=head
    )


def _may_pass(error):
    """Whether an error, or what it comes from, is one of a connection or a server that may be gone in a moment."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            return status in PASSING or status >= 500
        if isinstance(error, httpx.TransportError):
            return True
        error = error.__cause__
    return False


__all__ = ["CARD", "files_of", "push_files"]
