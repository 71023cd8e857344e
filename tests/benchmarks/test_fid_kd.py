"""Rounds of a reader and a retriever on the mini world: the smallest run, and what its files say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_xlir.data import load_passages, load_questions
from hf_xlir.evaluation import has_answer


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("teaching", ["perplexity", "kl"])
def test_smoke_run(tmp_path, teaching):
    command = [sys.executable, str(BENCHMARKS / "fid_kd.py"), "--smoke", "--output_dir", str(tmp_path)]
    command += ["--reader_distillation", teaching]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 4 and table[0].startswith("| round | success@1 | success@5 | success@20 |")
    assert (tmp_path / "rounds" / "report.md").read_text().strip() == "\n".join(table)

    passages = {row["id"]: row["text"] for row in load_passages(tmp_path / "passages.jsonl")}
    test = load_questions(tmp_path / "test.jsonl")
    for row in test:  # what is measured with: sentences that say the answer
        texts = [passages[id].lower() for id in row["passage_ids"]]
        assert texts and all(any(answer.lower() in text for answer in row["answers"]) for text in texts)
    lines = (tmp_path / "train.jsonl").read_text("utf-8").splitlines()
    train = [json.loads(line) for line in lines]
    assert len(train) == 20 and all("passage_ids" not in row and row["answers"] for row in train)
    first = tmp_path / "rounds" / "round_0"
    scored = [json.loads(line) for line in (first / "scores" / "dataset_wscores.jsonl").read_text().splitlines()]
    if teaching == "perplexity":  # log-likelihoods of all questions' answers, by the reader as it came
        assert len(scored) == 20 and not (first / "reader").exists()
        assert all(passage["score"] < 0 for row in scored for passage in row["ctxs"])
    else:  # of questions that can be answered, by a reader that learned to
        assert 0 < len(scored) < 20 and (first / "reader").exists()
        assert all(any(has_answer(passage["text"], row["answers"]) for passage in row["ctxs"]) for row in scored)
