"""The quickstart in as few steps as there are, and its arguments."""

import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import quickstart
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor

from hf_xlir import (
    BiEncoderModel,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    FiDT5ForConditionalGeneration,
    FiDT5Processor,
)
from support import quickstart_arguments, real_data


SCRIPT = Path(quickstart.__file__)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder that a run of a few steps in two languages leaves."""
    folder = tmp_path_factory.mktemp("quickstart")
    arguments = ["quickstart.py", "--output_dir", str(folder), "--languages", "ko", "--steps_factor", "0.001"]
    output = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.setattr(sys, "argv", arguments)
        quickstart.main()
    (folder / "stdout").write_text(output.getvalue(), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_results(finished):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert list(results["retrieval"]) == ["student before", "after translated sentences", "after relevance scores"]
    for row in results["retrieval"].values():
        assert set(row) == {"en", "ko", "mean of others"}
        assert all(len(values) == 3 and values == sorted(values) for values in row.values())
    assert list(results["dual_encoder"]) == ["untrained", "student's encoder", "NCE", "NCE + hard negatives"]
    assert all(len(row["all"]) == 5 for row in results["dual_encoder"].values())
    assert set(results["reader"]) == {"title of the best passage", "reader"}
    answer = results["answer"]
    assert answer["question"] == "보츠와나의 수도는 어디입니까?" and answer["answer"] and len(answer["passages"]) == 2
    matches = answer["passages"][0]["matches"]
    assert [match["query_token"] for match in matches][:2] == ["<s>", "[Q]"]
    assert all(-1 <= match["similarity"] <= 1.0001 for match in matches)


@pytest.mark.slow
def test_what_is_saved_loads_through_the_auto_classes(finished):
    system = finished / "system"
    assert isinstance(AutoModel.from_pretrained(system, subfolder="retriever"), ColBERTXLMRModel)
    assert isinstance(AutoProcessor.from_pretrained(system, subfolder="retriever"), ColBERTXLMRProcessor)
    reader = AutoModelForSeq2SeqLM.from_pretrained(system, subfolder="reader")
    assert isinstance(reader, FiDT5ForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(system, subfolder="reader"), FiDT5Processor)
    assert isinstance(AutoModel.from_pretrained(finished / "dual_encoder"), BiEncoderModel)


@pytest.mark.slow
def test_predictions_are_of_the_test_questions(finished):
    predictions = json.loads((finished / "predictions.json").read_text(encoding="utf-8"))
    assert {row["lang"] for row in predictions} == {"en", "ko"}
    assert all({"question", "answers", "prediction", "title", "read"} <= set(row) for row in predictions)


@pytest.mark.slow
def test_one_line_per_step(finished):
    text = (finished / "stdout").read_text(encoding="utf-8")
    assert text.startswith(quickstart.__doc__)
    assert "{'" not in text and "it/s" not in text
    assert [line[0] for line in text.splitlines() if line.endswith(" s")] == list("1222334445")


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
        (["--num_sentences", "101"], "--num_sentences must be from 1 to 100"),
        (["--num_sentences", "0"], "--num_sentences must be from 1 to 100"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--reader", "missing/folder/of/a/reader"], "--reader must be a folder or a Hub id"),
        (["--backbone", "missing/folder/of/a/backbone"], "--backbone must be a folder or a Hub id"),
        (["--output_dir", str(SCRIPT)], "--output_dir cannot be made"),
    ],
)
def test_bad_arguments_are_told_before_work_starts(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output_dir", str(tmp_path), *arguments])
    with pytest.raises(SystemExit):
        quickstart_arguments.parse_arguments(quickstart.__doc__)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "model_type", "message"),
    [
        ("--reader", "colbert_xlmr", "give a T5, mT5 or umT5"),
        ("--backbone", "colbert_xlmr", "give a bare encoder"),
        ("--backbone", "fid_t5", "give a bare encoder"),
    ],
)
def test_a_folder_of_another_family(tiny_tokenizer, monkeypatch, capsys, tmp_path, option, model_type, message):
    tiny_tokenizer.save_pretrained(tmp_path)
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output_dir", str(tmp_path / "out"), option, str(tmp_path)])
    with pytest.raises(SystemExit):
        quickstart_arguments.parse_arguments(quickstart.__doc__)
    assert message in capsys.readouterr().err


def test_real_data(shared_data, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output_dir", str(tmp_path), "--data_dir", str(shared_data)])
    args = quickstart_arguments.parse_arguments(quickstart.__doc__)
    args.languages = ["en", "ar"]
    data = real_data.load(args)
    assert (len(data.passages), len(data.train) + len(data.test)) == (240, 2 * 1190)
    assert not set(data.train["fact_id"]) & set(data.test["fact_id"])
    passages = {passage["id"]: passage["text"] for passage in data.passages}
    trained = {of[0] for of in data.train["passage_ids"]}
    for row in data.test:
        assert row["passage_ids"][0] not in trained
        assert row["answers"][0] in passages[row["passage_ids"][0]]  # in English, whatever the question's language
    assert len(data.parallel) == 6645
    assert {pair["lang"] for pair in data.parallel} == {"ar"}
