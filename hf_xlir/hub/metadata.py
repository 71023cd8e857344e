"""What the Hub asks of the metadata at the top of a card, as far as that is known without it."""

import math
import re

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging


logger = logging.get_logger(__name__)

# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = tuple(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other
    """.split()
)
NOT_IN_A_NAME = ("the", "license", "licence", "version")
# The tasks of huggingface.js, `packages/tasks`: `pipeline_tag` of models, `task_categories` of datasets
TASKS = tuple(
    """
    biology text-classification token-classification table-question-answering question-answering
    zero-shot-classification translation summarization feature-extraction text-generation text2text-generation
    fill-mask sentence-similarity text-to-speech text-to-audio automatic-speech-recognition audio-to-audio
    audio-classification audio-text-to-text voice-activity-detection depth-estimation image-classification
    object-detection image-segmentation text-to-image image-to-text image-to-image image-to-video
    unconditional-image-generation video-classification reinforcement-learning robotics tabular-classification
    tabular-regression tabular-to-text table-to-text multiple-choice text-ranking text-retrieval
    time-series-forecasting text-to-video image-text-to-text visual-question-answering document-question-answering
    zero-shot-image-classification graph-ml mask-generation zero-shot-object-detection text-to-3d image-to-3d
    image-feature-extraction video-text-to-text keypoint-detection visual-document-retrieval any-to-any other
    """.split()
)
# ISO 639-1, with those that it has given up; of ISO 639-2 and 639-3 only the form is known here
TWO_LETTER_LANGUAGES = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el
    en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik in io is it
    iu iw ja ji jv jw ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mo
    mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh
    si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh
    yi yo za zh zu
    """.split()
)
NO_LANGUAGE = ("multilingual", "code")  # which the Hub takes in the place of one
RELATIONS = ("adapter", "finetune", "merge", "quantized")
SIZES = (
    *("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"),
    *("1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T"),
)


def check_card(text, repo_type="model"):
    r"""
    Check a card before anything is uploaded; the Hub itself has the last word.

    Args:
        text (`str`):
            The card, a `README.md`.
        repo_type (`"model"` or `"dataset"`, *optional*, defaults to `"model"`):
            What it is the card of.

    Raises:
        ValueError: If the Hub would refuse the metadata: what is wrong, and what to write. Names that are not among
            those known here may be newer than this version, and are warned of.

    Example:
    ```python
    >>> from hf_xlir.hub.metadata import check_card

    >>> check_card("---\nlicense: Apache 2.0\n---\n# Mine")
    Traceback (most recent call last):
    ...
    ValueError: The metadata of the card are not what the Hub takes:
    - `license` is 'Apache 2.0': the Hub calls that one `apache-2.0`.

    ```
    """
    found = REGEX_YAML_BLOCK.search(text)
    if found is None:
        return
    try:
        data = yaml.safe_load(found[2])
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata of the card are no YAML: {error}") from error
    check_metadata(data, repo_type)


def check_metadata(data, repo_type="model"):
    r"""
    Check the metadata of a card, as [`check_card`] does.

    Args:
        data (`dict`):
            The metadata, or some of them.
        repo_type (`"model"` or `"dataset"`, *optional*, defaults to `"model"`):
            What they are of.

    Raises:
        ValueError: As [`check_card`].
    """
    errors, doubts = faults_of(data, repo_type)
    if errors:
        raise ValueError("\n- ".join(["The metadata of the card are not what the Hub takes:", *errors]))
    for doubt in doubts:
        logger.warning(doubt)


