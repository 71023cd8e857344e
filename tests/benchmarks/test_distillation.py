"""The benchmark of distillation at its smallest, on data made for the test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, XLMRobertaConfig, XLMRobertaModel

from support.vocabulary import train_tokenizer


REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "distillation" / "run.py"
CITIES = ["Cairo", "Rome", "Paris", "Tokyo", "Lima", "Oslo"]
IN_ARABIC = ["القاهرة", "روما", "باريس", "طوكيو", "ليما", "أوسلو"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`DATA`, and a teacher with random weights."""
    folder = tmp_path_factory.mktemp("distillation")
    questions = {
        "en": [f"Where is {city} ?" for city in CITIES],
        "ar": [f"أين تقع {city} ؟" for city in IN_ARABIC],
    }
    (folder / "xquad").mkdir()
    for language, texts in questions.items():
        articles = []
        for place, (city, question) in enumerate(zip(CITIES, texts, strict=True)):
            answers = [{"text": city, "answer_start": 0}]
            qas = [{"id": f"q{place}", "question": question, "answers": answers}]
            articles.append({"title": city, "paragraphs": [{"context": f"{city} is a city .", "qas": qas}]})
        (folder / "xquad" / f"xquad.{language}.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    for names in (
        ("xor_tydi/translations/ar-en.ar", "xor_tydi/translations/ar-en.en"),
        ("ntrex/ntrex.arb.txt", "ntrex/ntrex.eng.txt"),
        ("tatoeba/tatoeba.ara-eng.ara", "tatoeba/tatoeba.ara-eng.eng"),
    ):
        for name, texts in zip(names, (questions["ar"], questions["en"]), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer([*questions["en"], *questions["ar"]] * 3, vocab_size=200)
    tokenizer.save_pretrained(folder / "xlm-roberta-base-tokenizer")
    tokenizer.save_pretrained(folder / "teacher")
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=258,
    )
    XLMRobertaModel(config).save_pretrained(folder / "teacher")
    return folder


def run(folder, *arguments):
    command = [sys.executable, SCRIPT, "--data_dir", folder, "--teacher", folder / "teacher", "--threads", "1"]
    command += ["--stage_1_steps", "2", "--stage_2_steps", "1", "--output_dir", folder / "out", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_student_is_trained_once_and_stands_in_the_table(folder):
    printed = run(folder, "--seeds", "1", "2", "--save_models")
    for family, name in (("biencoder", "dual encoder"), ("colbert_xlmr", "ColBERT")):
        results = json.loads((folder / "out" / f"{family}.json").read_text())
        trained = {f"{variant}, seed {seed}" for variant in ("1", "2", "1+2") for seed in (1, 2)}
        assert results.keys() == {"en", "ar", "closed form, seed 0", *trained}
        assert all(0 <= result["R@1"] <= result["R@5"] <= result["R@10"] == 100 for result in results.values())
        lines = printed.splitlines()
        table = lines.index(f"| {name} | R@1 / R@5 / R@10, % | R@5, lowest to highest | seconds |")
        assert [line.split(" | ")[0] for line in lines[table + 2 : table + 8]] == [
            "| teacher, questions in en",
            "| teacher, questions in ar",
            "| closed form alone",
            "| stage 1 only",
            "| stage 2 only",
            "| both stages",
        ]
        both = [results[f"1+2, seed {seed}"] for seed in (1, 2)]
        mean = " / ".join(f"{sum(run[f'R@{k}'] for run in both) / 2:.1f}" for k in (1, 5, 10))
        lowest, highest = sorted(run["R@5"] for run in both)
        assert lines[table + 7].startswith(f"| both stages | {mean} | {lowest:.1f} to {highest:.1f} | ")
        assert AutoModel.from_pretrained(folder / "out" / family / "1+2-1").config.embedding_dim == 16

    # What is there is not trained again
    file = folder / "out" / "biencoder.json"
    results = json.loads(file.read_text())
    results["2, seed 1"]["R@1"] = 0.125
    del results["1, seed 2"]
    file.write_text(json.dumps(results))
    run(folder, "--seeds", "1", "2", "--students", "biencoder")
    again = json.loads(file.read_text())
    assert again["2, seed 1"]["R@1"] == 0.125
    assert again.keys() == results.keys() | {"1, seed 2"}
