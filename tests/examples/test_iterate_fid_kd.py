"""Rounds of a reader that teaches its retriever, in small: what they write, and that they go on where they stopped."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, TrainingArguments

from hf_xlir import BiEncoderModel, BiEncoderProcessor, ColBERTXLMRModel, ColBERTXLMRProcessor
from hf_xlir.data import load_passages, load_questions, load_xquad
from hf_xlir.evaluation import rank_passages, success_at_k
from hf_xlir.index import DenseEmbeddings, DenseIndex, LateInteractionIndex
from hf_xlir.utils.files import folder_lock, write_text
from support.smoke import prepare_smoke


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Small data and tiny models, written once."""
    folder = tmp_path_factory.mktemp("data")
    paths = prepare_smoke(TrainingArguments(str(folder), use_cpu=True))
    tokenizer = AutoTokenizer.from_pretrained(paths["encoder"])
    for name, model_class, processor_class in (
        ("biencoder", BiEncoderModel, BiEncoderProcessor),
        ("colbert", ColBERTXLMRModel, ColBERTXLMRProcessor),
    ):
        model = model_class.from_pretrained(paths["encoder"], query_length=16, document_length=32)
        model.save_pretrained(folder / name)
        processor_class.from_config(tokenizer, model.config).save_pretrained(folder / name)
        paths[name] = str(folder / name)
    return paths


