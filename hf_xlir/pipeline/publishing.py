"""Upload of a whole system to the Hub."""

import tempfile
import warnings
from pathlib import Path

from huggingface_hub import HfApi

from ..hub.metadata import check_card
from ..hub.upload import CARD, files_of, push_files
from ..utils.files import write_text
from .system_card import build_system_card, is_replaceable
from .system_folder import PARTS, save_system


def save_with_card(pipeline, path, card):
    """See [`RetrievalPipeline.save_pretrained`]; `card` are the arguments of its card."""
    _check(pipeline, card)
    save_system(pipeline.model, path, pipeline.task, pipeline._forward_params)
    file = Path(path, CARD)
    if card or not file.exists() or is_replaceable(file.read_text(encoding="utf-8")):
        write_text(file, build_system_card(pipeline, file.absolute().parent.name, **card))


def push_system(pipeline, repo_id, private, token, revision, commit_message, card, arguments):
    """See [`RetrievalPipeline.push_to_hub`]; `arguments` are those of the card."""
    if card is not None and arguments:
        raise ValueError(f"Give `card`, the whole text, or what to say in one ({sorted(arguments)}): not both.")
    if card is not None:
        check_card(card)
    for part in pipeline.model.model_parts():
        part.facts(token=token, offline=False)
    _check(pipeline, arguments)
    api = HfApi(token=token, library_name="hf_xlir")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    if card is None and (arguments or _may_be_replaced(api, repo_id, revision)):
        card = build_system_card(pipeline, repo_id, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        save_system(pipeline.model, folder, pipeline.task, pipeline._forward_params)
        if card is not None:
            write_text(Path(folder, CARD), card)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # the passages
            return push_files(
                files_of(folder),
                repo_id,
                replaced=[f"{part}{end}" for part in PARTS for end in "/-"],  # of a system that was there before
                token=token,
                revision=revision,
                commit_message=commit_message,
            )


def _check(pipeline, arguments):
    """Raise for arguments of a card that are wrong, before anything is written."""
    build_system_card(pipeline, "name", **arguments)


def _may_be_replaced(api, repo_id, revision):
    """Whether a repository has no card, or one that nobody has changed since it was written here."""
    if not api.file_exists(repo_id, CARD, revision=revision):
        return True
    with tempfile.TemporaryDirectory() as folder:
        file = api.hf_hub_download(repo_id, CARD, revision=revision, local_dir=folder)
        return is_replaceable(Path(file).read_text(encoding="utf-8"))


__all__ = ["push_system", "save_with_card"]
