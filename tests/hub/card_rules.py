"""What the Hub asks of the metadata of a card, for the test server. Its lists are as short as the tests need them."""

import math
import re

import yaml
from huggingface_hub import DatasetCard, ModelCard


LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "other")
TASKS = ("sentence-similarity", "text-ranking", "text-retrieval", "question-answering")


def metadata_of(card):
    """The metadata of a card, `None` if it has none."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\s*(\n|$)", card, flags=re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def faults_of_card(card, repo_type):
    """Errors and warnings, as the Hub has them for a card's metadata."""
    try:
        data = metadata_of(card)
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = []

    def check(name, is_right):
        values = data.get(name)
        for value in values if isinstance(values, list) else [] if values is None else [values]:
            if not is_right(value):
                errors.append(f'"{name}" has the wrong value {value!r}')

    def is_id(value):
        return isinstance(value, str) and re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", value) is not None

    def is_text(value):
        return isinstance(value, str) and 0 < len(value) < 200

    check("license", LICENSES.__contains__)
    if data.get("license") == "other" and not is_text(data.get("license_name")):
        errors.append('"license_name" is required where "license" is "other"')
    check("language", lambda value: isinstance(value, str) and re.fullmatch("[a-z]{2,3}|multilingual|code", value))
    check("tags", is_text)
    if repo_type == "model":
        check("pipeline_tag", TASKS.__contains__)
        check("library_name", is_text)
        check("datasets", is_id)
        check("base_model", is_id)
        for model in data.get("model-index") or []:
            if not is_text(model.get("name")) or not model.get("results"):
                errors.append('"model-index" needs a name and results')
            for result in model.get("results") or []:
                task, dataset, metrics = (result.get(name) for name in ("task", "dataset", "metrics"))
                if not (task and is_text(task.get("type"))):
                    errors.append('"task.type" is required')
                if not (dataset and is_text(dataset.get("name")) and is_id(dataset.get("type"))):
                    errors.append(f'"dataset" needs a name, and an id as its type: {dataset}')
                if not metrics or not all(is_text(each.get("type")) and is_value(each["value"]) for each in metrics):
                    errors.append(f'"metrics" need types and values: {metrics}')
    else:
        check("size_categories", re.compile(r"n<1K|n>1T|\d+[KMB]<n<\d+[KMBT]").fullmatch)
        check("task_categories", TASKS.__contains__)
        for each in data.get("configs") or []:
            if not is_text(each.get("config_name")) or not each.get("data_files"):
                errors.append('"configs" need names and data files')
    if not errors:  # huggingface_hub reads what it would write
        read = (ModelCard if repo_type == "model" else DatasetCard)(card).data.to_dict()
        assert read == data, (read, data)
    return errors, []


def is_value(value):
    return isinstance(value, str) or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )
