"""The reader's scripts in small: training by each recipe, answers and scores, what is refused, several processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, TrainingArguments

from hf_xlir.data import load_reader_examples
from hf_xlir.evaluation import read_answers
from hf_xlir.training import reader_rows
from support.smoke import prepare_smoke


EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ["--answer_maxlength", "4", "--report_to", "none", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def smoke_data(tmp_path_factory):
    """The small data, written once, with fewer questions."""
    folder = tmp_path_factory.mktemp("data")
    prepare_smoke(TrainingArguments(str(folder), use_cpu=True))
    file = folder / "smoke" / "reader_examples.jsonl"
    file.write_text("\n".join(file.read_text("utf-8").splitlines()[:16]), encoding="utf-8")
    return folder / "smoke"


@pytest.fixture(scope="module")
def trained(smoke_data, tmp_path_factory, load_script):
    """A recipe's reader, trained in small."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(smoke_data, folder / "smoke")
    recipe = str(EXAMPLES / "recipes" / "fid_reader_base.yaml")
    load_script("train_reader").main([recipe, "--smoke", "--use_cpu", "--output_dir", str(folder), *QUICK])
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_recipe_in_small(trained):
    state = read(trained / "trainer_state.json")
    assert state["global_step"] == 4 and state["best_global_step"] in (2, 4)
    evaluated = [entry for entry in state["log_history"] if "eval_exact_match" in entry]
    assert [entry["step"] for entry in evaluated[:2]] == [2, 4]
    metrics = read(trained / "eval_results.json")
    assert {"eval_exact_match", "eval_f1", "eval_fi_exact_match", "eval_ko_f1"} <= set(metrics)
    assert (trained / "checkpoint-4" / "checkpoint_files.json").is_file()

    model, processor = AutoModelForSeq2SeqLM.from_pretrained(trained), AutoProcessor.from_pretrained(trained)
    assert model.config.model_type == "fid_t5"
    assert (processor.n_context, processor.text_maxlength, processor.answer_maxlength) == (100, 250, 4)
    first = load_file(trained / "smoke" / "backbone" / "model.safetensors")["shared.weight"]
    assert not torch.equal(model.shared.weight, first) and torch.allclose(model.shared.weight, first, atol=0.01)


