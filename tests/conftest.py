"""Fixtures that several folders of tests use: tiny offline models, and third-party data if it is there."""

import os
from pathlib import Path


# Set before the libraries are imported: tests work offline, and tokenizers must not fork while threads run
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import transformers
from hypothesis import settings
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaConfig

from hf_xlir import BiEncoderConfig, BiEncoderModel, ColBERTXLMRConfig, ColBERTXLMRModel
from support.vocabulary import train_tokenizer


# Tiny models gain nothing from threads, and subprocesses need the cores
torch.set_num_threads(1)

# A busy machine must not fail a test
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

SENTENCES = (
    "Where does the Nile flow?",
    "The Nile flows north, to the sea.",
    "Who invented the telephone (in 1876)?",
    "Helsinki is the capital of Finland; Seoul, of Korea!",
    "Mikä on Suomen pääkaupunki?",
    "フィンランドの首都はどこですか。",
    "핀란드의 수도는 어디입니까?",
    "Какая столица Финляндии?",
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party data; tests that use it are skipped where it is absent."""
    beside_repository = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HF_XLIR_TEST_DATA") or beside_repository)
    if not folder.is_dir():
        pytest.skip(f"the shared test data is not in {folder}; set HF_XLIR_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def xlmr_tokenizer(shared_data):
    """The tokenizer of XLM-R. Tests must not change it."""
    folder = shared_data / "xlm-roberta-base-tokenizer"
    if not folder.is_dir():
        pytest.skip(f"XLM-R's tokenizer is not in {folder}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A tokenizer with XLM-R's conventions for a few sentences. Tests must not change it."""
    return train_tokenizer(SENTENCES * 3, vocab_size=300)


@pytest.fixture(scope="session")
def tiny_bert_tokenizer(tiny_tokenizer):
    """The same pieces with the frame of BERT: one separator, and segment ids."""
    backend = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single="<s>:0 $A:0 </s>:0", pair="<s>:0 $A:0 </s>:0 $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def encoder_sizes(tiny_tokenizer) -> dict:
    """
    Fields of the configuration of any tiny encoder.

    There is no dropout, so that training mode repeats. Weights are large, so that wrong attention between tokens
    exceeds the tolerances by far.
    """
    return {
        "vocab_size": len(tiny_tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "pad_token_id": tiny_tokenizer.pad_token_id,
        "initializer_range": 0.3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


@pytest.fixture(scope="session")
def make_encoder_config(encoder_sizes):
    """Makes the configuration of a tiny XLM-R."""

    def make(**fields):
        return XLMRobertaConfig(**{**encoder_sizes, "max_position_embeddings": 66, "type_vocab_size": 1, **fields})

    return make


@pytest.fixture(scope="session")
def make_bare_encoder(encoder_sizes):
    """Makes a tiny model of transformers, with or without a head, from the name of its class."""

    def make(class_name, seed=0):
        own = {}
        if class_name.startswith(("XLMRoberta", "MPNet")):
            own = {"max_position_embeddings": 258}  # positions start at 2; 256 pieces are the longest default
        elif class_name.startswith("DistilBert"):
            own = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "dropout": 0.0, "attention_dropout": 0.0}
        elif class_name.startswith("Electra"):
            own = {"embedding_size": 16}
        elif class_name.startswith("ModernBert"):
            own = {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
        model_class = getattr(transformers, class_name)
        torch.manual_seed(seed)
        return model_class(model_class.config_class(**{**encoder_sizes, **own})).eval()

    return make


@pytest.fixture(scope="session")
def make_colbert(make_encoder_config):
    """Makes a tiny ColBERT in evaluation mode from fields of its configuration."""

    def make(seed=0, encoder_config=None, **fields):
        torch.manual_seed(seed)
        fields = {"embedding_dim": 12, "query_length": 16, "document_length": 40, **fields}
        return ColBERTXLMRModel(
            ColBERTXLMRConfig(encoder_config=encoder_config or make_encoder_config(), **fields)
        ).eval()

    return make


@pytest.fixture(scope="session")
def make_biencoder(make_encoder_config):
    """Makes a tiny dual encoder in evaluation mode from fields of its configuration."""

    def make(seed=0, encoder_config=None, **fields):
        torch.manual_seed(seed)
        fields = {"query_length": 16, "document_length": 40, **fields}
        return BiEncoderModel(BiEncoderConfig(encoder_config=encoder_config or make_encoder_config(), **fields)).eval()

    return make


@pytest.fixture
def tiny_colbert(make_colbert):
    """A new tiny ColBERT for each test."""
    return make_colbert()


@pytest.fixture
def tiny_biencoder(make_biencoder):
    """A new tiny dual encoder for each test, with one tower and a projection."""
    return make_biencoder(embedding_dim=8)


@pytest.fixture
def own_hub_export(monkeypatch):
    """Undoes `register_for_hub_export` after the test, since it marks the classes for the rest of the process."""
    from hf_xlir.models.auto import FAMILIES

    for family in FAMILIES.values():
        for each in (family.config, family.model, family.processor):
            monkeypatch.setattr(each, "_auto_class", None)
