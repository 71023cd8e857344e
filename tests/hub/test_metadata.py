"""The metadata of cards: what the Hub refuses is refused before an upload, what it may know is not."""

import pytest
from huggingface_hub import ModelCard

from hf_xlir.hub.metadata import LICENSES, SIZES, TASKS, check_card, check_metadata, faults_of


RESULT = {
    "task": {"type": "text-retrieval"},
    "dataset": {"type": "xquad", "name": "XQuAD (ko)", "config": "ko"},
    "metrics": [{"type": "recall@5", "value": 0.5}],
}


def with_result(**parts):
    return {"model-index": [{"name": "mine", "results": [RESULT, {**RESULT, **parts}]}]}


def test_the_lists():
    for names in (LICENSES, TASKS, SIZES):
        assert len(names) == len(set(names))
    assert {"apache-2.0", "mit", "cc-by-sa-4.0", "llama3.3", "gemma", "etalab-2.0", "unknown", "other"} < set(LICENSES)
    assert {"sentence-similarity", "text-ranking", "text-retrieval", "question-answering"} < set(TASKS)
    assert (len(LICENSES), len(TASKS), len(SIZES)) == (83, 56, 11)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"license": None, "language": None, "base_model": None},
        {"license": "openrail++", "language": "ko"},
        {"license": ["mit", "apache-2.0"], "language": ["ko", "kor", "yue", "multilingual", "code", "no", False]},
        {"license": "other", "license_name": "my-licence-1.0", "license_link": "LICENSE"},
        {"base_model": ["FacebookAI/xlm-roberta-base", "gpt2"], "base_model_relation": "finetune"},
        {"datasets": ["squad", "user/my.data_set-2"], "tags": ["한국어"], "pipeline_tag": "text-ranking"},
        {"unheard_of": object()},
        with_result(),
        with_result(metrics=[{"type": "accuracy", "value": "61 %"}, {"type": "passed", "value": 0}]),
    ],
)
def test_what_is_right(data):
    assert faults_of(data) == ([], [])


@pytest.mark.parametrize(
    "data, message",
    [
        ([], "they must be names with values, got list"),
        ({"license": "Apache 2.0"}, "the Hub calls that one `apache-2.0`"),
        ({"license": "Apache License, Version 2.0"}, "the Hub calls that one `apache-2.0`"),
        ({"license": "MIT License"}, "the Hub calls that one `mit`"),
        ({"license": "CC BY-SA 4.0"}, "the Hub calls that one `cc-by-sa-4.0`"),
        ({"license": "The Unlicense"}, "the Hub calls that one `unlicense`"),
        ({"license": "my own"}, "write `other`, and its name as `license_name`"),
        ({"license": ["mit", 2]}, "`license` has 2: expected a text"),
        ({"license": "other"}, "needs a `license_name`"),
        ({"license": "other", "license_name": " "}, "`license_name` has ' ': expected a text"),
        ({"language": "Korean"}, "`language` has 'Korean', which is no code of ISO 639"),
        ({"language": ["ko", "ko-KR"]}, "write `ko`"),
        ({"language": "EN"}, "write `en`"),
        ({"language": "jp"}, "perhaps it is a country's"),
        ({"language": [""]}, "`language` has '': expected a text"),
        ({"tags": [3]}, "`tags` has 3"),
        ({"pipeline_tag": 3}, "`pipeline_tag` has 3"),
        ({"base_model": "/home/me/model"}, "`base_model` has '/home/me/model', which cannot be the id of a model"),
        ({"datasets": ["XOR TyDi"]}, "`datasets` has 'XOR TyDi', which cannot be the id of a dataset"),
        ({"model-index": {}}, "`model-index` must be a list of models"),
        ({"model-index": [{"results": [RESULT]}]}, "lacks the `name` of a model"),
        ({"model-index": [{"name": "a", "results": []}]}, "no `results` of 'a'"),
        (with_result(task={}), "result 1 of 'mine' in `model-index` lacks `task.type`"),
        (with_result(dataset={"type": ""}), "lacks `dataset.type` and `dataset.name`"),
        (with_result(dataset=None), "lacks `dataset.type` and `dataset.name`"),
        (with_result(metrics=[]), "lacks `metrics`"),
        (with_result(metrics=[{"type": "f1"}]), "expected a `type` and a `value`"),
        (with_result(metrics=[{"type": "f1", "value": float("nan")}]), "a `value` that is no NaN"),
        (with_result(metrics=[{"value": 1.0}]), "expected a `type` and a `value`"),
    ],
)
def test_what_is_refused(data, message):
    [error], doubts = faults_of(data)
    assert message in error and doubts == []
    with pytest.raises(ValueError, match="not what the Hub takes:\n- "):
        check_metadata(data)


@pytest.mark.parametrize(
    "repo_type, data",
    [
        ("model", {"license": "llama9"}),
        ("model", {"pipeline_tag": "text-to-smell"}),
        ("model", {"base_model_relation": "distilled"}),
        ("dataset", {"size_categories": ["n>1P"]}),
        ("dataset", {"task_categories": ["text-to-smell"]}),
    ],
)
def test_what_may_be_new_is_warned_of(repo_type, data):
    errors, [doubt] = faults_of(data, repo_type)
    assert errors == [] and f"`{next(iter(data))}` is" in doubt
    check_metadata(data, repo_type)


def test_all_faults_at_once():
    with pytest.raises(ValueError) as failure:
        check_metadata({"license": "MIT License", "language": ["Korean", "ko", "Finnish"]})
    assert len(str(failure.value).split("\n- ")) == 4


def test_cards():
    check_card("# No metadata")
    check_card("---\nlanguage: no\nlicense: mit\n---\n# Norwegian")
    check_card("---\r\nlicense: mit\r\n---\r\nWindows")
    with pytest.raises(ValueError, match="calls that one `mit`"):
        check_card("---\nlicense: MIT\n---\n# A")
    with pytest.raises(ValueError, match="are no YAML"):
        check_card("---\nlicense: [mit\n---\n# A")
    with pytest.raises(ValueError, match="must be names with values, got str"):
        check_card("---\nmit\n---\n# A")
    check_card("---\npipeline_tag: 3\n---\n# A model's", "dataset")


def test_huggingface_hub_reads_what_passes():
    """And what it cannot read does not pass."""
    for data in (with_result(), with_result(metrics=[{"type": "f1", "value": 0}])):
        assert faults_of(data)[0] == []
        [first, second] = ModelCard(f"---\n{data}\n---\n").data.eval_results
        assert first.metric_type == "recall@5" and second.task_type == "text-retrieval"
    for data in (with_result(task={}), with_result(dataset={}), with_result(metrics=[{"type": "f1"}])):
        with pytest.raises(ValueError, match="model_index"):
            ModelCard(f"---\n{data}\n---\n")
        assert faults_of(data)[0]
