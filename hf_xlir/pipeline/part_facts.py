"""What is known of a system's models beyond themselves: whence, in which languages, under which licence."""

from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download, metadata_load

from ..hub.card_parts import listed
from ..hub.metadata import faults_of
from ..hub.upload import CARD
from ..utils.files import write_text


FACTS = ("base_model", "language", "datasets")  # which have several values
LICENCE = ("license", "license_name", "license_link")


def facts_of(source, revision=None, token=None, offline=True):
    r"""
    What the card of a model says that holds for a system with it, too.

    Args:
        source (`str` or `os.PathLike`, *optional*):
            Where the model was loaded from: a folder, or a repository.
        revision (`str`, *optional*):
            The repository's commit.
        token (`str` or `bool`, *optional*):
            For a private repository.
        offline (`bool`, *optional*, defaults to `True`):
            Whether to look for a repository's card in the cache alone.

    Returns:
        `dict`: `base_model`, which is a repository itself, `language` and `datasets` as lists, and `license`,
        `license_name` and `license_link`; what is unknown, or is nothing that the Hub takes, is left out.
    """
    if not source:
        return {}
    if Path(source).is_dir():
        return _kept(_metadata(Path(source, CARD)))
    own = _kept({"base_model": str(source)})
    if own:  # it may also be a folder that is gone
        try:
            card = hf_hub_download(str(source), CARD, revision=revision, token=token, local_files_only=offline)
            own = {**_kept(_metadata(Path(card))), **own}
        except (OSError, ValueError):  # there is none, or none to be had: huggingface_hub has many words for it
            pass
    return own


def write_facts(facts, folder):
    """Put what is known of a model beside it, for whoever loads the system."""
    if facts:
        metadata = yaml.safe_dump({"library_name": "hf_xlir", **facts}, allow_unicode=True)
        write_text(Path(folder, CARD), f"---\n{metadata}---\n\nA part of a system: see the card of the whole.\n")


def _metadata(card):
    try:
        return (metadata_load(card) if card.is_file() else None) or {}
    except (ValueError, yaml.YAMLError):
        return {}


def _kept(metadata):
    facts = {name: listed(metadata[name]) for name in FACTS if isinstance(metadata.get(name), str | list)}
    facts = {name: [each for each in values if not faults_of({name: each})[0]] for name, values in facts.items()}
    licence = {name: metadata[name] for name in LICENCE if isinstance(metadata.get(name), str)}
    if faults_of(licence)[0]:
        licence = {}
    return {name: value for name, value in {**facts, **licence}.items() if value}


__all__ = ["LICENCE", "facts_of", "write_facts"]
