"""Cards that the Hub takes, and whose code runs as it is printed."""

import re
from pathlib import Path

import pytest
from card_rules import faults_of_card
from fid_tiny import make_backbone, make_reader, make_tokenizer
from huggingface_hub import ModelCard

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor, FiDT5Processor
from hf_xlir.hub.family_cards import TEMPLATE, build_model_card, family_cards, write_family_cards


CARDS = Path(__file__).parents[2] / "model_cards"
RESULTS = {"XQuAD-R": {"recall@5": {"ar": 47.9, "mean": 48.0}, "mrr@10": {"ar": 0.5}}}


@pytest.fixture
def families(make_colbert, make_biencoder, tiny_tokenizer):
    colbert, biencoder = make_colbert(), make_biencoder(embedding_dim=8)
    tokenizer = make_tokenizer()
    reader = make_reader(make_backbone(vocab_size=len(tokenizer)))
    return {
        "colbert_xlmr": (colbert, ColBERTXLMRProcessor.from_config(tiny_tokenizer, colbert.config)),
        "biencoder": (biencoder, BiEncoderProcessor.from_config(tiny_tokenizer, biencoder.config)),
        "fid_t5": (reader, FiDT5Processor(tokenizer)),
    }


def blocks(card):
    return re.findall(r"^```python\n(.*?)^```$", str(card), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("model_type", ["colbert_xlmr", "biencoder", "fid_t5"])
def test_usage_runs_as_printed(model_type, families, tmp_path, monkeypatch, capsys):
    model, processor = families[model_type]
    model.save_pretrained(tmp_path / "user" / "my-model")
    processor.save_pretrained(tmp_path / "user" / "my-model")
    monkeypatch.chdir(tmp_path)  # where the repository's id is a folder
    card = build_model_card(model.config, "user/my-model", exported_code=True)
    *usage, without = blocks(card)
    assert "trust_remote_code=True" in without and len(usage) == (1 if model_type == "fid_t5" else 2)
    names = {}
    exec("\n".join(usage), names)
    assert type(names["model"]) is type(model) and type(names["processor"]) is type(processor)
    assert not names["model"].training
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] != "" and len(printed) >= 2


def test_what_the_hub_asks(families):
    for model, _ in families.values():
        card = build_model_card(
            model.config,
            "user/my-model",
            language=["ar", "zh"],
            license="apache-2.0",
            datasets=["user/data", "XOR-TyDi"],
            base_model="FacebookAI/xlm-roberta-base",
            evaluations=RESULTS,
        )
        assert faults_of_card(str(card), "model") == ([], [])
        assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
        # the rules do find faults
        for right, wrong in (("apache-2.0", "apache2"), ("value: 47.9", "value: .nan"), ("- zh", "- Chinese")):
            assert right in str(card)
            assert faults_of_card(str(card).replace(right, wrong), "model")[0]


def test_cards_of_the_families():
    """After a change of what cards say: `write_family_cards("model_cards")`."""
    cards = family_cards()
    assert {path.name for path in CARDS.iterdir()} == set(cards)
    for name, text in cards.items():
        assert (CARDS / name).read_text(encoding="utf-8") == text, name
        if name != TEMPLATE:
            assert faults_of_card(text, "model") == ([], [])


def test_they_are_written_as_they_are(tmp_path):
    write_family_cards(tmp_path / "cards")
    assert {path.name: path.read_text("utf-8") for path in (tmp_path / "cards").iterdir()} == family_cards()
