"""The script that compares indexes' sizes, on small data."""

import copy
import json
import re

import pytest

from hf_xlir import BiEncoderModel, BiEncoderProcessor, ColBERTXLMRProcessor
from hf_xlir.data import load_passages
from hf_xlir.evaluation import rank_passages
from hf_xlir.index import DenseEmbeddings, DenseIndex, embed_queries


RIVERS = ("Nile", "Volga", "Seine", "Amazon", "Mekong", "Don", "Rhine", "Tiber")


@pytest.fixture
def files(tmp_path, tiny_biencoder, tiny_tokenizer):
    """Eight rivers; a folder with a model."""
    processor = BiEncoderProcessor.from_config(tiny_tokenizer, tiny_biencoder.config)
    for part in (tiny_biencoder, processor):
        part.save_pretrained(tmp_path / "model")
    passages, questions = [], []
    for name in RIVERS:
        text = f"The {name} flows north." + " Far." * (name == "Don")
        passages.append({"id": name, "title": name, "text": text})
        question = {"id": f"q{name}", "question": f"Where is the {name}?", "answers": [name], "passage_ids": [name]}
        questions.append(question)
    for name, rows in {"passages": passages, "questions": questions}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--model_name_or_path", tmp_path / "model", "--passages", tmp_path / "passages.jsonl"]
    given += ["--questions", tmp_path / "questions.jsonl", "--output_dir", tmp_path / "out"]
    return [str(each) for each in given], tmp_path, (tiny_biencoder, processor), (questions, passages)


def report_of(folder):
    return json.loads((folder / "out" / "report.json").read_text())


def test_report_and_choice(load_script, files):
    given, folder, parts, (questions, passages) = files
    options = ["--factories", "Flat", "SQ8", "--n_subquantizers", "2", "--k", "1", "3", "--choose", "SQ8"]
    options = [each for each in options if each not in ("--n_subquantizers", "2")]
    load_script("compress_index").main([*given, *options])
    flat, small = report_of(folder)
    rankings, _ = rank_passages(*parts, questions, passages, k=3, progress=False)
    for k in (1, 3):
        found = sum(row["passage_ids"][0] in rankings[row["id"]][:k] for row in questions) / 8
        assert flat["quality"][str(k)] == found
    assert flat["num_passages"] == 8 and flat["num_bytes"] - small["num_bytes"] > 8 * 8 * 3 - 200
    assert "| all | SQ8 | 8 | 8 |" in (folder / "out" / "report.md").read_text()
    index, kept = DenseIndex.load(folder / "out" / "index"), load_passages(folder / "out" / "passages.jsonl")
    index.attach(kept, "dense")
    vector = embed_queries(*parts, ["Where is the Nile?"]).embeddings[0].numpy()
    assert len(kept.get_nearest_examples("dense", vector, k=3)[1]["title"]) == 3
    assert not list((folder / "out").glob("*.unfinished"))


