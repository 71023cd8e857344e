"""Cards say what they are given and that the rest is unknown. The Hub accepts them, and their code runs as printed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from card_rules import faults_of_card
from fid_tiny import make_backbone, make_reader, make_tokenizer
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import UndefinedError
from transformers import BertConfig

from hf_xlir import BiEncoderConfig, BiEncoderProcessor, ColBERTXLMRConfig, ColBERTXLMRProcessor, FiDT5Processor
from hf_xlir.hub import build_model_card, family_cards, render_card, write_family_cards
from hf_xlir.hub.papers import PAPERS, find_papers
from hf_xlir.models.auto import FAMILIES


CARDS = Path(__file__).parents[2] / "model_cards"
RESULTS = {"XOR-TyDi dev": {"recall@2kt": {"ja": 61.2, "macro": 60.123456}, "recall@5kt": {"ja": 70.0, "ko": 1 / 3}}}


def row(card, name):
    (value,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", card.text, flags=re.MULTILINE)
    return value


def section(card, title):
    return card.text.split(f"\n## {title}\n")[1].split("\n## ")[0].strip()


def blocks(card):
    return re.findall(r"^```python\n(.*?)^```$", str(card), flags=re.MULTILINE | re.DOTALL)


def test_everything_given():
    card = build_model_card(
        ColBERTXLMRConfig(embedding_dim=64, query_length=24),
        "user/my-colbert",
        language=["ja", "ko"],
        license="apache-2.0",
        datasets=["user/parallel-text", "Tatoeba"],
        base_model="FacebookAI/xlm-roberta-base",
        tags="mine",
        objective="token_distillation",
        papers=["2112.08185"],
        training={"Objective": "`token_distillation`", "Steps": "1,000", "Energy": "not measured"},
        evaluations=RESULTS,
        limitations=["It was never asked about a|b."],
        exported_code=True,
        emissions={"emissions": 12.5, "source": "codecarbon"},
    )
    read = ModelCard(str(card))
    data = read.data.to_dict()
    assert data["library_name"] == "hf_xlir" and data["pipeline_tag"] == "sentence-similarity"
    assert data["language"] == ["ja", "ko"] and data["license"] == "apache-2.0"
    assert data["datasets"] == ["user/parallel-text"]  # the other is not an id on the Hub
    assert data["base_model"] == ["FacebookAI/xlm-roberta-base"]
    assert data["co2_eq_emissions"] == {"emissions": 12.5, "source": "codecarbon"}
    assert {"hf_xlir", "colbert_xlmr", "late-interaction", "token_distillation", "mine"} <= set(data["tags"])
    assert data["model-index"][0]["name"] == "my-colbert"
    results = read.data.eval_results
    found = {(each.dataset_name, each.dataset_config, each.metric_type): each.metric_value for each in results}
    assert found == {
        ("XOR-TyDi dev (ja)", "ja", "recall@2kt"): 61.2,
        ("XOR-TyDi dev (macro)", "macro", "recall@2kt"): 60.123456,
        ("XOR-TyDi dev (ja)", "ja", "recall@5kt"): 70.0,
        ("XOR-TyDi dev (ko)", "ko", "recall@5kt"): 1 / 3,
    }
    assert {(each.dataset_type, each.task_type) for each in results} == {("XOR-TyDi-dev", "text-retrieval")}
    assert "\n# my-colbert\n" in read.text
    assert row(read, "Dimensions of a vector") == "64" and row(read, "Longest query") == "24 tokens"
    assert row(read, "Training data") == "`user/parallel-text`, `Tatoeba`"
    assert row(read, "Made from") == "`FacebookAI/xlm-roberta-base`"
    assert row(read, "Steps") == "1,000" and row(read, "Energy") == "not measured"
    assert section(read, "Evaluation").splitlines() == [
        "| XOR-TyDi dev | ja | ko | macro |",
        "|---|---|---|---|",
        "| recall@2kt | 61.2 |  | 60.1235 |",
        "| recall@5kt | 70 | 0.333333 |  |",
    ]
    limits = section(read, "Limitations")
    assert "evaluated in ja, ko." in limits and "- It was never asked about a|b." in limits
    assert "not stated" not in limits and "trust_remote_code=True" in section(read, "Usage")
    assert re.findall(r"eprint = {(.*)}", read.text) == ["2004.12832", "2112.08185"]


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_nothing_is_made_up(model_type):
    card = build_model_card(FAMILIES[model_type].config(), "some/folder/my-model/")
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    for name in ("Made from", "Languages", "Training data", "License"):
        assert row(card, name) == "not stated"
    assert section(card, "Training") == "How this model was trained is not stated."
    assert "unknown" in section(card, "Evaluation") and "your own data" in section(card, "Limitations")
    assert "trust_remote_code" not in card.text and "# my-model" in card.text
    assert 'from_pretrained("some/folder/my-model/")' in card.text
    assert "{{" not in card.text and "{%" not in card.text


def test_cells_keep_their_place_and_results_their_names():
    card = build_model_card(BiEncoderConfig(), "a/b", training={"Odd": "a|b\nc"}, license="x|y")
    assert "| Odd | a\\|b c |" in card.text and "| License | x\\|y |" in card.text and card.data.license == "x|y"
    card = build_model_card(BiEncoderConfig(), "a/b", evaluations={"user/data": {"recall@5": {"all": 0.5}}})
    assert card.data.eval_results[0].dataset_type == "user/data" and "not split by language" in card.text
    named = build_model_card(BiEncoderConfig(), "a/b", evaluations={"日本語": {"recall@5": {"ja": 0.5}}})
    (result,) = named.data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("data", "日本語 (ja)")
    some = {"macro over 2 of 7": 0.4, "micro": 0.3, "te": 0.5, "bn": 0.3}  # means as XOR-Full names them
    card = build_model_card(BiEncoderConfig(), "a/b", evaluations={"first": {"f1": some}, "second": {"f1": {"te": 1}}})
    assert "It was evaluated in bn, te." in section(card, "Limitations")
    assert "| first | te | bn | macro over 2 of 7 | micro |" in card.text and "\n\n| second | te |\n" in card.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "61.2", None])
def test_results_are_numbers(value):
    with pytest.raises(ValueError, match="'ko' is .* finite number"):
        build_model_card(BiEncoderConfig(), "a/b", evaluations={"data": {"recall@5": {"ko": value}}})


def test_models_of_other_libraries():
    with pytest.raises(ValueError, match="bert"):
        build_model_card(BertConfig(), "a/b")


def test_a_family_with_its_own_template(tmp_path, monkeypatch):
    template = tmp_path / "mine.md.jinja"
    template.write_text(
        '{% extends "retriever.md.jinja" %}\n{% block summary %}\nMade by {{ config.model_type }}.\n{% endblock %}\n'
    )
    family = replace(FAMILIES["biencoder"], card_template=str(template))
    monkeypatch.setitem(FAMILIES, "biencoder", family)
    card = build_model_card(BiEncoderConfig(), "a/b", papers=["2501.00001"])
    assert "Made by biencoder." in card.text and "dual encoder for retrieval" not in card.text
    assert "eprint = {2501.00001}" in card.text and row(card, "Languages") == "not stated"
    template.write_text("---\n{{ metadata }}\n---\n{{ nobody_gave_this }}")
    with pytest.raises(UndefinedError, match="nobody_gave_this"):
        render_card(template, {"metadata": ModelCardData(license="mit")})


def test_papers():
    for paper in PAPERS:
        entry = paper.bibtex
        assert entry.count("{") == entry.count("}") and f"year = {{20{paper.arxiv[:2]}}}" in entry
    assert [paper.key for paper in find_papers(["2004.04906", "dpr", "fid"])] == ["dpr", "fid"]
    assert "title" not in find_papers(["2501.00001"])[0].bibtex


@pytest.mark.parametrize("model_type", ["colbert_xlmr", "biencoder", "fid_t5"])
def test_usage_runs_as_printed(
    model_type, make_colbert, make_biencoder, tiny_tokenizer, tmp_path, monkeypatch, capsys
):
    if model_type == "fid_t5":
        tokenizer = make_tokenizer()
        model, processor = make_reader(make_backbone(vocab_size=len(tokenizer))), FiDT5Processor(tokenizer)
    else:
        model = make_colbert() if model_type == "colbert_xlmr" else make_biencoder(embedding_dim=8)
        processor_class = ColBERTXLMRProcessor if model_type == "colbert_xlmr" else BiEncoderProcessor
        processor = processor_class.from_config(tiny_tokenizer, model.config)
    for each in (model, processor):
        each.save_pretrained(tmp_path / "user" / "my-model")
    monkeypatch.chdir(tmp_path)  # where the repository's id is a folder
    *usage, without = blocks(build_model_card(model.config, "user/my-model", exported_code=True))
    assert "trust_remote_code=True" in without and len(usage) == (1 if model_type == "fid_t5" else 2)
    names = {}
    exec("\n".join(usage), names)
    assert type(names["model"]) is type(model) and type(names["processor"]) is type(processor)
    assert not names["model"].training
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_what_the_hub_asks():
    for model_type, family in FAMILIES.items():
        card = build_model_card(
            family.config(),
            f"user/my-{model_type}",
            language=["ar", "zh"],
            license="apache-2.0",
            datasets=["user/data", "XOR-TyDi"],
            base_model="FacebookAI/xlm-roberta-base",
            evaluations={"XQuAD-R": {"recall@5": {"ar": 47.9, "mean": 48.0}, "mrr@10": {"ar": 0.5}}},
        )
        assert faults_of_card(str(card), "model") == ([], [])
        assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
        # the rules do find faults
        for right, wrong in (("apache-2.0", "apache2"), ("value: 47.9", "value: .nan"), ("- zh", "- Chinese")):
            assert right in str(card)
            assert faults_of_card(str(card).replace(right, wrong), "model")[0]


def test_files_of_model_cards(tmp_path):
    """After a change of the templates: `write_family_cards("model_cards")`."""
    cards = family_cards()
    write_family_cards(tmp_path)
    for folder in (CARDS, tmp_path):
        assert {path.name: path.read_text("utf-8") for path in folder.iterdir()} == cards
    assert all(faults_of_card(text, "model") == ([], []) for name, text in cards.items() if name != "template.md")
