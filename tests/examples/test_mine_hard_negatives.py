"""The script that mines hard negatives, from each of its sources, on small data."""

import json

import pytest
from datasets import Dataset

from hf_xlir import BiEncoderProcessor, RetrieverTrainer, RetrieverTrainingArguments
from hf_xlir.data import load_mini_world, load_training_rows
from hf_xlir.evaluation import rank_by_bm25, rank_passages
from hf_xlir.training import mine_hard_negatives


RIVERS = {"Nile": "north", "Volga": "south", "Seine": "west", "Amazon": "east", "Mekong": "south and east"}


@pytest.fixture
def run(tmp_path, load_script, capsys):
    """Runs the script. Returns the rows that it wrote."""

    def run(*arguments):
        output = tmp_path / "new" / "rows.jsonl"
        script = load_script("mine_hard_negatives")
        script.main(["--output_file", str(output), "--use_cpu", *map(str, arguments)])
        assert [path.name for path in output.parent.iterdir()] == ["rows.jsonl"]
        assert f"are in {output}" in capsys.readouterr().out
        return load_training_rows(output, cache_dir=str(tmp_path / "cache"))

    return run


@pytest.fixture
def data(tmp_path):
    """Five rivers as files, and as datasets."""
    passages = [{"id": name, "title": name, "text": f"The {name} flows {to}."} for name, to in RIVERS.items()]
    questions = [
        {"id": f"q{name}", "question": f"Where does the {name} flow?", "lang": "en", "answers": [to]}
        | {"passage_ids": [name]}
        for name, to in RIVERS.items()
    ]
    for name, rows in {"passages": passages, "questions": questions}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = ("--questions", tmp_path / "questions.jsonl", "--passages", tmp_path / "passages.jsonl")
    return files, Dataset.from_list(questions), Dataset.from_list(passages)


def assert_same_rows(rows, expected):
    assert rows.select_columns(expected.column_names)[:] == expected[:]


def test_bm25_on_the_mini_world_by_default(run, tmp_path, tiny_biencoder, tiny_tokenizer):
    rows = run("--languages", "fi", "--max_questions", 40, "--num_negatives", 2, "--relative_margin", 0.05)
    world = load_mini_world(["fi"])
    questions = world.questions["train"].select(range(40))
    rankings = rank_by_bm25(questions, world.passages, progress=False)
    expected = mine_hard_negatives(
        questions, world.passages, rankings, num_negatives=2, relative_margin=0.05, progress=False
    )
    assert_same_rows(rows, expected)

    arguments = RetrieverTrainingArguments(
        str(tmp_path / "out"), max_steps=2, report_to="none", save_strategy="no", use_cpu=True, logging_steps=1
    )
    processor = BiEncoderProcessor.from_config(tiny_tokenizer, tiny_biencoder.config)
    trainer = RetrieverTrainer(tiny_biencoder, arguments, processor, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0


def test_a_model(run, data, tmp_path, tiny_biencoder, tiny_tokenizer):
    files, questions, passages = data
    processor = BiEncoderProcessor.from_config(tiny_tokenizer, tiny_biencoder.config)
    for part in (tiny_biencoder, processor):
        part.save_pretrained(tmp_path / "model")
    rows = run(
        *files, "--source", "model", "--model_name_or_path", tmp_path / "model", "--depth", 1, 3, "--keep_answers"
    )
    rankings = rank_passages(tiny_biencoder, processor, questions, passages, k=3, progress=False)
    options = {"depth": (1, 3), "exclude_answers": False, "progress": False}
    assert_same_rows(rows, mine_hard_negatives(questions, passages, rankings, **options))


def test_a_ranking_of_another_system(run, data, tmp_path):
    files, *_ = data
    ranked = ["Nile", "Mekong", "Volga", "Seine", "Amazon"]
    lines = [f"q{name}\t{id}\t{rank}\n" for name in RIVERS for rank, id in enumerate(ranked, 1)]
    (tmp_path / "ranking.tsv").write_text("".join(lines))
    rows = run(*files, "--source", "ranking", "--ranking", tmp_path / "ranking.tsv")
    negatives = {row["id"]: row["negatives"][0]["title"] for row in rows}
    # the first one, unless it is the gold passage or holds the answer "south"
    assert negatives == {"qNile": "Mekong", "qVolga": "Nile", "qSeine": "Nile", "qAmazon": "Nile", "qMekong": "Nile"}
    sampled = ("--sampling", "random", "--depth", 1, 5, "--seed", 3)
    rows = run(*files, "--source", "ranking", "--ranking", tmp_path / "ranking.tsv", *sampled)
    assert len({row["negatives"][0]["title"] for row in rows}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "model"), "`--model_name_or_path` and `--source model`"),
        (("--ranking", "run.trec"), "`--ranking` and `--source ranking`"),
        (("--questions", "questions.jsonl"), "`--questions` and `--passages`"),
        (("--source", "colbert"), "invalid choice: 'colbert'"),
    ],
)
def test_errors(run, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err
