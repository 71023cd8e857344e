"""The benchmark of training runs at its smallest, and its parts say what they should."""

import importlib.util
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from hf_xlir.data import load_mini_world


REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "training.py"


@pytest.fixture(scope="module")
def training():
    spec = importlib.util.spec_from_file_location("training_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_smoke_run():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, SCRIPT, "--smoke"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for task in ("listwise", "nce"):
        table = lines.index(f"| {task}, batch 4 | samples/s | ours / this | samples/CPU s | ours / this |")
        checked = [line for line in lines[:table] if line.startswith(f"{task}: losses [")]
        assert len(checked) == 1 and "of bare loop differ from ours by" in checked[0]
        assert lines[table + 2].startswith("| RetrieverTrainer | ")
        assert lines[table + 3].startswith("| bare loop | ")
        assert all(float(cell.split()[0]) > 0 for cell in lines[table + 3].split(" | ")[1:5])


def test_a_batch_has_no_passage_twice(training):
    rows = list(islice(training.compose_rows(load_mini_world()), 1000))
    positives = [row["positive"] for row in rows]
    assert all(len(set(positives[start : start + 64])) == 64 for start in range(0, 936, 8))
    assert all(len({row["positive"], *row["negatives"]}) == 4 for row in rows)
    assert len({(row["query"], row["positive"]) for row in rows}) > 990


def test_other_mathematics_are_an_error(training, monkeypatch, capsys):
    losses = {"ours": [2.0, 1.0], "bare": [2.0, 1.0], "pylate": [2.0, 1.1]}
    monkeypatch.setattr(training, "run", lambda side, settings: {"losses": losses[side.kind]})
    sides = [training.Side(kind, "python", kind) for kind in losses]
    training.check_losses(sides, {"task": "listwise"})
    assert "of pylate differ from ours by 9.1e-02 at most" in capsys.readouterr().out
    losses["bare"] = [2.0, 1.0002]
    with pytest.raises(SystemExit, match="other mathematics"):
        training.check_losses(sides, {"task": "listwise"})


def test_speeds_leave_out_the_warm_up(training, monkeypatch):
    result = {"wall": [100.0, 101.0, 103.0, 105.0], "cpu": [9.0, 10.0, 10.5, 11.0]}
    monkeypatch.setattr(training, "run", lambda side, settings: result)
    monkeypatch.setattr(sys, "argv", ["training.py", "--rounds", "2", "--steps", "2", "--warmup_steps", "2"])
    side = training.Side("ours", "python", "ours")
    speeds = training.measure([side], {"batch_size": 8}, training.parse_arguments())
    assert speeds == {side: [{"wall": 4.0, "cpu": 16.0}] * 2}


def test_ratios_are_of_rounds(training, capsys):
    ours = [{"wall": wall, "cpu": 6.0} for wall in (2.0, 4.0, 9.0)]
    other = [{"wall": wall, "cpu": 4.0} for wall in (4.0, 2.0, 3.0)]
    sides = [training.Side("ours", "python", "RetrieverTrainer"), training.Side("bare", "python", "bare loop")]
    training.print_table("nce", 64, dict(zip(sides, (ours, other), strict=True)))
    assert capsys.readouterr().out.splitlines()[3:5] == [
        "| RetrieverTrainer | 4.0 (2.0 to 9.0) |  | 6.0 (6.0 to 6.0) |  |",
        "| bare loop | 3.0 (2.0 to 4.0) | 2.00 | 4.0 (4.0 to 4.0) | 1.50 |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--rounds", "0"], "--rounds must be at least 1"), (["--peer_python", "missing"], "names no file: missing")],
)
def test_bad_arguments_are_told_before_work_starts(training, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["training.py", *arguments])
    with pytest.raises(SystemExit):
        training.parse_arguments()
    assert message in capsys.readouterr().err
