"""The script that evaluates retrieval, with tiny models and files."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor
from hf_xlir.evaluation import (
    average_precision,
    compare_runs,
    fuse_rankings,
    load_benchmark,
    load_ranking,
    load_xor_retrieve_predictions,
    rank_by_bm25,
    rank_passages,
    reciprocal_rank,
    save_ranking,
    xor_retrieve_metrics,
)
from hf_xlir.evaluation.report import NOT_INDEPENDENT
from hf_xlir.models.auto import load_retriever


EXAMPLES = Path(__file__).parents[2] / "examples"
RIVERS = {"Nile": "north", "Volga": "south", "Seine": "west", "Amazon": "east", "Mekong": "south and east"}


@pytest.fixture
def run(load_script, tmp_path, capsys):
    """Runs the script. Returns its folder, the results and what it printed."""

    def run(*arguments, output="out"):
        folder = tmp_path / output
        load_script("evaluate_retrieval").main(["--output_dir", str(folder), "--use_cpu", *map(str, arguments)])
        file = folder / "results.json"
        return folder, json.loads(file.read_text("utf-8")) if file.exists() else None, capsys.readouterr().out

    return run


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def colbert(tmp_path, tiny_colbert, tiny_tokenizer):
    """A folder of a tiny ColBERT."""
    tiny_colbert.save_pretrained(tmp_path / "colbert")
    ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config).save_pretrained(tmp_path / "colbert")
    return tmp_path / "colbert"


@pytest.fixture
def beir(tmp_path):
    """Five rivers in a folder; the last question is a passage itself."""
    folder = tmp_path / "rivers"
    corpus = [{"_id": name, "title": name, "text": f"The {name} flows {to}."} for name, to in RIVERS.items()]
    queries = [{"_id": f"q{name}", "text": f"Where does the {name} flow?"} for name in list(RIVERS)[:4]]
    queries.append({"_id": "Mekong", "text": "The Mekong flows south."})
    qrels = [f"q{name}\t{name}\t1" for name in list(RIVERS)[:4]] + ["Mekong\tVolga\t2"]
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]))
    return folder


def test_model_bm25_and_their_fusion_on_the_mini_world(run, colbert):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    options = ("--languages", "en", "fi", "--measures", "RR", "MAP", "--k", 20, "--plot_format", "svg")
    folder, results, printed = run("--benchmark", "mini-world", "--model_name_or_path", colbert, *options)
    benchmark = load_benchmark("mini-world", languages=["en", "fi"])
    bm25 = rank_by_bm25(benchmark.questions, benchmark.passages, 20, progress=False)
    model = rank_passages(*load_retriever(colbert), benchmark.questions, benchmark.passages, 20, progress=False)
    systems = {"model": model, "bm25": bm25, "fusion": fuse_rankings([model, bm25], k=20)}
    assert list(results["systems"]) == ["model", "bm25", "fusion"]
    for name, ranked in systems.items():
        values = reciprocal_rank(ranked, benchmark.relevance, per_query=True)
        finnish = [value for id, value in values.items() if benchmark.groups[id] == "fi"]
        of_measure = results["systems"][name]["RR"]
        assert of_measure["fi"] == pytest.approx(sum(finnish) / len(finnish))
        assert of_measure["macro"] == pytest.approx((of_measure["fi"] + of_measure["en"]) / 2)
        assert results["systems"][name]["MAP"]["mean"] == average_precision(ranked, benchmark.relevance)
        assert load_ranking(folder / "rankings" / f"{name}.jsonl").rankings.keys() == ranked.rankings.keys()
        assert f"| RR | {name} | {100 * of_measure['en']:.1f} | {100 * of_measure['fi']:.1f} |" in printed
    assert results["systems"]["bm25"]["RR"]["en"] > results["systems"]["bm25"]["RR"]["fi"] > 0
    assert [(each["first"], each["group"]) for each in results["comparisons"]] == [
        (name, group) for name in ("model", "fusion") for group in ("en", "fi", "all")
    ]
    per_query = [reciprocal_rank(ranked, benchmark.relevance, per_query=True) for ranked in (model, bm25)]
    assert results["comparisons"][2]["p_value"] == pytest.approx(compare_runs(*per_query).p_value)
    assert results["notes"] == [NOT_INDEPENDENT, f"`model` is `{Path(colbert).name}`."]
    assert NOT_INDEPENDENT in printed  # the same questions in two languages
    assert (folder / "results.md").read_text("utf-8") in printed
    assert (folder / "by_language.svg").is_file() and (folder / "recall_curve.svg").is_file()


@pytest.mark.parametrize("kind", ["trec", "colbert", "jsonl"])
def test_nothing_is_found(run, beir, kind):
    """Only JSON has a place for a question without passages."""
    rows = [json.dumps({"_id": f"q{name}", "text": "Xyz?"}) for name in RIVERS]
    (beir / "queries.jsonl").write_text("\n".join(rows))
    (beir / "qrels" / "test.tsv").write_text("qNile\tNile\t1\n")
    folder, results, _ = run("--benchmark", beir, "--no_plots", "--ranking_format", kind)
    assert results["systems"]["bm25"]["R@10"] == {"mean": 0.0}
    assert [file.name for file in folder.glob("rankings/*")] == (["bm25.jsonl"] if kind == "jsonl" else [])


def test_a_folder_without_the_questions_own_passages(run, beir):
    folder, results, _ = run("--benchmark", beir, "--measures", "RR@10", "--no_plots", "--ranking_format", "trec")
    assert results["benchmark"] == "rivers" and results["num_questions"] == {"all": 5}
    ranked = load_ranking(folder / "rankings" / "bm25.trec").rankings
    assert all(ranked[f"q{name}"][0] == name for name in list(RIVERS)[:4])
    assert ranked["Mekong"][0] == "Volga"  # which flows south, too
    assert results["systems"] == {"bm25": {"RR@10": {"mean": 1.0}}} and results["comparisons"] == []
    assert sorted(path.name for path in folder.iterdir()) == ["rankings", "results.json", "results.md"]


def test_rankings_from_files(run, beir, tmp_path):
    first, second = tmp_path / "dense.trec", tmp_path / "dense.tsv"
    save_ranking(first, {"qNile": ["Volga", "Nile"], "Mekong": ["Mekong", "Volga"]})
    save_ranking(second, {f"q{name}": [name] for name in RIVERS}, "colbert")
    given = ("--ranking_file", first, f"other={second}", "--systems")
    _, results, printed = run("--benchmark", beir, "--measures", "RR", "R@1", "--no_plots", *given)
    assert {name: values["RR"]["mean"] for name, values in results["systems"].items()} == {
        "dense": pytest.approx((1 / 2 + 1) / 5),
        "other": pytest.approx(4 / 5),
    }
    assert "| R@1 | dense | 20.0 |" in printed
    odd = tmp_path / "k=1.trec"
    odd.write_bytes(first.read_bytes())
    _, again, _ = run("--benchmark", beir, "--no_plots", "--measures", "RR", "--systems", "--ranking_file", odd)
    assert again["systems"] == {"k=1": {"RR": {"mean": results["systems"]["dense"]["RR"]["mean"]}}}
    _, results, _ = run("--benchmark", beir, "--no_plots", "--ranking_file", first)
    assert list(results["systems"]) == ["bm25", "dense"]
    assert {each["first"] for each in results["comparisons"]} == {"dense"}


def test_an_encoder_is_compared_by_cosine_of_its_means(run, beir, make_bare_encoder, tiny_tokenizer, tmp_path):
    make_bare_encoder("BertModel").save_pretrained(tmp_path / "encoder")
    tiny_tokenizer.save_pretrained(tmp_path / "encoder")
    options = ("--systems", "model", "--no_plots", "--query_length", 16, "--document_length", 40)
    folder, _, _ = run("--benchmark", beir, "--model_name_or_path", tmp_path / "encoder", *options)
    model, processor = load_retriever(
        tmp_path / "encoder", "biencoder", pooling="mean", normalize=True, query_length=16, document_length=40
    )
    assert isinstance(processor, BiEncoderProcessor)
    questions = Dataset.from_list([{"id": "q", "question": "Where does the Nile flow?"}])
    passages = [{"id": name, "title": name, "text": f"The {name} flows {to}."} for name, to in RIVERS.items()]
    expected = rank_passages(model, processor, questions, passages, progress=False)
    found = load_ranking(folder / "rankings" / "model.jsonl")
    assert found.rankings["qNile"] == expected.rankings["q"]
    assert found.scores["qNile"] == pytest.approx(expected.scores["q"], abs=1e-5)
    assert found.scores["qNile"][0] <= 1.0001


@pytest.fixture
def xor(tmp_path):
    """Arguments for three questions of XOR-Retrieve's, on five passages."""
    rows = [
        {"id": "1", "question": "Volga?", "answers": ["south"], "lang": "ru"},
        {"id": "2", "question": "Seine?", "answers": ["yes"], "lang": "ru"},
        {"id": "3", "question": "Xyz?", "answers": ["east"], "lang": "ja"},
    ]
    (tmp_path / "xor_dev_retrieve_eng_span_v1_1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    hidden = [{name: row[name] for name in ("id", "question", "lang")} for row in rows]
    (tmp_path / "xor_test_retrieve_eng_span_q_only_v1_1.jsonl").write_text("\n".join(map(json.dumps, hidden)))
    lines = [f"{name}\tThe {name} flows {to}.\t{name}" for name, to in RIVERS.items()]
    (tmp_path / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]))
    files = ("--data_dir", tmp_path, "--passages", tmp_path / "passages.tsv")
    return ("--benchmark", "xor-retrieve", *files, "--no_plots")