def test_filters(load_script, files):
    given, folder, *_ = files
    options = ["--factories", "Flat", "--k", "8", "--train_questions", given[5], "--keep", "1", "0.5"]
    load_script("compress_index").main([*given, "--factories", "Flat", "--k", "8"])
    lines = (folder / "questions.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join(lines[:2]))
    options[options.index("--train_questions") + 1] = str(folder / "train.jsonl")
    embedded = ["--embeddings", str(folder / "out" / "embeddings"), "--choose", "Flat"]
    load_script("compress_index").main([*given, *options, *embedded, "--drop_titles", "^Tiber", "--max_words", "4"])
    everything, half = report_of(folder)
    assert (everything["passages"], everything["num_passages"]) == ("100% kept", 6)
    assert (half["passages"], half["num_passages"]) == ("50% kept", 3)
    assert everything["quality"]["8"] == 6 / 8 and half["quality"]["8"] == 3 / 8
    kept = set(load_passages(folder / "out" / "passages.jsonl")["id"])
    assert len(kept) == 3 and not kept & {"Tiber", "Don"} and (folder / "out" / "filter.safetensors").exists()


def test_answers_where_no_passage_is_known(load_script, files):
    given, folder, *_ = files
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    for line in lines:
        del line["passage_ids"]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    load_script("compress_index").main([*given, "--factories", "Flat", "--k", "8", "1"])
    (row,) = report_of(folder)
    assert row["quality"]["8"] == 1.0 and 0 <= row["quality"]["1"] < 1


def test_models_of_other_dimensions_side_by_side(load_script, files, tiny_tokenizer):
    given, folder, (model, _), _ = files
    config = copy.deepcopy(model.config)
    config.embedding_dim = 4
    small = BiEncoderModel(config)
    for part in (small, BiEncoderProcessor.from_config(tiny_tokenizer, small.config)):
        part.save_pretrained(folder / "small")
    script, options = load_script("compress_index"), ["--factories", "Flat", "SQ8", "--k", "1", "3"]
    script.main([*given, *options])
    given[1], given[-1] = str(folder / "small"), str(folder / "out_small")
    beside = ["--beside", str(folder / "out")]
    script.main([*given, *options, *beside])
    first, second = ((folder / name / "report.md").read_text().splitlines() for name in ("out", "out_small"))
    assert second[:4] == first and len(second) == 6
    assert [line.split(" | ")[1:3] for line in second[2:]] == [
        [index, dimensions] for dimensions in ("8", "4") for index in ("Flat", "SQ8")
    ]
    assert len(json.loads((folder / "out_small" / "report.json").read_text())) == 2
    with pytest.raises(ValueError, match=r"has a report at depths \[1, 3\], not `--k` \[2\]"):
        script.main([*given, "--k", "2", *beside])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beside", "."], "`--beside`: `.` has no `report.json`"),
        (["--keep", "0.5"], "`--keep` below 1 and `--train_questions` go together"),
        (["--k", "0"], "`--k` and `--n_probe` take positive integers, got [0] and None"),
        (["--n_probe", "0"], "`--k` and `--n_probe` take positive integers"),
        (["--train_questions", "absent.jsonl", "--keep", "2"], "takes shares above 0 and up to 1"),
        (["--train_questions", "absent.jsonl", "--keep", "0.5"], "there is no file `absent.jsonl`"),
    ],
)
def test_errors(load_script, files, capsys, arguments, message):
    with pytest.raises(SystemExit):
        load_script("compress_index").main([*files[0], *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n_subquantizers", "5"], "FAISS cannot make an index 'PQ5' of 8 dimensions"),
        (["--factories", "Flat", "SQ9"], "FAISS cannot make an index 'SQ9'"),
        (["--choose", "Flaat"], "FAISS cannot make an index 'Flaat'"),
        (["--n_subquantizers", "2"], "FAISS cannot train an index 'PQ2' on 8 vectors: it takes at least 256\nLeave"),
        (["--choose", "IVF9,SQ8"], "FAISS cannot train an index 'IVF9,SQ8' on 8 vectors: it takes at least 9\n"),
        (["--train_questions", "questions.jsonl", "--keep", "0.5"], "got 8 and 0"),
        (["--min_words", "50"], "No passage is left: loosen `--min_words`"),
        (["--drop_titles", "."], "No passage is left"),
        (["--drop_titles", "("], "`drop_titles`"),
        (["--train_questions", "plain.jsonl", "--keep", "0.5"], "`plain.jsonl` has no `passage_ids`"),
        (["--questions", "plain.jsonl"], "Questions need `passage_ids`, or all of them `answers`"),
        (["--model_name_or_path", "colbert"], "of type 'colbert_xlmr'"),
    ],
)
def test_what_cannot_work_is_said_before_passages_are_embedded(
    load_script, files, tiny_colbert, tiny_tokenizer, monkeypatch, arguments, message
):
    given, folder, *_ = files
    monkeypatch.chdir(folder)
    (folder / "plain.jsonl").write_text('{"question": "Where?"}')
    for part in (tiny_colbert, ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config)):
        part.save_pretrained(folder / "colbert")
    with pytest.raises(ValueError, match=re.escape(message)):
        load_script("compress_index").main([*given, *arguments])
    assert not (folder / "out").exists()


def test_all_that_cannot_work_is_said_at_once(load_script, files, tmp_path):
    given, folder, *_ = files
    (folder / "train.jsonl").write_text((folder / "questions.jsonl").read_text().splitlines()[0])
    options = ["--train_questions", str(folder / "train.jsonl"), "--keep", "1", "0.5", "--choose", "IVF8,SQ8"]
    options += ["--factories", "SQ8", "IVF5,Flat", "SQ9", "IVF8,SQ8", "PQ4x3", "IVF9,Flat", "IVF4,Flat"]
    with pytest.raises(ValueError) as caught:
        load_script("compress_index").main([*given, *options])
    *lines, advice = str(caught.value).splitlines()
    assert lines[0].startswith("FAISS cannot make an index 'SQ9' of 8 dimensions: ")
    found = re.findall(r"train an index '(\S+)' on (\d) vectors: it takes at least (\d)$", "\n".join(lines), re.M)
    of_all = [("IVF9,Flat", "8", "9")]
    of_half = [("IVF5,Flat", "4", "5"), ("IVF8,SQ8", "4", "8"), ("PQ4x3", "4", "8"), ("IVF9,Flat", "4", "9")]
    assert found == of_all + of_half and advice.startswith("Leave these out, or keep more passages")
    assert not (folder / "out").exists()


def test_shares_that_are_nearly_alike_are_two(load_script, files):
    given, folder, *_ = files
    (folder / "train.jsonl").write_text((folder / "questions.jsonl").read_text().splitlines()[0])
    options = ["--factories", "Flat", "--k", "8", "--train_questions", str(folder / "train.jsonl")]
    load_script("compress_index").main([*given, *options, "--keep", "0.125", "0.12"])
    assert [row["passages"] for row in report_of(folder)] == ["12.5% kept", "12% kept"]


def test_other_embeddings_are_refused(load_script, files):
    given, folder, parts, _ = files
    embeddings = DenseEmbeddings(embed_queries(*parts, list(RIVERS)).embeddings.numpy(), [*RIVERS[1:], RIVERS[0]])
    embeddings.save(folder / "others")
    with pytest.raises(ValueError, match="has other passages than"):
        load_script("compress_index").main([*given, "--embeddings", str(folder / "others")])
