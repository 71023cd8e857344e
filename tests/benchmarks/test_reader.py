"""The benchmark of reading at its smallest, and its parts say what they should."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "reader.py"


@pytest.fixture(scope="module")
def reader():
    spec = importlib.util.spec_from_file_location("reader_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(wall, memory, answers=((3, 4), (5, 6)), cpu=None):
    answers = [list(each) for each in answers]
    log_probabilities = [[-0.5 * each for each in answer] for answer in answers]
    times = {"wall": wall, "cpu": cpu or wall}
    return {**times, "reading_mb": memory, "answers": answers, "log_probabilities": log_probabilities}


@pytest.mark.slow
def test_smoke_run():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, SCRIPT, "--smoke"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Passages of ") and lines[1].startswith("| passages | ")
    cells = [line.split(" | ") for line in lines[3:7]]
    assert [each[:2] for each in cells] == [["| 2", "naive"], ["| 2", "ours"], ["| 4", "naive"], ["| 4", "ours"]]
    assert all(float(each[2]) > 0 and each[-2] == "100%" and float(each[-1].rstrip(" |")) < 1e-3 for each in cells)
    assert [each[3] for each in cells[::2]] == ["1.00", "1.00"]
    assert lines[7].startswith("Memory of naive: as N^") and lines[8].startswith("Memory of ours: as N^")


def test_passages_begin_with_the_right_one_and_go_around(reader):
    passages = [{"title": "", "text": text} for text in "abcd"]
    questions = [("Is it a?", 0), ("Is it b?", 1), ("Is it d?", 3), ("Is it c?", 2)]
    rows = reader.make_rows(passages, questions, 2, 3)
    assert [row["question"] for row in rows] == ["Is it a?", "Is it d?"]
    assert ["".join(each["text"] for each in row["passages"]) for row in rows] == ["abc", "dab"]


def test_xquad_is_read(reader, shared_data):
    passages, questions = reader.read_data(shared_data / "xquad")
    assert (len(passages), len(questions)) == (240, 1190)
    assert "Panthers" in questions[0][0] and "Panthers" in passages[questions[0][1]]["text"]


def test_ratios_are_of_rounds(reader, capsys):
    results = {
        (10, "naive"): [result(4.0, 100.0), result(9.0, 100.0, cpu=8.0), result(8.0, 100.0)],
        (10, "ours"): [result(2.0, 40.0), result(1.0, 20.0, cpu=2.0), result(4.0, 30.0)],
        (20, "naive"): [result(8.0, 200.0)] * 3,
        (20, "ours"): [result(8.0, 60.0)] * 3,
    }
    reader.report(results, num_questions=2)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| 10 | naive | 0.25 | 1.00 | 1.00 | 100 | 1.00 | 100% | 0e+00 |",
        "| 10 | ours | 1 | 2.00 | 2.00 | 30 | 0.30 | 100% | 0e+00 |",
        "| 20 | naive | 0.25 | 1.00 | 1.00 | 200 | 1.00 | 100% | 0e+00 |",
        "| 20 | ours | 0.25 | 1.00 | 1.00 | 60 | 0.30 | 100% | 0e+00 |",
        "Memory of naive: as N^1.00; a straight line explains R² = 1.0000",
        "Memory of ours: as N^1.00; a straight line explains R² = 1.0000",
    ]


def test_growth(reader):
    exponent, r2 = reader.fit_growth([10, 50, 100], [10.0, 50.0, 100.0])
    assert (round(exponent, 6), round(r2, 6)) == (1, 1)
    exponent, r2 = reader.fit_growth([1, 2, 4], [3.0, 12.0, 48.0])
    assert round(exponent, 6) == 2
    # the line is y = 108/7 x - 15, its errors are 18/7, -27/7 and 9/7
    assert r2 == pytest.approx(1 - (18**2 + 27**2 + 9**2) / 49 / (18**2 + 9**2 + 27**2))


def test_other_answers_are_an_error_but_of_bfloat16(reader, capsys):
    other = result(1.0, 1.0, answers=[(3, 4), (5, 7)])
    results = {(10, "naive"): [result(1.0, 1.0)], (10, "bfloat16"): [other]}
    reader.report(results, num_questions=2)
    assert "| ours, bfloat16 | 2 | 1.00 | 1.00 | 1 | 1.00 | 50% |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="ours answers otherwise than naive: 50% are equal at 10 passages"):
        reader.report({(10, "naive"): [result(1.0, 1.0)], (10, "ours"): [other]}, num_questions=2)


@pytest.mark.slow
def test_a_model_of_its_own(reader, monkeypatch, tmp_path):
    arguments = ["reader.py", "--smoke", "--num_passages", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    args = reader.parse_arguments()
    settings = reader.prepare(args, tmp_path)
    assert (settings["text_maxlength"], settings["max_new_tokens"], settings["threads"]) == (200, 3, 1)
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert len(rows) == 2 and all(len(row["passages"]) == 3 for row in rows)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["model_type"] == "t5"
    monkeypatch.setattr(sys, "argv", [*arguments, "--model", str(tmp_path)])
    again = tmp_path / "again"
    again.mkdir()
    reader.prepare(reader.parse_arguments(), again)
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_passages", "10", "0"], "--num_passages must be at least 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--xquad_dir", "missing"], "has no xquad.en.json: missing"),
    ],
)
def test_bad_arguments_are_told_before_work_starts(reader, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["reader.py", *arguments])
    with pytest.raises(SystemExit):
        reader.parse_arguments()
    assert message in capsys.readouterr().err


def test_log_probabilities_far_from_the_naive_ones_are_seen(reader):
    naive, own = result(1.0, 1.0), result(1.0, 1.0)
    own["log_probabilities"][1][0] += 0.25
    assert reader.largest_difference([naive, naive], [naive, own]) == 0.25
    own["log_probabilities"][0] = [1.0]
    assert math.isnan(reader.largest_difference([naive], [own]))
