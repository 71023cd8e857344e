"""Model cards say what they are given, and that the rest is unknown."""

import re

import pytest
from huggingface_hub import ModelCard
from transformers import BertConfig

from hf_xlir import BiEncoderConfig, ColBERTXLMRConfig, FiDT5Config
from hf_xlir.hub.cards import build_model_card
from hf_xlir.hub.citations import OF_FAMILY, OF_OBJECTIVE, PAPERS, papers_of
from hf_xlir.training.objectives import OBJECTIVES


RESULTS = {"XOR-TyDi dev": {"recall@2kt": {"ja": 61.2, "macro": 60.123456}, "recall@5kt": {"ja": 70.0, "ko": 1 / 3}}}


def row(card, name):
    (value,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", card.text, flags=re.MULTILINE)
    return value


def section(card, title):
    return card.text.split(f"\n## {title}\n")[1].split("\n## ")[0].strip()


def test_all_that_is_known():
    card = build_model_card(
        ColBERTXLMRConfig(embedding_dim=64, query_length=24),
        "user/my-colbert",
        language=["ja", "ko"],
        license="apache-2.0",
        datasets=["user/parallel-text", "Tatoeba"],
        base_model="FacebookAI/xlm-roberta-base",
        tags="mine",
        objective="token_distillation",
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
    assert data["datasets"] == ["user/parallel-text"]  # the other is no id on the Hub
    assert data["base_model"] == ["FacebookAI/xlm-roberta-base"]
    assert data["co2_eq_emissions"] == {"emissions": 12.5, "source": "codecarbon"}
    assert {"hf_xlir", "colbert_xlmr", "late-interaction", "token_distillation", "mine"} <= set(data["tags"])
    (index,) = data["model-index"]
    assert index["name"] == "my-colbert"
    found = {
        (result["dataset"]["name"], result["dataset"]["config"], metric["type"]): metric["value"]
        for result in index["results"]
        for metric in result["metrics"]
    }
    assert found == {
        ("XOR-TyDi dev (ja)", "ja", "recall@2kt"): 61.2,
        ("XOR-TyDi dev (macro)", "macro", "recall@2kt"): 60.123456,
        ("XOR-TyDi dev (ja)", "ja", "recall@5kt"): 70.0,
        ("XOR-TyDi dev (ko)", "ko", "recall@5kt"): 1 / 3,
    }
    assert {result["dataset"]["type"] for result in index["results"]} == {"XOR-TyDi-dev"}
    assert {result["task"]["type"] for result in index["results"]} == {"text-retrieval"}

    assert read.text.startswith("# my-colbert\n") or "\n# my-colbert\n" in read.text
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
    assert "evaluated in ja, ko; how well it does in others is unknown" in limits
    assert "- It was never asked about a|b." in limits and "not stated" not in limits
    assert "trust_remote_code=True" in section(read, "Usage")
    assert re.findall(r"eprint = {(.*)}", read.text) == ["2004.12832", "2112.08185"]


def test_nothing_is_made_up():
    for config, tag in (
        (ColBERTXLMRConfig(), "sentence-similarity"),
        (BiEncoderConfig(), "sentence-similarity"),
        (FiDT5Config(), "question-answering"),
    ):
        card = build_model_card(config, "some/folder/my-model/")
        data = card.data.to_dict()
        assert set(data) == {"library_name", "pipeline_tag", "tags"} and data["pipeline_tag"] == tag
        for name in ("Made from", "Languages", "Training data", "Licence"):
            assert row(card, name) == "not stated"
        assert section(card, "Training") == "How this model was trained is not stated."
        assert "how well it does is unknown" in section(card, "Evaluation")
        assert "evaluate it on your own data first" in section(card, "Limitations")
        assert "trust_remote_code" not in card.text
        assert 'from_pretrained("some/folder/my-model/")' in card.text and "# my-model" in card.text
        assert "MODEL" not in card.text and "AUTO_" not in card.text


def test_what_stands_in_a_table_stays_in_its_cell():
    card = build_model_card(BiEncoderConfig(), "a/b", training={"Odd": "a|b\nc"}, license="x|y")
    assert "| Odd | a\\|b c |" in card.text and "| Licence | x\\|y |" in card.text
    assert card.data.license == "x|y"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "61.2", None])
def test_results_are_numbers(value):
    with pytest.raises(ValueError, match="recall@5 of 'data' in 'ko' must be a number"):
        build_model_card(BiEncoderConfig(), "a/b", evaluations={"data": {"recall@5": {"ko": value}}})


def test_results_without_languages():
    card = build_model_card(BiEncoderConfig(), "a/b", evaluations={"user/data": {"recall@5": {"all": 0.5}}})
    assert card.data.eval_results[0].dataset_type == "user/data"
    named = build_model_card(BiEncoderConfig(), "a/b", evaluations={"日本語": {"recall@5": {"ja": 0.5}}})
    (result,) = named.data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("data", "日本語 (ja)")
    assert "not by language" in section(card, "Limitations")
    some = {"macro over 2 of 7": 0.4, "micro": 0.3, "te": 0.5, "bn": 0.3}  # XOR-Full's means
    card = build_model_card(BiEncoderConfig(), "a/b", evaluations={"user/data": {"f1": some}})
    assert "It was evaluated in bn, te;" in section(card, "Limitations")
    assert "| user/data | te | bn | macro over 2 of 7 | micro |" in card.text


def test_models_of_others():
    with pytest.raises(ValueError, match=r"for models of type .*, got 'bert'"):
        build_model_card(BertConfig(), "a/b")


def test_every_objective_has_a_paper():
    assert set(OF_OBJECTIVE) == set(OBJECTIVES)
    for model_type in OF_FAMILY:
        for objective in (None, *OBJECTIVES):
            papers = papers_of(model_type, objective)
            assert papers and len(papers) == len(set(papers))
    assert [paper.key for paper in papers_of("biencoder", "in_batch_nce")] == ["dpr"]
    assert [paper.key for paper in papers_of("biencoder", "reader_distillation")] == ["dpr", "fidkd"]
    assert [paper.key for paper in papers_of("biencoder", "reader_distillation", "emdr2")] == ["dpr", "atlas"]
    assert [paper.key for paper in papers_of("fid_t5")] == ["fid"]
    for paper in PAPERS.values():
        entry = paper.bibtex
        assert entry.count("{") == entry.count("}") and f"year = {{20{paper.arxiv[:2]}}}" in entry