def test_xor_retrieve(run, xor):
    folder, results, printed = run(*xor, "--tokenize", "treebank", "--measures", "Answer@1")
    predictions = load_xor_retrieve_predictions(folder / "predictions" / "bm25.json")
    assert predictions == [
        {"id": "1", "lang": "ru", "ctxs": ["The Volga flows south."]},
        {"id": "2", "lang": "ru", "ctxs": ["The Seine flows west."]},
        {"id": "3", "lang": "ja", "ctxs": []},
    ]
    values = {"ja": 0.0, "ru": 1.0, "macro": 0.5}
    names = [f"R@{limit}kt (treebank, approximation)" for limit in (2, 5)]
    assert list(results["systems"]["bm25"]) == [*names, "Answer@1"]
    assert results["systems"]["bm25"][names[1]] == values
    assert results["systems"]["bm25"]["Answer@1"] == {**values, "mean": 0.5}
    assert results["num_questions"] == {"ja": 1, "ru": 1}
    questions = [{"id": "1", "answers": ["south"]}, {"id": "3", "answers": ["east"]}]
    official = xor_retrieve_metrics(predictions, questions, tokenize="treebank")
    note = f"R@2kt and R@5kt: tokenized by {official['tokenizer']}."
    assert results["notes"] == [note]
    assert "| R@2kt (treebank, approximation) | bm25 | 0.0 | 100.0 | 50.0 |" in printed and note in printed


