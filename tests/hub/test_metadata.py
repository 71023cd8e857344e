"""The metadata of cards: what cannot be right is refused before an upload, what only the Hub knows is not."""

import pytest

from hf_xlir.hub.metadata import check_card, check_metadata, faults_of, known_facts, write_facts


RESULT = {
    "task": {"type": "text-retrieval"},
    "dataset": {"type": "xquad", "name": "XQuAD (ko)", "config": "ko"},
    "metrics": [{"type": "recall@5", "value": 0.5}],
}


def with_result(**parts):
    return {"model-index": [{"name": "mine", "results": [RESULT, {**RESULT, **parts}]}]}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"license": None, "language": None, "base_model": None},
        {"license": "llama9", "language": "ko", "pipeline_tag": "text-to-smell"},  # perhaps new on the Hub
        {"license": ["mit", "apache-2.0"], "language": ["ko", "kor", "yue", "multilingual", "code", "no", False]},
        {"license": "other", "license_name": "my-license-1.0", "license_link": "LICENSE"},
        {"base_model": ["FacebookAI/xlm-roberta-base", "gpt2"], "datasets": ["squad", "user/my.data_set-2"]},
        {"tags": ["한국어"], "unheard_of": object()},
        with_result(),
        with_result(metrics=[{"type": "accuracy", "value": "61 %"}, {"type": "passed", "value": 0}]),
    ],
)
def test_well_formed(data):
    assert faults_of(data) == []


@pytest.mark.parametrize(
    "data, message",
    [
        ([], "got list"),
        ({"license": "Apache 2.0"}, "`apache-2.0`"),
        ({"license": ["mit", 2]}, "`license` is 2"),
        ({"license": "other"}, "`license_name`"),
        ({"license": "other", "license_name": " "}, "`license_name` is ' '"),
        ({"language": "Korean"}, "ISO 639"),
        ({"language": ["ko", "ko-KR"]}, "'ko-KR'"),
        ({"language": [""]}, "`language` is ''"),
        ({"tags": [3]}, "`tags` is 3"),
        ({"base_model": "/home/me/model"}, "`base_model` is '/home/me/model'"),
        ({"datasets": ["XOR TyDi"]}, "`datasets` is 'XOR TyDi'"),
        ({"model-index": {"a": 1}}, "`model-index`"),
        ({"model-index": [{"results": [RESULT]}]}, "`model-index`"),
        (with_result(task={}), "`model-index`"),
        (with_result(dataset=None), "`model-index`"),
        (with_result(metrics=[{"type": "f1"}]), "`model-index`"),
        (with_result(metrics=[{"type": "f1", "value": float("nan")}]), "nan for 'f1'"),
    ],
)
def test_refused(data, message):
    [error] = faults_of(data)
    assert message in error
    with pytest.raises(ValueError, match="not valid"):
        check_metadata(data)


def test_cards():
    check_card("# No metadata")
    check_card("---\nlanguage: no\nlicense: mit\n---\n# Norwegian")
    check_card("---\r\nlicense: mit\r\n---\r\nWindows")
    with pytest.raises(ValueError) as failure:
        check_card("---\nlicense: MIT License\nlanguage: [Korean, ko, Finnish]\n---\n# A")
    assert len(str(failure.value).split("\n- ")) == 4  # all faults at once
    with pytest.raises(ValueError, match="YAML"):
        check_card("---\nlicense: [mit\n---\n# A")
    with pytest.raises(ValueError, match="got str"):
        check_card("---\nmit\n---\n# A")


def test_facts_of_a_folder(tmp_path):
    card = tmp_path / "README.md"
    assert known_facts(tmp_path) == known_facts("") == known_facts("/no/such/folder") == {}
    card.write_text("---\nlanguage: [no, Korean, ko]\nlicense: My own\nbase_model: /a/b\ndatasets: a/b\n---\n")
    facts = known_facts(tmp_path)
    assert facts == {"language": ["no", "ko"], "datasets": ["a/b"]}
    (tmp_path / "copy").mkdir()
    write_facts(facts, tmp_path / "copy")
    assert known_facts(tmp_path / "copy") == facts
    for damaged in ("- a", "license: ["):
        card.write_text(f"---\n{damaged}\n---\n")
        assert known_facts(tmp_path) == {}
