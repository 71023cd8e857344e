"""Passages that are embedded and indexed by one script, and searched by another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor
from hf_xlir.index import DenseIndex, LateInteractionIndex


EXAMPLES = Path(__file__).parents[2] / "examples"
RIVERS = ("Nile", "Volga", "Seine", "Amazon", "Mekong")


@pytest.fixture
def files(tmp_path, tiny_biencoder, tiny_colbert, tiny_tokenizer):
    """Rivers, questions about them, and two models, in a folder."""
    for model, processor_class, name in (
        (tiny_biencoder, BiEncoderProcessor, "biencoder"),
        (tiny_colbert, ColBERTXLMRProcessor, "colbert"),
    ):
        for part in (model, processor_class.from_config(tiny_tokenizer, model.config)):
            part.save_pretrained(tmp_path / name)
    passages = [{"id": name, "title": name, "text": f"The {name} flows north."} for name in RIVERS]
    questions = [{"id": f"q{name}", "question": f"Where is the {name}?", "answers": [name]} for name in RIVERS[:3]]
    for name, rows in {"passages": passages, "questions": questions}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def index_arguments(files, model, *options):
    given = ["--model_name_or_path", files / model, "--passages", files / "passages.jsonl"]
    given += ["--output_dir", files / "index"]
    return [str(each) for each in (*given, "--use_cpu", *options)]


def search_arguments(files, model, output, *options):
    given = ["--model_name_or_path", files / model, "--passages", files / "passages.jsonl"]
    given += [
        "--n_context",
        3,
        "--k",
        1,
        3,
        "--questions",
        files / "questions.jsonl",
        "--output_file",
        files / output,
        "--use_cpu",
    ]
    return [str(each) for each in (*given, *options)]


def check_same(files, first, second):
    """The same passages with the same scores."""
    first, second = (
        [json.loads(line) for line in (files / name).read_text().splitlines()] for name in (first, second)
    )
    assert [row["id"] for row in first] == [row["id"] for row in second] and len(first) == 3
    for row, other in zip(first, second, strict=True):
        assert [each["id"] for each in row["ctxs"]] == [each["id"] for each in other["ctxs"]]
        scores = [[each["retriever_score"] for each in of_one["ctxs"]] for of_one in (row, other)]
        assert len(scores[0]) == 3 and scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize(("model", "kind"), [("biencoder", DenseIndex), ("colbert", LateInteractionIndex)])
def test_an_index_finds_what_a_search_without_finds(load_script, files, monkeypatch, model, kind):
    load_script("index_passages").main(index_arguments(files, model))
    assert kind.load(files / "index" / "index").ids == list(RIVERS)
    search = load_script("retrieve_passages")
    search.main(search_arguments(files, model, "without.jsonl"))
    monkeypatch.setattr(search, "QUESTIONS_PER_BLOCK", 2)
    search.main(search_arguments(files, model, "with.jsonl", "--index", files / "index"))
    check_same(files, "with.jsonl", "without.jsonl")
    metrics = [json.loads((files / f"{name}.jsonl.metrics.json").read_text()) for name in ("with", "without")]
    assert metrics[0] == pytest.approx(metrics[1]) and list(metrics[0]) == ["answer_recall@1", "answer_recall@3"]
    load_script("index_passages").main(index_arguments(files, model))  # again, in the same folder


def test_questions_without_an_answer_found_are_left_out(load_script, files, capsys):
    wrong = [
        {"id": "x", "question": "Which?", "answers": ["Danube"]},
        {"id": "y", "question": "Which?", "answers": []},
    ]
    right = [{"id": "z", "question": "Which?", "answers": ["Danube", "NORTH"]}]  # all passages have it
    search = load_script("retrieve_passages")
    for rows, message in ((wrong, None), (wrong + right, "1 of 3 questions")):
        (files / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
        given = search_arguments(files, "biencoder", "left.jsonl", "--answered_only")
        if message is None:
            with pytest.raises(ValueError, match="None of 2 questions has an answer"):
                search.main(given)
            assert not (files / "left.jsonl").exists()
        else:
            search.main(given)
            assert message in capsys.readouterr().out
    left = [json.loads(line) for line in (files / "left.jsonl").read_text().splitlines()]
    assert [row["id"] for row in left] == ["z"] and len(left[0]["ctxs"]) == 3
    metrics = json.loads((files / "left.jsonl.metrics.json").read_text())
    assert metrics["answer_recall@3"] == 0.5  # of both questions with answers, found or not


def test_what_the_index_is_can_be_said(load_script, files):
    load_script("index_passages").main(index_arguments(files, "biencoder", "--factory", "SQ8"))
    assert "ScalarQuantizer" in type(DenseIndex.load(files / "index" / "index").faiss_index).__name__


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("biencoder", ["--nbits", "2"], "`nbits` .* 'biencoder'"),
        ("colbert", ["--factory", "SQ8"], "`factory` .* 'colbert_xlmr'"),
        ("biencoder", ["--factory", "PQ5"], "FAISS cannot make an index 'PQ5' of 8 dimensions"),
        ("biencoder", ["--factory", "IVF4096,SQ8"], r"train an index 'IVF4096,SQ8' on \d+ vectors: .* 4096\. Give"),
    ],
)
def test_what_cannot_be_indexed_is_said_before_passages_are_embedded(load_script, files, model, options, message):
    with pytest.raises(ValueError, match=message):
        load_script("index_passages").main(index_arguments(files, model, *options))
    assert not (files / "index").exists()


@pytest.mark.slow
def test_two_processes(load_script, files):
    config = EXAMPLES / "accelerate_configs" / "cpu_two_processes.yaml"
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    for script, given in (
        ("index_passages", index_arguments(files, "biencoder")),
        ("retrieve_passages", search_arguments(files, "biencoder", "two.jsonl", "--index", files / "index")),
    ):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        command += [str(EXAMPLES / f"{script}.py"), *(each for each in given if each != "--use_cpu")]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    load_script("retrieve_passages").main(
        search_arguments(files, "biencoder", "one.jsonl", "--index", files / "index")
    )
    check_same(files, "two.jsonl", "one.jsonl")