def test_xor_retrieve_in_one_language(run, xor):
    pytest.importorskip("matplotlib")
    arguments = [each for each in xor if each != "--no_plots"]
    folder, _, printed = run(*arguments, "--tokenize", "treebank", "--measures", "Answer@1", "--languages", "ru")
    assert "| R@2kt (treebank, approximation) | bm25 | 100.0 |" in printed and "| Answer@1 | bm25 | 100.0 |" in printed
    assert (folder / "by_language.png").stat().st_size > 1000


def test_the_official_tokenizer_needs_its_data_at_once(run, xor, monkeypatch, tmp_path):
    def absent(*_):
        raise LookupError("Resource punkt_tab not found.")

    monkeypatch.setattr("nltk.tokenize.sent_tokenize", absent)
    with pytest.raises(LookupError, match='or pass `tokenize="treebank"`'):
        run(*xor)
    assert not (tmp_path / "out").exists()


def test_hidden_answers_give_predictions_only(run, xor):
    folder, results, printed = run(*xor, "--split", "test")
    assert results is None and "The answers of this split are hidden" in printed
    assert len(load_xor_retrieve_predictions(folder / "predictions" / "bm25.json")) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["predictions", "rankings"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--systems", "model"], "the systems model and fusion need --model_name_or_path"),
        (["--systems"], "nothing to evaluate: give --systems or --ranking_file"),
        (["--ranking_file", "a/run.trec", "b/run.tsv"], "--ranking_file needs NAME=FILE where names are equal"),
        (["--ranking_file", "bm25.trec"], "or one of model, bm25 and fusion"),
        (
            ["--ranking_file", "a/b=run.trec"],
            "--ranking_file: names are those of files, without a folder, got ['a/b']",
        ),
        (["--measures", "R@5", "P@5"], "--measures: 'P@5' is not a measure"),
        (["--fusion_weights", "-1", "1"], "--fusion_weights: `weights`"),
        (["--k", "0"], "--k must be a positive integer, got 0"),
    ],
)
def test_mistakes_end_the_script_before_work_starts(run, capsys, tmp_path, arguments, message):
    with pytest.raises(SystemExit):
        run("--benchmark", "mini-world", *arguments)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said_at_once(run, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="`ranking_file run`: There is no file `run.trec`"):
        run("--benchmark", "mini-world", "--ranking_file", "run.trec")
    with pytest.raises(FileNotFoundError, match="`passages`: There is no file `absent.tsv`"):
        run("--benchmark", "nq", "--passages", "absent.tsv")
    (tmp_path / "run.trec").write_text("q1 Q0 a 1 high x\n")
    with pytest.raises(ValueError, match="line 1: the score 'high'"):
        run("--benchmark", "mini-world", "--no_plots", "--ranking_file", tmp_path / "run.trec")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="Plots need `matplotlib`"):
        run("--benchmark", "mini-world")
    assert not (tmp_path / "out").exists()


