"""Every training script in small: what it writes, what it refuses, and that it goes on where it stopped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

from hf_xlir.data import load_training_rows
from hf_xlir.models.auto import load_retriever
from support.smoke import prepare_smoke


EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = sorted(path for path in (EXAMPLES / "recipes").glob("*.yaml") if not path.name.startswith("fid_reader"))
FAMILIES = {"train_colbert": "colbert_xlmr", "train_biencoder": "biencoder", "distill_student": "colbert_xlmr"}
# More ways than the recipes go: script, arguments, and the family where it is another than usual
VARIANTS = {
    "a reader's scores": (
        "train_colbert",
        ["--objective", "reader_distillation", "--reader_distillation", "perplexity", "--num_passages", "2"],
        None,
    ),
    "ids with scores": ("train_colbert", ["--objective", "margin_mse"], None),
    "streamed, in chunks": (
        "train_colbert",
        ["--objective", "in_batch_nce", "--streaming", "--gradient_cache_chunk_size", "2"],
        None,
    ),
    "mined rows": ("train_biencoder", ["--train_format", "rows", "--objective", "listwise"], None),
    "refreshed negatives": ("train_biencoder", ["--train_format", "questions", "--num_negatives", "2"], None),
    "sentence vectors": (
        "distill_student",
        ["--objective", "embedding_distillation", "--include_targets", "--pooling", "mean", "--contrast_scale", "20"],
        "biencoder",
    ),
}


@pytest.fixture(scope="module")
def smoke_data(tmp_path_factory):
    """The small data, written once."""
    folder = tmp_path_factory.mktemp("data")
    prepare_smoke(TrainingArguments(str(folder), use_cpu=True))
    return folder / "smoke"


@pytest.fixture
def run(smoke_data, tmp_path, load_script):
    """Runs a script in small, and returns its output folder."""

    def run_script(name, *given, folder="out"):
        output_dir = tmp_path / folder
        if not output_dir.exists():
            shutil.copytree(smoke_data, output_dir / "smoke")
        recipe = [argument for argument in given if argument.endswith(".yaml")]
        given = [argument for argument in given if argument not in recipe]
        load_script(name).main([*recipe, "--smoke", "--use_cpu", "--output_dir", str(output_dir), *given])
        return output_dir

    return run_script


def recipe_path(name):
    return str(EXAMPLES / "recipes" / f"{name}.yaml")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def assert_trained(output_dir, family, steps=4):
    """The folder has a whole checkpoint, a model other than the first, its processor, and metrics."""
    assert read(output_dir / "trainer_state.json")["global_step"] == steps
    assert read(output_dir / "train_results.json")["train_loss"] > 0
    assert (output_dir / f"checkpoint-{steps}" / "checkpoint_files.json").is_file()
    model, processor = load_retriever(output_dir)
    assert model.config.model_type == family and type(AutoModel.from_pretrained(output_dir)) is type(model)
    assert torch.isfinite(model(**processor.process_queries(["Joki?"])).embeddings).all()
    first = load_file(output_dir / "smoke" / "encoder" / "model.safetensors")
    trained = model.encoder.state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(trained[name], first[name]) and torch.allclose(trained[name], first[name], atol=0.01)
    metrics = read(output_dir / "eval_results.json")
    assert 0 <= metrics["eval_recall@5"] <= metrics["eval_recall@100"] <= 1
    assert {"eval_fi_recall@20", "eval_ko_recall@20", "eval_en_recall@20"} <= set(metrics)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_in_small(run, script_of, capsys, recipe):
    model = assert_trained(run(script_of(recipe), str(recipe)), FAMILIES[script_of(recipe)])
    if recipe.name.startswith("drdecr"):
        assert (model.config.document_length, model.config.embedding_dim) == (180, 128)
    assert "eval_recall@5" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_ways(run, variant):
    script, given, family = VARIANTS[variant]
    folder = run(script, *given)
    model = assert_trained(folder, family or FAMILIES[script])
    if variant == "sentence vectors":
        assert model.config.pooling == "mean"
    if variant == "refreshed negatives":  # sixteen questions, eight a batch: four updates are two epochs
        mined = read(folder / "checkpoint-4" / "hard_negatives.json")
        assert mined["epoch"] == 1 and {len(of_question) for of_question in mined["negatives"]} == {2}


@pytest.mark.slow
def test_a_reranker_teaches_a_student(load_script, run, tmp_path):
    folder = run("finetune_encoder", "--task", "reranking", "--use_teacher_query", folder="reranker")
    assert 0 <= read(folder / "eval_results.json")["eval_accuracy"] <= 1
    rows, scored = (load_training_rows(path) for path in (folder / "smoke/rows.jsonl", folder / "scored_rows.jsonl"))
    assert scored.column_names == [*rows.column_names, "teacher_scores"]
    assert scored.remove_columns("teacher_scores").to_list() == rows.to_list()

    reranker = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert reranker.config.num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in (0, 31):
        documents = [rows[row]["positive"], *rows[row]["negatives"]]
        for document, score in zip(documents, scored[row]["teacher_scores"], strict=True):
            text = f"{document['title']} {document['text']}"
            pair = tokenizer(rows[row]["teacher_query"], text, truncation=True, max_length=256, return_tensors="pt")
            assert reranker(**pair).logits.item() == pytest.approx(score, abs=1e-5)

    script, own = load_script("distill_student"), ["--objective", "margin_mse", "--model_type", "biencoder"]
    own += ["--model_name_or_path", str(folder / "smoke" / "encoder"), "--rows", str(folder / "scored_rows.jsonl")]
    own += ["--max_steps", "2", "--use_cpu", "--report_to", "none", "--save_strategy", "no"]
    script.main([*own, "--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "student")])
    assert load_retriever(tmp_path / "student")[0].config.model_type == "biencoder"


@pytest.mark.slow
def test_classification_with_a_retriever_s_encoder(load_script, run, tmp_path):
    folder = run("train_colbert", "--max_steps", "1", folder="colbert")
    texts = [json.loads(line) for line in (folder / "smoke" / "texts.jsonl").read_text("utf-8").splitlines()]
    pairs = [{**each, "text_pair": "Joki?", "label": ["no", "yes"]["river" in each["text"]]} for each in texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    own = ["--model_name_or_path", str(folder), "--train_file", str(tmp_path / "pairs.jsonl"), "--learning_rate", "0"]
    own += ["--eval_file", str(tmp_path / "pairs.jsonl"), "--cache_dir", str(tmp_path / "cache"), "--use_cpu"]
    own += ["--max_steps", "1", "--report_to", "none", "--output_dir", str(tmp_path / "classifier")]
    load_script("finetune_encoder").main(own)

    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    assert classifier.config.id2label == {0: "no", 1: "yes"}
    encoder = load_retriever(folder)[0].encoder.state_dict()
    found = classifier.base_model.state_dict()
    assert set(encoder) <= set(found) and all(torch.equal(found[name], encoder[name]) for name in encoder)
    share = max(sum(pair["label"] == label for pair in pairs) for label in ("no", "yes")) / len(pairs)
    assert read(tmp_path / "classifier" / "eval_results.json")["eval_accuracy"] in (
        pytest.approx(share),
        pytest.approx(1 - share),
    )  # an untrained head on such an encoder gives all texts one label


def test_labelled_texts_of_a_table(load_script, tmp_path, tiny_tokenizer):
    script, path = load_script("finetune_encoder"), tmp_path / "texts.csv"
    data_args = script.DataArguments(train_file=str(path), cache_dir=str(tmp_path / "cache"))
    path.write_text("text,label\nNA,null\nnull,NA\n", encoding="utf-8")
    data, labels = script.load_texts(data_args, tiny_tokenizer, max_length=8)
    assert data["train_file"]["labels"][:] == [1, 0] and labels["id2label"] == {0: "NA", 1: "null"}
    assert data["train_file"]["input_ids"][:] == [tiny_tokenizer(text)["input_ids"] for text in ("NA", "null")]
    path.write_text("text,label\na,1\n,0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="`train_file` needs the column `text` in all rows"):
        script.load_texts(data_args, tiny_tokenizer, max_length=8)


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(run, caplog, tmp_path):
    """Six batches an epoch; after the third of them, with dropout and with negatives that are drawn each epoch."""
    given = [recipe_path("dpr_nq"), "--max_steps=8", "--save_strategy=steps", "--save_steps=3", "--save_total_limit=3"]
    whole = run("train_biencoder", *given)
    stopped = tmp_path / "stopped"
    for name in ("smoke", "checkpoint-3", "checkpoint-6"):
        shutil.copytree(whole / name, stopped / name)
    (stopped / "checkpoint-6" / "model.safetensors").write_bytes(b"half of it")  # not whole, so not resumed from
    expected = load_file(whole / "model.safetensors")
    for checkpoint in ("checkpoint-3", "checkpoint-8"):  # the second time nothing is left to do
        resumed = run("train_biencoder", *given, folder="stopped")
        assert f"Training goes on from `{stopped / checkpoint}`" in caplog.text
        assert read(resumed / "trainer_state.json")["global_step"] == 8
        found = load_file(resumed / "model.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("script", "given", "said"),
    [
        ("train_colbert", [], "Missing: `model_name_or_path`, `triples`"),
        (
            "train_colbert",
            ["--objective", "reader_distillation", "--model_name_or_path", "m", "--triples", "f"],
            "Missing: `reader_examples`",
        ),
        ("train_colbert", ["--objective", "token_distillation"], "`objective` must be one of listwise, in_batch_nce"),
        (
            "train_colbert",
            ["--objective", "listwise", "--model_name_or_path", "m", "--triples", "absent.tsv"],
            "`triples`: There is no file `absent.tsv`",
        ),
        ("train_biencoder", [], "Missing: `model_name_or_path`, `train_file`"),
        ("train_biencoder", ["--objective", "margin_mse"], "`distill_student.py` learns from a teacher"),
        (
            "train_biencoder",
            ["--train_format", "reader"],
            "'in_batch_nce'` does not learn from `train_format='reader'`",
        ),
        (
            "train_biencoder",
            ["--objective", "reader_distillation", "--train_format", "reader", "--num_negatives", "3"],
            "`num_passages` limits their passages",
        ),
        ("train_biencoder", ["--num_passages", "3"], "`num_passages` is for a reader's examples"),
        ("train_biencoder", ["--train_passages", "f"], "`train_passages` needs `train_format='questions'`, got 'dpr'"),
        (
            "train_biencoder",
            ["--train_format", "questions", "--model_name_or_path", "m", "--train_file", "f"],
            "Missing: `train_passages`",
        ),
        ("distill_student", ["--objective", "listwise"], "`objective` must be one of token_distillation"),
        ("distill_student", ["--objective", "margin_mse"], "Missing: `model_name_or_path`"),
        (
            "distill_student",
            ["--objective", "margin_mse", "--model_name_or_path", "m", "--source_file", "f"],
            r"`objective='margin_mse'` needs one of \['triples', 'rows'\], got \['source_file'\]",
        ),
        (
            "distill_student",
            ["--objective", "token_distillation", "--model_name_or_path", "m", "--rows", "f", "--include_targets"],
            "`include_targets` needs `source_file`, got `rows`",
        ),
        ("finetune_encoder", ["--model_name_or_path", "m"], "There is nothing to do"),
        (
            "finetune_encoder",
            ["--model_name_or_path", "m", "--score_file", "f"],
            "`score_file` and `scored_file` go together",
        ),
        (
            "finetune_encoder",
            ["--model_name_or_path", "m", "--train_file", "f", "--num_negatives", "2"],
            "`num_negatives` needs `task=reranking`",
        ),
        (
            "finetune_encoder",
            ["--task", "reranking", "--model_name_or_path", "m", "--train_file", "absent.jsonl"],
            "`train_file`: There is no file `absent.jsonl`",
        ),
    ],
)
def test_wrong_arguments_are_reported_before_work_starts(load_script, tmp_path, script, given, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_script(script).main([*given, "--use_cpu", "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_scores_that_are_not_there(load_script, tmp_path, smoke_data):
    """Of n-way ids without scores there is nothing to distil."""
    lines = [json.loads(line) for line in (smoke_data / "nway.jsonl").read_text("utf-8").splitlines()]
    without = [json.dumps([query, *(id for id, _ in passages)]) for query, *passages in lines]
    (tmp_path / "nway.jsonl").write_text("\n".join(without), encoding="utf-8")
    given = ["--objective", "margin_mse", "--model_name_or_path", str(smoke_data / "encoder"), "--use_cpu"]
    given += ["--triples", str(tmp_path / "nway.jsonl"), "--queries", str(smoke_data / "queries.tsv")]
    given += ["--passages", str(smoke_data / "passages.tsv"), "--cache_dir", str(tmp_path / "cache")]
    with pytest.raises(ValueError, match=r"`train_dataset` lacks \['teacher_scores'\]"):
        load_script("train_colbert").main([*given, "--output_dir", str(tmp_path / "out")])


def test_triples_that_are_not_the_same(load_script, tmp_path, smoke_data):
    lines = (smoke_data / "teacher_triples.tsv").read_text("utf-8").splitlines()
    (tmp_path / "short.tsv").write_text("\n".join(lines[:-1]), encoding="utf-8")
    (tmp_path / "other.tsv").write_text("\n".join([*lines[1:], lines[0]]), encoding="utf-8")
    script = load_script("distill_student")
    for name in ("short", "other"):
        data_args = script.DataArguments(
            triples=str(smoke_data / "triples.tsv"),
            teacher_triples=str(tmp_path / f"{name}.tsv"),
            cache_dir=str(tmp_path / "cache"),
        )
        with pytest.raises(ValueError, match="are not the same triples: a line of one has other passages"):
            script.load_rows(data_args, with_documents=True)


def test_published_files(load_script, tmp_path, shared_data):
    """The samples of DR.DECR's own data: triples with their English side, and parallel text."""
    folder, script = shared_data / "primeqa_samples", load_script("distill_student")
    common = {"cache_dir": str(tmp_path), "quoting": "csv"}
    triples = "xorqa.train_ir_negs_5_poss_1_001pct_at_0pct{}.tsv"
    data_args = script.DataArguments(
        triples=str(folder / triples.format("")), teacher_triples=str(folder / triples.format("_en")), **common
    )
    rows = script.load_rows(data_args, with_documents=True)
    assert rows.column_names == ["query", "positive", "negative", "teacher_query"] and len(rows) == 5
    assert set(rows["query"]) == {"중국에서 가장 오랜기간 왕위를 유지한 인물은 누구인가?"}
    assert set(rows["teacher_query"]) == {"Who maintained the throne for the longest time in China?"}

    files = [str(folder / f"7lan_notrim_triple_2ep.{side}.clean.h5") for side in ("other", "en")]
    data_args = script.DataArguments(source_file=files[0], target_file=files[1], **common)
    english = "She was right in the middle of an important piece of restoration ."
    row = {"query": "সে একটা জরুরি পুনর্বাসনের কাজ করছিল", "teacher_query": english}
    assert script.load_rows(data_args, with_documents=True)[0] == {**row, "positive": english}
    assert script.load_rows(data_args, with_documents=False)[0] == row
    data_args.include_targets = True
    both = script.load_rows(data_args, with_documents=False)
    assert len(both) == 10 and both[5] == {"query": english, "teacher_query": english}