def arguments(smoke, output_dir, retriever="biencoder", **changes):
    options = {"max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "save_strategy": "steps"}
    options = " ".join(f"--{name} {value}" for name, value in (options | {"save_steps": 1}).items())
    given = {
        "retriever": smoke[retriever],
        "reader": smoke["backbone"],
        "train_questions": smoke["questions"],
        "eval_questions": smoke["questions"],
        "passages": smoke["passages"],
        "n_context": 3,
        "reader_arguments": f"{options} --text_maxlength 48",
        "retriever_arguments": options,
        "output_dir": str(output_dir),
        **changes,
    }
    listed = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return [*listed, "--k", "1", "3", "--use_cpu"]


@pytest.mark.slow
def test_rounds(load_script, smoke, tmp_path, capsys):
    script, out = load_script("iterate_fid_kd"), tmp_path / "out"
    script.main(arguments(smoke, out))
    lines = (out / "report.md").read_text().splitlines()
    names = ["round", "success@1", "success@3", "answer_recall@1", "answer_recall@3", "exact_match", "f1"]
    assert lines[0] == "| " + " | ".join(names) + " |" and len(lines) == 4
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["0", "1"]
    # Retrieval of each round is that of its retriever
    questions, passages = load_questions(smoke["questions"]), load_passages(smoke["passages"])
    relevance = dict(zip(questions["id"], questions["passage_ids"], strict=True))
    for line, folder in zip(lines[2:], (smoke["biencoder"], out / "round_0" / "retriever"), strict=True):
        model = BiEncoderModel.from_pretrained(folder).eval()
        processor = BiEncoderProcessor.from_pretrained(folder)
        rankings, _ = rank_passages(model, processor, questions, passages, k=3, progress=False)
        assert float(line.split("|")[3]) == pytest.approx(success_at_k(rankings, relevance, 3), abs=1e-4)
        kept = out / f"round_{line.split('|')[1].strip()}" / "passages"
        assert DenseIndex.load(kept / "index").ids == DenseEmbeddings.load(kept / "embeddings").ids == passages["id"]
    scored = [json.loads(line) for line in (out / "round_0" / "scores" / "dataset_wscores.jsonl").open()]
    assert len(scored) == len(questions)
    assert all(len(row["ctxs"]) == 3 and all(isinstance(c["score"], float) for c in row["ctxs"]) for row in scored)
    # Again, nothing is done; a step that was cut short is, with those after it untouched
    capsys.readouterr()
    script.main(arguments(smoke, out))
    assert "round_0: " not in capsys.readouterr().out
    (out / "round_0" / "answers.done.json").unlink()
    shutil.rmtree(out / "round_0" / "answers")
    script.main(arguments(smoke, out))
    assert [line for line in capsys.readouterr().out.splitlines() if "round_" in line] == ["round_0: answers"]
    assert not list(out.glob("*/*.started.json")) and not (out / "rounds.lock").exists()


@pytest.mark.slow
def test_other_options_are_refused(load_script, smoke, tmp_path, monkeypatch, capsys):
    """By steps that are done, and by one that would go on from a checkpoint; not by what has made nothing yet."""
    script, out = load_script("iterate_fid_kd"), tmp_path / "out"
    given = dict(zip(*[iter(arguments(smoke, out)[:-4])] * 2, strict=True))
    reader, retriever = given["--reader_arguments"], given["--retriever_arguments"]

    def fails_to_begin(argv):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(script.load_script("train_reader"), "main", fails_to_begin)
        script.main(arguments(smoke, out, reader_arguments=f"{reader} --learning_rate 9"))
    assert (out / "round_0" / "train_reader.started.json").exists()

    def killed(path, text):
        if path.name == "train_reader.done.json":
            raise KeyboardInterrupt
        write_text(path, text)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script, "write_text", killed)
        script.main(arguments(smoke, out))
    checkpoint = out / "round_0" / "reader" / "checkpoint-1"
    before = {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    capsys.readouterr()
    for changed, said in (
        (f"{reader} --learning_rate=1e-3", "`--learning_rate` was not given, is 1e-3"),
        (reader.replace("--text_maxlength 48", "--bf16"), "`--text_maxlength` was 48, is not given; `--bf16` was not"),
    ):
        with pytest.raises(ValueError) as caught:
            script.main(arguments(smoke, out, reader_arguments=changed))
        assert f"round_0, train_reader (unfinished): {said}" in str(caught.value)
        assert f"`{out}/round_0/reader` and `{out}/round_0/train_reader.*.json`" in str(caught.value)
        assert "more steps" not in str(caught.value)
    with pytest.raises(ValueError, match=r"retrieve_eval \(finished\): `--n_context` was 3, is 2\nand 2 more"):
        script.main(arguments(smoke, out, n_context=2))
    with pytest.raises(ValueError, match=r"round_0, train_reader \(unfinished\): `--seed` was 0, is 1\n"):
        script.main([*arguments(smoke, out), "--seed", "1"])
    assert "round_0: " not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == before
    # In another order they are the same, and the retriever's training has not begun
    reordered = " ".join(f"--{each}" for each in reversed(reader.removeprefix("--").split(" --")))
    changed = f"{retriever} --learning_rate 1e-3"
    script.main(arguments(smoke, out, reader_arguments=reordered, retriever_arguments=changed))
    done = json.loads((out / "round_0" / "train_retriever.done.json").read_text())
    assert done["arguments"][-3:] == ["--learning_rate", "1e-3", "--use_cpu"]
    with pytest.raises(ValueError, match=r"train_retriever \(finished\): `--learning_rate` was 1e-3, is not given"):
        script.main(arguments(smoke, out))


def test_two_runs_at_once(load_script, smoke, tmp_path):
    with (
        folder_lock(tmp_path / "out", "rounds.lock"),
        pytest.raises(RuntimeError, match="Another run is writing"),
    ):
        load_script("iterate_fid_kd").main(arguments(smoke, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_colbert_and_a_reader_that_is_kept(load_script, smoke, tmp_path):
    out = tmp_path / "out"
    given = [*arguments(smoke, out, "colbert"), "--keep_reader", "--answered_only"]
    given += ["--reader_distillation", "perplexity"]
    reader = smoke["backbone"]
    load_script("iterate_fid_kd").main(given)
    with open(out / "round_0" / "scores" / "dataset_wscores.jsonl") as lines:
        scored = [json.loads(line) for line in lines]
    assert all(passage["score"] < 0 for row in scored for passage in row["ctxs"])  # log-likelihoods
    assert "perplexity" in json.loads((out / "round_0" / "train_retriever.done.json").read_text())["arguments"]
    of_split = [json.loads((out / "round_0" / f"retrieve_{each}.done.json").read_text()) for each in ("train", "eval")]
    assert ["--answered_only" in each["arguments"] for each in of_split] == [True, False]
    steps = sorted(path.name.removesuffix(".done.json") for path in (out / "round_0").glob("*.done.json"))
    assert steps == ["answers", "index", "retrieve_eval", "retrieve_train", "scores", "train_retriever"]
    assert (
        LateInteractionIndex.load(out / "round_1" / "passages" / "index").ids == load_passages(smoke["passages"])["id"]
    )
    done = json.loads((out / "round_1" / "answers.done.json").read_text())
    assert reader in done["arguments"] and ColBERTXLMRModel.from_pretrained(out / "round_0" / "retriever")


@pytest.mark.slow
def test_a_step_that_was_killed_goes_on(load_script, smoke, tmp_path, monkeypatch):
    """In the middle of whichever step: what was made stays, and the end is that of a run that was never killed."""
    script = load_script("iterate_fid_kd")
    script.main(arguments(smoke, tmp_path / "whole"))
    names = ["index", "retrieve_eval", "retrieve_train", "train_reader", "answers", "scores", "train_retriever"]
    given = arguments(smoke, tmp_path / "out")
    for place, name in enumerate(names):

        def killed(path, text, name=name):
            if path.name == f"{name}.done.json":
                raise KeyboardInterrupt
            write_text(path, text)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(script, "write_text", killed)
            script.main(given)
        done = {path.name.removesuffix(".done.json") for path in (tmp_path / "out" / "round_0").glob("*.done.json")}
        assert done == set(names[:place])
    script.main(given)
    for name in ("report.md", "round_0/scores/dataset_wscores.jsonl", "round_1/eval.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text(), name


@pytest.mark.slow
@pytest.mark.parametrize("retriever", ["biencoder", "colbert"])
def test_rounds_on_xquad(load_script, smoke, shared_data, tmp_path, retriever):
    """Real paragraphs of their natural lengths, asked in two languages: all steps of a round, whole."""
    if not (shared_data / "xquad").is_dir():
        pytest.skip("XQuAD is not among the shared data")
    passages, questions = load_xquad("en", shared_data / "xquad")
    asked = {row["id"]: row["question"] for row in load_xquad("ar", shared_data / "xquad").questions}
    rows = [
        {**row, "question": asked[row["id"]], "lang": "ar"} if place % 2 else row
        for place, row in enumerate(questions)
    ]
    given = {}
    for name, some in (("passages", passages), ("train_questions", rows[:24]), ("eval_questions", rows[600:616])):
        given[name] = str(tmp_path / f"{name}.jsonl")
        Path(given[name]).write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    load_script("iterate_fid_kd").main(arguments(smoke, tmp_path / "out", retriever, n_context=5, **given))
    lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert len(lines) == 4 and "exact_match" in lines[0]
    scored = [
        json.loads(line) for line in (tmp_path / "out/round_0/scores/dataset_wscores.jsonl").open(encoding="utf-8")
    ]
    assert len(scored) == 24 and {row["lang"] for row in scored} == {"en", "ar"}
    assert all(isinstance(each["score"], float) for row in scored for each in row["ctxs"])
    results = json.loads((tmp_path / "out/round_1/answers/eval_results.json").read_text())
    assert {"ar_exact_match", "en_f1"} <= set(results) and results["num_with_answers"] == 16


def test_a_launcher_starts_each_step(load_script, smoke, tmp_path, monkeypatch):
    script, started = load_script("iterate_fid_kd"), []

    def run(command, check):
        started.append((command[:2], Path(command[2]).stem, check))
        script.load_script(Path(command[2]).stem).main(command[3:])

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=run))
    script.main([*arguments(smoke, tmp_path / "out", launcher="accelerate launch"), "--keep_reader"])
    of_round = ["index_passages", "retrieve_passages", "retrieve_passages", "evaluate_reader", "evaluate_reader"]
    names = [*of_round, "train_biencoder", "index_passages", "retrieve_passages", "evaluate_reader"]
    assert started == [(["accelerate", "launch"], name, True) for name in names]


def test_errors(load_script, smoke, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="`passages`: There is no file `absent.tsv`"):
        load_script("iterate_fid_kd").main(arguments(smoke, tmp_path / "out", passages="absent.tsv"))
    assert not (tmp_path / "out").exists()
    lines = [json.loads(line) for line in open(smoke["questions"], encoding="utf-8")]
    lines[2]["answers"] = []
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match="1 of 16 questions in `.*train.jsonl` have no `answers`, from which"):
        load_script("iterate_fid_kd").main(
            arguments(smoke, tmp_path / "out", train_questions=str(tmp_path / "train.jsonl"))
        )
    script = load_script("iterate_fid_kd")
    given = arguments(smoke, tmp_path / "out", train_questions=str(tmp_path / "train.jsonl"))
    script.check_questions(script.parse_arguments([*given, "--answered_only"]))  # a step leaves them out
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({**line, "answers": []}) for line in lines))
    with pytest.raises(ValueError, match="16 of 16 questions in `.*train.jsonl` have no `answers`"):
        script.check_questions(script.parse_arguments([*given, "--answered_only"]))
    with pytest.raises(ValueError, match="is of type 'biencoder'"):
        load_script("iterate_fid_kd").main(arguments(smoke, tmp_path / "out", reader=smoke["biencoder"]))
    for added, said in (
        (
            "--learning_rate 1 --seed=3",
            "`--reader_arguments` has `--seed`",
        ),
        ("--max_step 1 --bf16", "`train_reader.py` does not take --max_step 1: correct its arguments"),
        ("fid_reader_base.yaml", "begins with `fid_reader_base.yaml`"),
    ):
        with pytest.raises(ValueError, match=said):
            load_script("iterate_fid_kd").main(arguments(smoke, tmp_path / "out", reader_arguments=added))
    for name, added, said in (
        ("index_arguments", "--factor SQ8 --dtype float8", "--dtype: invalid choice: 'float8'"),
        (
            "retriever_arguments",
            "--learning_rate high",
            "--learning_rate/--learning-rate: invalid float value",
        ),
    ):
        with pytest.raises(SystemExit):
            load_script("iterate_fid_kd").main(arguments(smoke, tmp_path / "out", **{name: added}))
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        load_script("iterate_fid_kd").main([*arguments(smoke, tmp_path / "out"), "--rounds", "0"])
    assert "take positive integers" in capsys.readouterr().err
