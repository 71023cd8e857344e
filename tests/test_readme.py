"""The README's Python blocks, run as printed with tiny local models in place of the Hub's."""

import inspect
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoProcessor,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaModel,
)

import hf_xlir.index
from hf_xlir import (
    BiEncoderModel,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    RetrievalPipeline,
    RetrieverTrainer,
    RetrieverTrainingArguments,
)
from hf_xlir.data import load_mini_world
from hf_xlir.models import load_retriever
from support.vocabulary import train_tokenizer


BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text("utf-8"), re.DOTALL)


def block(*words):
    [found] = [text for text in BLOCKS if all(word in text for word in words)]
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_encoder_config):
    """Folders for the Hub names that README uses."""
    folder = tmp_path_factory.mktemp("models")
    names = {
        "FacebookAI/xlm-roberta-base": folder / "xlm-roberta",
        "google/mt5-small": folder / "mt5",
        "english-colbert": folder / "english-colbert",
    }
    world = load_mini_world(["ko"])
    tokenizer = train_tokenizer([*world.passages["text"], *world.parallel["source"]], 2000)
    config = make_encoder_config(vocab_size=len(tokenizer), max_position_embeddings=300)
    encoder = XLMRobertaModel(config, add_pooling_layer=False)
    encoder.save_pretrained(names["FacebookAI/xlm-roberta-base"])
    tokenizer.save_pretrained(names["FacebookAI/xlm-roberta-base"])
    colbert = ColBERTXLMRModel.from_pretrained(names["FacebookAI/xlm-roberta-base"])
    colbert.save_pretrained(names["english-colbert"])
    ColBERTXLMRProcessor.from_config(tokenizer, colbert.config).save_pretrained(names["english-colbert"])
    reader = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=1
        )
    )
    reader.save_pretrained(names["google/mt5-small"])
    tokenizer.save_pretrained(names["google/mt5-small"])
    return {name: str(path) for name, path in names.items()}


def run(text, models, namespace=None):
    for name, path in models.items():
        text = text.replace(f'"{name}"', repr(path))
    text = text.replace("max_steps=1000", "max_steps=1, use_cpu=True, report_to='none'")
    namespace = {} if namespace is None else namespace
    exec(compile(text, "README.md", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def colbert(models):
    return run(block("ColBERTXLMRModel", "LateInteractionIndex"), models)


def test_colbert(models):
    names = colbert(models)
    assert isinstance(names["model"], ColBERTXLMRModel)
    assert len(names["scores"]) == len(names["found"]["title"]) == 5
    assert list(names["scores"]) == sorted(names["scores"], reverse=True)


def test_index(models, tmp_path, capsys):
    passages = load_mini_world().passages
    for name, rows in (("passages", range(40)), ("news", range(40, 50))):
        passages.select(rows).to_json(tmp_path / f"{name}.jsonl")
    names, ids = colbert(models), passages["id"][:50]
    names = run(block("LateInteractionIndex", "concatenate_datasets"), models, names)
    assert names["index"].ids == names["passages"]["id"] == ids[1:] and names["index"].settings.nbits == 4
    assert len(names["found"]["title"]) == 5 and names["rows"].min() >= 39
    assert "TokenMatch(query_token=0" in capsys.readouterr().out


def test_biencoder(models, capsys):
    names = run(block("BiEncoderModel", "add_dense_index"), models)
    assert isinstance(names["encoder"], BiEncoderModel)
    assert names["rows"][0][0]["title"] in capsys.readouterr().out


def test_reader(models, capsys):
    names = run(block("FiDT5Processor"), models)
    assert names["output"].reader_scores.shape == (1, 2)


def test_training_and_sharing(models, tmp_path, own_hub_export):
    names = run(block("english-colbert", "RetrieverTrainer("), models)
    run(block("register_for_hub_export()"), models, names)
    assert (tmp_path / "my-colbert" / "modeling_colbert_xlmr.py").is_file()
    assert isinstance(AutoModel.from_pretrained(tmp_path / "my-colbert"), ColBERTXLMRModel)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "my-colbert"), ColBERTXLMRProcessor)


def test_hard_negatives_evaluation_and_resuming(models, tmp_path):
    world = load_mini_world(["ko"])
    passages = world.passages.select(range(40))
    passages.to_json(tmp_path / "passages.jsonl")
    questions = [
        question for question in world.questions["train"] if set(question["passage_ids"]) <= set(passages["id"])
    ]
    for name, part in (("questions", questions[:8]), ("other_questions", questions[8:])):
        Dataset.from_list(part).to_json(tmp_path / f"{name}.jsonl")
    names = run(block("HardNegativeRefresh"), models)
    assert len(names["negatives"].rows[0]["negatives"]) == 1
    assert names["trainer"].state.best_model_checkpoint == "dense/checkpoint-1"
    weights = names["trainer"].model.state_dict()
    again = run(block("HardNegativeRefresh"), models)["trainer"]  # goes on from the end
    assert again.state.global_step == 1
    assert all(torch.equal(value, weights[name]) for name, value in again.model.state_dict().items())


def test_asking(models, capsys):
    """After the blocks before it, but for the one that needs files; in order, as a newcomer runs them."""
    names = colbert(models)
    for words in (("BiEncoderModel", "add_dense_index"), ("FiDT5Processor",), ("QuestionAnsweringPipeline",)):
        names = run(block(*words), models, names)
    result = names["result"]
    assert isinstance(result["answer"], str) and 0 <= result["score"] <= 1 and len(result["passages"]) == 5
    assert "query_token" in capsys.readouterr().out


def test_parts_of_ones_own(models, capsys):
    names = run(block("load_encoder"), models)
    assert RetrievalPipeline.from_pretrained("my-search", device="cpu")("Egypt?") == names["search"]("Egypt?")
    names = run(block("class Hinge(Objective)"), models, names)
    assert "\n['Nile'" in capsys.readouterr().out
    allowed = names["search"](["river", "?"], allowed_ids=["river-nile", "animal-lion"])
    assert [[passage["id"] for passage in found] for found in allowed] == [["river-nile"], []]
    model, processor = load_retriever(models["english-colbert"])
    rows = [{"query": "Egypt?", "positive": "The Nile.", "negatives": ["The Nile."]}] * 8  # a margin of 0
    args = RetrieverTrainingArguments("out", max_steps=1, use_cpu=True, report_to="none")
    trainer = RetrieverTrainer(model, args, processor, objective=names["Hinge"](), train_dataset=rows)
    assert trainer.train().training_loss == pytest.approx(1)


def test_uploads(models, monkeypatch):
    """The calls of trainer and index, without a Hub: their names and arguments, and what stands for results."""
    calls = []

    def recorded(function):
        def call(*args, **kwargs):
            inspect.signature(function).bind(*args, **kwargs)
            calls.append(function)
            return "an index", "passages"

        return call

    for name in ("push_index_to_hub", "load_index_from_hub"):
        monkeypatch.setattr(f"hf_xlir.index.{name}", recorded(getattr(hf_xlir.index, name)), raising=False)
    trainer = SimpleNamespace(push_to_hub=recorded(partial(RetrieverTrainer.push_to_hub, None)))
    names = run(
        block("push_index_to_hub"),
        models,
        {name: None for name in ("index", "passages", "evaluations")} | {"trainer": trainer},
    )
    assert len(calls) == 3 and (names["index"], names["passages"]) == ("an index", "passages")


def test_every_block_is_tested():
    assert len(BLOCKS) == 11