@pytest.mark.slow
def test_accumulated_batches_are_one(run, smoke_data, tmp_path):
    """The Trainer adds their losses up, unless it is told that each is a mean."""
    losses = {}
    for accumulated in ("1", "2"):
        config = tmp_path / accumulated / "smoke" / "encoder" / "config.json"
        shutil.copytree(smoke_data, tmp_path / accumulated / "smoke")
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.write_text(json.dumps({**read(config), **dropout}))
        given = ("--gradient_accumulation_steps", accumulated, "--max_steps", "2")
        folder = run("finetune_encoder", *given, folder=accumulated)
        logs = read(folder / "trainer_state.json")["log_history"]
        losses[accumulated] = [entry[name] for entry in logs if "loss" in entry for name in ("loss", "grad_norm")]
    assert losses["1"] == pytest.approx(losses["2"], rel=1e-5) and len(losses["1"]) == 4


def launch(config, script, *given):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(EXAMPLES / "accelerate_configs" / f"{config}.yaml"), str(EXAMPLES / f"{script}.py"), *given]
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_one_process_is_launched(tmp_path):
    printed = launch("cpu", "finetune_encoder", "--smoke", "--output_dir", str(tmp_path))
    assert "eval_accuracy" in printed
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert "river" in classifier.config.label2id and classifier.config.num_labels > 5
    assert Path(tmp_path, "checkpoint-4", "rng_state.pth").is_file()


@pytest.mark.slow
def test_two_processes_are_launched(tmp_path):
    launch(
        "cpu_two_processes",
        "train_colbert",
        recipe_path("drdecr_nq"),
        "--smoke",
        "--output_dir",
        str(tmp_path),
    )
    assert_trained(tmp_path, "colbert_xlmr")
    names = {path.name for path in (tmp_path / "checkpoint-4").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= names