@pytest.mark.slow
def test_a_run_goes_on(trained, tmp_path, load_script, caplog):
    """From the checkpoint of a run of four steps to six, and from a reader to a reader."""
    shutil.copytree(trained, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "checkpoint-4" / "model.safetensors")
    given = ["--model_name_or_path", str(trained), "--train_file", str(trained / "smoke" / "reader_examples.jsonl")]
    given += ["--max_steps", "6", "--use_cpu", "--gradient_checkpointing", "--n_context", "2", *QUICK]
    load_script("train_reader").main([*given, "--output_dir", str(tmp_path / "out"), "--save_strategy", "no"])
    assert f"Training goes on from `{tmp_path / 'out' / 'checkpoint-4'}`" in caplog.text
    assert (
        read(tmp_path / "out" / "trainer_state.json")["global_step"] == 6
    )  # the first of the two has the rate that four steps ended with: 0
    changed = load_file(tmp_path / "out" / "model.safetensors")
    assert not torch.equal(changed["shared.weight"], weights["shared.weight"])
    assert AutoProcessor.from_pretrained(tmp_path / "out").n_context == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "Missing: `model_name_or_path`, `train_file`"),
        (
            ["--model_name_or_path", "m", "--train_file", "f", "--eval_strategy", "epoch"],
            "Missing: `eval_file`",
        ),
        (["--model_name_or_path", "m", "--train_file", "absent.json"], "`train_file`: There is no file `absent.json`"),
    ],
)
def test_wrong_arguments_are_reported_before_work_starts(load_script, tmp_path, given, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_script("train_reader").main([*given, "--use_cpu", "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"question": "Who?", "ctxs": [{"text": "a"}]}, "it has neither `target` nor `answers`"),
        ({"question": "Who?", "answers": ["a"], "ctxs": [{"text": ""}]}, "entry 1 of `ctxs` has an empty `text`"),
        ('{"question": "Who?"', "not JSON"),
    ],
)
def test_bad_rows_of_training(load_script, smoke_data, tmp_path, line, reason):
    lines = (smoke_data / "reader_examples.jsonl").read_text("utf-8").splitlines()[:4]
    lines.insert(3, line if isinstance(line, str) else json.dumps(line))
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    given = ["--model_name_or_path", str(smoke_data / "backbone"), "--train_file", str(tmp_path / "train.jsonl")]
    given += ["--cache_dir", str(tmp_path / "cache"), "--use_cpu", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=f"train.jsonl`, line 4: {reason}"):
        load_script("train_reader").main(given)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_few_passages_and_none_are_learnt_from(load_script, smoke_data, tmp_path):
    rows = lines_of(smoke_data / "reader_examples.jsonl")[:4]
    rows[0]["ctxs"], rows[1]["ctxs"], rows[2]["target"] = [], rows[1]["ctxs"][:1], "Seine"
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = ["--model_name_or_path", str(smoke_data / "backbone"), "--train_file", str(tmp_path / "train.jsonl")]
    given += ["--cache_dir", str(tmp_path / "cache"), "--use_cpu", "--output_dir", str(tmp_path / "out"), *QUICK]
    load_script("train_reader").main([*given, "--max_steps", "2", "--save_strategy", "no", "--n_context", "50"])
    assert read(tmp_path / "out" / "train_results.json")["train_loss"] > 0


def evaluate(load_script, reader, file, folder, *given):
    required = ["--model_name_or_path", str(reader), "--eval_file", str(file), "--output_dir", str(folder)]
    load_script("evaluate_reader").main([*required, "--use_cpu", *given])


def test_answers_and_scores(load_script, trained, tmp_path, capsys):
    file, folder = trained / "smoke" / "reader_examples.jsonl", tmp_path / "out"
    evaluate(load_script, trained, file, folder, "--write_crossattention_scores", "--n_context", "2")
    results = read(folder / "eval_results.json")
    printed = capsys.readouterr().out
    assert f"exact_match: {results['exact_match']:.4f}\n" in printed and "num_questions: 16\n" in printed
    assert {"fi_f1", "ko_f1", "macro_exact_match"} <= set(results)

    model, processor = AutoModelForSeq2SeqLM.from_pretrained(trained), AutoProcessor.from_pretrained(trained)
    processor.n_context = 2
    rows, scored = lines_of(file), lines_of(folder / "dataset_wscores.jsonl")
    answers = read_answers(model, processor, rows, scores="attention")
    assert [row["prediction"] for row in lines_of(folder / "predictions.jsonl")] == [each.text for each in answers]
    for row, of_file, answer in zip(scored, rows, answers, strict=True):
        assert row["question"] == of_file["question"] and len(of_file["ctxs"]) == 3
        scores = [each["score"] for each in row["ctxs"]]
        assert scores[:2] == pytest.approx(answer.scores, abs=1e-5) and scores[2] is None
        assert scores[:2] != [each["score"] for each in of_file["ctxs"][:2]]  # what was there is replaced

    examples = load_reader_examples(folder / "dataset_wscores.jsonl", cache_dir=str(tmp_path / "cache"))
    learnt = reader_rows(examples)  # what a retriever learns from
    learnt.epoch = 0
    assert learnt[0]["reader_scores"] == [each["score"] for each in scored[0]["ctxs"]]
    with pytest.raises(ValueError, match="`processor` differ"):
        evaluate(load_script, trained, file, folder, "--write_crossattention_scores", "--n_context", "3")
    predictions = (folder / "predictions.jsonl").read_text("utf-8")
    evaluate(load_script, trained, file, folder, "--overwrite", "--n_context", "2", "--static_cache")
    assert (folder / "predictions.jsonl").read_text("utf-8") == predictions
    assert not (folder / "dataset_wscores.jsonl").exists()


@pytest.mark.parametrize("option", ["--num_beams", "--batch_size"])
def test_numbers_below_one_are_refused(load_script, tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        evaluate(load_script, "reader", "file", tmp_path / "out", option, "0")
    assert "take positive integers" in capsys.readouterr().err


def launch(script, *given):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(EXAMPLES / "accelerate_configs" / "cpu_two_processes.yaml"), str(EXAMPLES / f"{script}.py")]
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*command, *map(str, given)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes(load_script, trained, tmp_path):
    """Evaluation by two gives what one gives, and training by two has a whole checkpoint and its metrics."""
    shutil.copytree(trained / "smoke", tmp_path / "out" / "smoke")
    recipe = EXAMPLES / "recipes" / "fid_reader_base.yaml"
    launch("train_reader", recipe, "--smoke", "--output_dir", tmp_path / "out", "--max_steps", "2", *QUICK)
    assert (tmp_path / "out" / "checkpoint-2" / "rng_state_1.pth").is_file()
    metrics = read(tmp_path / "out" / "eval_results.json")

    file = trained / "smoke" / "reader_examples.jsonl"
    given = ["--model_name_or_path", tmp_path / "out", "--eval_file", file, "--batch_size", "2", "--num_beams", "1"]
    printed = launch("evaluate_reader", *given, "--output_dir", tmp_path / "two")
    evaluate(load_script, tmp_path / "out", file, tmp_path / "one", "--batch_size", "2")
    for name in ("predictions.jsonl", "eval_results.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    results = read(tmp_path / "one" / "eval_results.json")
    assert printed.count("num_questions: 16") == 1
    for name in ("exact_match", "f1", "fi_f1", "ko_f1"):  # in training by two, each reads half
        assert metrics[f"eval_{name}"] == pytest.approx(results[name])