def test_measures_that_a_benchmark_has_not_are_refused_before_it_is_ranked(run, beir, xor, tmp_path):
    with pytest.raises(ValueError, match="`Answer@5` need `answers` and `passages`"):
        run("--benchmark", beir, "--measures", "R@5", "Answer@5", "--no_plots")
    with pytest.raises(ValueError, match="`R@5` need `relevance`"):
        run(*xor, "--measures", "R@5", "--tokenize", "treebank")
    assert not (tmp_path / "out").exists()


def test_ids_that_a_format_cannot_hold_are_refused_before_they_are_ranked(run, beir, tmp_path):
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('\n{"_id": "Rio Negro", "title": "", "text": "It flows east."}\n')
    options = ("--benchmark", beir, "--no_plots", "--ranking_format")
    with pytest.raises(ValueError, match="`passages` has the id 'Rio Negro', with white space"):
        run(*options, "trec")
    (tmp_path / "run.jsonl").write_text('{"id": "qNile", "ctxs": [{"id": "Nile"}]}\n')
    with pytest.raises(ValueError, match="`--ranking_file` has the name 'my run', with white space"):
        run(*options, "trec", "--ranking_file", f"my run={tmp_path / 'run.jsonl'}")
    assert not (tmp_path / "out").exists()
    run(*options, "colbert")


def test_passages_in_a_language_without_spaces(run, beir):
    """Questions and passages share no run of letters, but pairs of characters."""
    texts = {"Nile": "尼罗河向北流入地中海。", "Volga": "伏尔加河向南流入里海。", "Seine": "塞纳河流经巴黎。"}
    corpus = [{"_id": name, "title": "", "text": text} for name, text in texts.items()]
    queries = [{"_id": f"q{name}", "text": f"请问{text[:3]}在哪里?"} for name, text in texts.items()]
    (beir / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (beir / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (beir / "qrels" / "test.tsv").write_text("\n".join(f"q{name}\t{name}\t1" for name in texts))
    options = ("--benchmark", beir, "--measures", "R@1", "--no_plots")
    for given, expected in (((), 1.0), (("--bm25_tokenize", "bigrams"), 1.0), (("--bm25_tokenize", "words"), 0.0)):
        _, results, printed = run(*options, *given)
        assert results["systems"]["bm25"]["R@1"] == {"mean": expected}
        assert results["notes"] == ["`bm25` counts pairs of characters as words."] * int(expected)
        assert (results["notes"] == []) or results["notes"][0] in printed


@pytest.mark.slow
def test_two_processes_write_what_one_does(run, beir, colbert, tmp_path):
    options = ("--benchmark", str(beir), "--no_plots", "--model_name_or_path", str(colbert))
    one, results, _ = run(*options, output="one")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [
        str(EXAMPLES / "accelerate_configs" / "cpu_two_processes.yaml"),
        str(EXAMPLES / "evaluate_retrieval.py"),
    ]
    command += [*options, "--use_cpu", "--output_dir", str(tmp_path / "two")]
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("questions on") == done.stdout.count("are in") == 1  # the first process alone speaks
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file()
    )
    two = json.loads((tmp_path / "two" / "results.json").read_text("utf-8"))
    assert two["notes"] == results["notes"] and two["num_questions"] == results["num_questions"]
    for name in ("model", "bm25", "fusion"):
        rankings = [load_ranking(folder / "rankings" / f"{name}.jsonl") for folder in (one, tmp_path / "two")]
        assert rankings[0].rankings.keys() == rankings[1].rankings.keys()
        for id, scores in rankings[0].scores.items():
            assert rankings[1].scores[id] == pytest.approx(scores, abs=1e-4)
        for measure, values in results["systems"][name].items():
            assert two["systems"][name][measure] == pytest.approx(values, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("language, reached", [("en", 0.5), ("ar", 0.0)])
def test_bm25_on_xquad(run, shared_data, language, reached):
    """What the first lines of the script show, without a model."""
    options = ("--languages", language, "--measures", "R@1", "R@10", "--no_plots")
    _, results, printed = run("--benchmark", "xquad-r", "--data_dir", shared_data, *options)
    values = results["systems"]["bm25"]["R@1"]
    assert list(values) == [f"{language}-en", "macro", "mean"] and results["num_passages"] == 240
    assert reached <= values["mean"] <= results["systems"]["bm25"]["R@10"]["mean"]
    assert (values["mean"] < 0.2) == (language == "ar") and math.isclose(values["macro"], values["mean"])
    assert f"`xquad-r`: 1,190 {language}-en questions on 240 passages" in printed
    assert not Path(".", "results.md").exists()