def faults_of(data, repo_type="model"):
    r"""
    What is wrong with the metadata of a card.

    Args:
        data (`dict`):
            The metadata, or some of them; a value that is `None` is not there.
        repo_type (`"model"` or `"dataset"`, *optional*, defaults to `"model"`):
            What they are of.

    Returns:
        `tuple[list[str], list[str]]`: What the Hub refuses, and what it may refuse: names that are not known here.
    """
    if not isinstance(data, dict):
        return [f"they must be names with values, got {type(data).__name__}."], []
    errors, doubts = [], []

    def values(name):
        value = data.get(name)
        several = [] if value is None else value if isinstance(value, list) else [value]
        # YAML 1.1 takes the code of Norwegian for a boolean, the Hub does not
        return ["no" if each is False and name == "language" else each for each in several]

    def texts(name):
        wrong = [value for value in values(name) if not isinstance(value, str) or not value.strip()]
        errors.extend(f"`{name}` has {value!r}: expected a text that is not empty." for value in wrong)
        return [value for value in values(name) if value not in wrong]

    def known(name, names, where):
        doubts.extend(f"`{name}` is {value!r}, which {where}." for value in texts(name) if value not in names)

    for value in texts("license"):
        faults = list(_fault_of_license(value))
        errors.extend(faults)
        if value not in LICENSES and not faults:
            doubts.append(
                f"`license` is {value!r}, which is not among the Hub's known licences: if it is refused, write "
                "`other`, and its name as `license_name`."
            )
    if "other" in values("license") and not data.get("license_name"):
        errors.append("`license` is 'other', which needs a `license_name`, such as 'my-licence-1.0'.")
    for value in texts("language"):
        errors.extend(_fault_of_language(value))
    for name in ("tags", "library_name", "license_name", "license_link"):
        texts(name)
    if repo_type == "model":
        known("pipeline_tag", TASKS, "is not among the Hub's known tasks")
        known("base_model_relation", RELATIONS, f"is none of {', '.join(RELATIONS)}")
        for name, kind in (("base_model", "model"), ("datasets", "dataset")):
            errors.extend(
                f"`{name}` has {value!r}, which cannot be the id of a {kind} on the Hub, such as 'user/name'."
                for value in texts(name)
                if not _is_id(value)
            )
        errors.extend(_faults_of_model_index(data.get("model-index")))
    else:
        known("task_categories", TASKS, "is not among the Hub's known tasks")
        known("size_categories", SIZES, f"is none of {', '.join(SIZES)}")
    return errors, doubts


def _fault_of_license(value):
    if value in LICENSES:
        return
    # As people write "Apache 2.0", "The MIT License", "CC BY-SA 4.0"
    words = [word for word in re.findall(r"[a-z0-9.+]+", value.lower()) if word not in NOT_IN_A_NAME]
    for name in LICENSES:
        if words and "-".join(words) in (name, name.replace("-", "")):
            yield f"`license` is {value!r}: the Hub calls that one `{name}`."
            return
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", value):
        yield (
            f"`license` is {value!r}, which is no name of a licence on the Hub, such as `apache-2.0`: for a licence "
            "without one write `other`, and its name as `license_name`."
        )


def _fault_of_language(value):
    if value in NO_LANGUAGE or value in TWO_LETTER_LANGUAGES or re.fullmatch("[a-z]{3}", value):
        return
    hint = ""
    if value.lower().split("-")[0].split("_")[0] in TWO_LETTER_LANGUAGES:
        hint = f": write `{value.lower().split('-')[0].split('_')[0]}`"
    elif re.fullmatch("[a-z]{2}", value):
        hint = ": perhaps it is a country's"
    yield f"`language` has {value!r}, which is no code of ISO 639, such as `ko` or `kor`{hint}."


def _is_id(value):
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def _faults_of_model_index(index):
    """What huggingface_hub needs to read results, and the Hub to show them."""
    if index is None:
        return
    if not isinstance(index, list) or not index or not all(isinstance(model, dict) for model in index):
        yield "`model-index` must be a list of models, each with a `name` and `results`."
        return
    for model in index:
        results = model.get("results")
        if not _is_text(model.get("name")):
            yield "`model-index` lacks the `name` of a model."
        if not isinstance(results, list) or not results:
            yield f"`model-index` has no `results` of {model.get('name')!r}."
            continue
        for place, result in enumerate(results):
            at = f"result {place} of {model.get('name')!r} in `model-index`"
            result = result if isinstance(result, dict) else {}
            for part, names in (("task", ["type"]), ("dataset", ["type", "name"])):
                own = result.get(part)
                lacking = [name for name in names if not isinstance(own, dict) or not _is_text(own.get(name))]
                if lacking:
                    yield f"{at} lacks {' and '.join(f'`{part}.{name}`' for name in lacking)}."
            metrics = result.get("metrics")
            if not isinstance(metrics, list) or not metrics:
                yield f"{at} lacks `metrics`."
                continue
            for metric in metrics:
                if not isinstance(metric, dict) or not _is_text(metric.get("type")) or not _is_value(metric):
                    yield f"{at} has the metric {metric!r}: expected a `type` and a `value` that is no NaN."


def _is_text(value):
    return isinstance(value, str) and bool(value.strip())


def _is_value(metric):
    value = metric.get("value")
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


__all__ = ["LICENSES", "RELATIONS", "SIZES", "TASKS", "check_card", "check_metadata", "faults_of"]
