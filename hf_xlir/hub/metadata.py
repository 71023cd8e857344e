"""The metadata at the top of a card: well-formed before an upload, and read from the cards of others."""

import math
import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCardData, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

from ..utils.files import write_text
from .cards import listed


CARD = "README.md"
IDS = ("base_model", "datasets")
TEXTS = ("language", "license", "license_name", "license_link", "tags", "library_name", "pipeline_tag")
# How the Hub writes names: "apache-2.0", "ko" or "kor". Which of them exist, the Hub itself knows.
FORMS = {
    "language": (r"[a-z]{2,3}|multilingual|code", "a language code of ISO 639, such as `ko`"),
    "license": (r"[a-z0-9][a-z0-9.+-]*", "the Hub's name of a license, such as `apache-2.0`, or `other`"),
}
LICENSE = ("license", "license_name", "license_link")


def check_card(text):
    r"""
    Check that the metadata of a card are well-formed. Whether the Hub knows each name, only the Hub can say: every
    upload has it validate the card first, and so does `ModelCard(text).validate()`.

    Args:
        text (`str`):
            The card, a `README.md`.

    Raises:
        ValueError: If the metadata are not YAML, a value has the wrong type, or a name cannot be one of the Hub's.

    Example:
    ```python
    >>> from hf_xlir.hub import check_card

    >>> check_card("---\nlicense: Apache 2.0\n---\n# Mine")
    Traceback (most recent call last):
    ...
    ValueError: The card's metadata are not valid:
    - `license` is 'Apache 2.0', expected the Hub's name of a license, such as `apache-2.0`, or `other`.

    ```
    """
    found = REGEX_YAML_BLOCK.search(text)
    if found is None:
        return
    try:
        data = yaml.safe_load(found[2])
    except yaml.YAMLError as error:
        raise ValueError(f"The card's metadata are not valid YAML: {error}") from error
    check_metadata(data)


def check_metadata(data):
    """Check the metadata of a card, a dictionary, as [`check_card`] does."""
    faults = faults_of(data)
    if faults:
        raise ValueError("\n- ".join(["The card's metadata are not valid:", *faults]))


def faults_of(data):
    """What is wrong with the metadata of a card, as a list of sentences. A value of `None` counts as absent."""
    if not isinstance(data, dict):
        return [f"expected names with values, got {type(data).__name__}."]
    faults = []
    for name in (*TEXTS, *IDS):
        value = data.get(name)
        for each in [] if value is None else value if isinstance(value, list) else [value]:
            if name == "language" and each is False:  # YAML 1.1 reads the code of Norwegian as a boolean
                continue
            form, expected = FORMS.get(name, (None, None))
            if not isinstance(each, str) or not each.strip():
                faults.append(f"`{name}` is {each!r}, expected a text that is not empty.")
            elif form is not None and not re.fullmatch(form, each):
                faults.append(f"`{name}` is {each!r}, expected {expected}.")
            elif name in IDS and not _is_id(each):
                faults.append(f"`{name}` is {each!r}, expected the id of a repository, such as 'user/name'.")
    if data.get("license") == "other" and not data.get("license_name"):
        faults.append("`license` is 'other', which needs a `license_name`, such as 'my-license-1.0'.")
    try:
        results = ModelCardData(**{"model-index": data.get("model-index")}).eval_results or []
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return [*faults, f"`model-index` cannot be read ({error})."]
    for each in results:
        if each.metric_value is None or isinstance(each.metric_value, float) and not math.isfinite(each.metric_value):
            faults.append(f"`model-index` has {each.metric_value!r} for {each.metric_type!r}, expected a number.")
    return faults


def known_facts(source, revision=None, token=None, offline=True):
    r"""
    What a model's card says that also holds for a system that contains the model.

    Args:
        source (`str` or `os.PathLike`):
            Where the model was loaded from: a folder, a repository, or an empty text.
        revision (`str`, *optional*):
            The repository's commit.
        token (`str` or `bool`, *optional*):
            For a private repository.
        offline (`bool`, *optional*, defaults to `True`):
            Whether to look for a repository's card only in the cache.

    Returns:
        `dict`: `base_model` (a repository itself), `language` and `datasets` as lists, and `license`, `license_name`
        and `license_link`. What is unknown or not well-formed is left out.
    """
    if not source:
        return {}
    if Path(source).is_dir():
        return _well_formed(_read(Path(source, CARD)))
    own = _well_formed({"base_model": str(source)})
    if own:  # otherwise it is the path of a folder that no longer exists
        try:
            card = hf_hub_download(str(source), CARD, revision=revision, token=token, local_files_only=offline)
            own = {**_well_formed(_read(Path(card))), **own}
        except (OSError, ValueError):  # the card does not exist or cannot be had, which has many error types
            pass
    return own


def write_facts(facts, folder):
    """Save [`known_facts`] next to a model, so that they are known when its system is loaded."""
    if facts:
        metadata = yaml.safe_dump({"library_name": "hf_xlir", **facts}, allow_unicode=True)
        write_text(Path(folder, CARD), f"---\n{metadata}---\n\nPart of a system: see the card of the whole.\n")


def _is_id(value):
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def _read(card):
    """The metadata of a card in a file, empty if there are none or they are damaged."""
    try:
        found = REGEX_YAML_BLOCK.search(card.read_text("utf-8")) if card.is_file() else None
        data = yaml.safe_load(found[2]) if found else None
    except (ValueError, yaml.YAMLError):
        return {}
    if not isinstance(data, dict):
        return {}
    if isinstance(data.get("language"), list | bool):  # YAML 1.1 reads the code of Norwegian as a boolean
        given = data["language"] if isinstance(data["language"], list) else [data["language"]]
        data["language"] = ["no" if each is False else each for each in given]
    return data


def _well_formed(metadata):
    facts = {name: listed(metadata[name]) for name in (*IDS, "language") if isinstance(metadata.get(name), str | list)}
    facts = {name: [each for each in values if each and not faults_of({name: each})] for name, values in facts.items()}
    license = {name: metadata[name] for name in LICENSE if isinstance(metadata.get(name), str)}
    facts |= {} if faults_of(license) else license
    return {name: value for name, value in facts.items() if value}


__all__ = ["CARD", "LICENSE", "check_card", "check_metadata", "faults_of", "known_facts", "write_facts"]
