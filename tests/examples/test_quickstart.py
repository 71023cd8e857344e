"""The quickstart in as few steps as there are, and its arguments."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoProcessor

from hf_xlir import ColBERTXLMRModel, ColBERTXLMRProcessor, FiDT5ForConditionalGeneration, FiDT5Processor


SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(quickstart, tmp_path_factory):
    """The folder that a run of a few steps in two languages leaves."""
    folder = tmp_path_factory.mktemp("quickstart")
    arguments = ["quickstart.py", "--output_dir", str(folder), "--languages", "ko", "--steps_factor", "0.001"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        quickstart.main()
    return folder


def test_results(finished):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert list(results["retrieval"]) == [
        "teacher on English",
        "student before",
        "after parallel text",
        "after relevance scores",
    ]
    assert set(results["retrieval"]["teacher on English"]) == {"en"}
    for row in list(results["retrieval"].values())[1:]:
        assert set(row) == {"en", "ko", "mean of others"}
        assert all(len(values) == 3 and values == sorted(values) for values in row.values())
    assert list(results["dual_encoder"]) == ["untrained", "student's encoder", "NCE", "NCE + hard negatives"]
    assert all(len(row["all"]) == 5 for row in results["dual_encoder"].values())
    assert set(results["reader"]) == {"title of the best passage", "reader"}
    answer = results["answer"]
    assert answer["question"] == "보츠와나의 수도는 어디입니까?"
    assert set(answer["passage"]) == {"id", "title", "text"}
    assert len(answer["read"]) == 2
    assert [match["question_token"] for match in answer["why"]][:2] == ["<s>", "[marker]"]
    assert all(-1 <= match["similarity"] <= 1.0001 for match in answer["why"])


def test_what_is_saved_loads_through_the_auto_classes(finished):
    assert isinstance(AutoModel.from_pretrained(finished / "retriever"), ColBERTXLMRModel)
    assert isinstance(AutoProcessor.from_pretrained(finished / "retriever"), ColBERTXLMRProcessor)
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(finished / "reader"), FiDT5ForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(finished / "reader"), FiDT5Processor)


def test_predictions_are_of_the_test_questions(finished):
    predictions = json.loads((finished / "predictions.json").read_text(encoding="utf-8"))
    assert {row["lang"] for row in predictions} == {"en", "ko"}
    assert all({"question", "answers", "prediction", "title", "ctxs"} <= set(row) for row in predictions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--question", " "], "--question is empty"),
        (["--data_dir", "."], "has no xquad/xquad.en.json"),
        (["--languages", "en"], "one beside English"),
        (["--languages", "de"], "not de"),
        (["--teacher", "."], "give --data_dir, too"),
        (["--tokenizer", "."], "give --teacher, too"),
        (["--steps_factor", "nan"], "--steps_factor must be a positive number"),
        (["--steps_factor", "inf"], "--steps_factor must be a positive number"),
        (["--steps_factor", "0"], "--steps_factor must be a positive number"),
        (["--learning_rate", "0"], "--learning_rate must be a positive number"),
        (["--document_length", "0"], "--document_length must be from 16 to 504"),
        (["--document_length", "505"], "--document_length must be from 16 to 504"),
        (["--num_passages", "21"], "--num_passages must be from 1 to 20"),
        (["--num_sentences", "0"], "--num_sentences must be from 1 to 100"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--reader", "missing/folder/of/a/reader"], "--reader must be a folder or a Hub id"),
        (["--backbone", "missing/folder/of/a/backbone"], "--backbone must be a folder or a Hub id"),
        (["--output_dir", str(SCRIPT)], "--output_dir cannot be made"),
    ],
)
def test_bad_arguments_are_told_before_work_starts(quickstart, monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output_dir", str(tmp_path), *arguments])
    with pytest.raises(SystemExit):
        quickstart.parse_arguments()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "family", "message"),
    [
        ("--reader", "retriever", "give a T5, mT5 or umT5"),
        ("--backbone", "retriever", "give a bare encoder"),
        ("--backbone", "reader", "give a bare encoder"),
    ],
)
def test_a_folder_of_another_family(quickstart, finished, monkeypatch, capsys, tmp_path, option, family, message):
    arguments = ["quickstart.py", "--output_dir", str(tmp_path), option, str(finished / family)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        quickstart.parse_arguments()
    assert message in capsys.readouterr().err


def test_real_data(quickstart, shared_data, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output_dir", str(tmp_path), "--data_dir", str(shared_data)])
    args = quickstart.parse_arguments()
    args.languages = ["en", "ar"]
    data = quickstart.load_real(args)
    assert (len(data.passages), len(data.train) + len(data.test)) == (240, 2 * 1190)
    assert not set(data.train["fact_id"]) & set(data.test["fact_id"])
    passages = {passage["id"]: passage["text"] for passage in data.passages}
    trained = {of[0] for of in data.train["passage_ids"]}
    for row in data.test:
        assert row["passage_ids"][0] not in trained
        assert row["answers"][0] in passages[row["passage_ids"][0]]  # in English, whatever the question's language
    assert len(data.parallel) == 6645
    assert {pair["lang"] for pair in data.parallel} == {"ar"}
