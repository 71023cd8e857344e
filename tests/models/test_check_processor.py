"""Processors with models that are theirs, and with others."""

import pytest
import torch
from fid_tiny import make_backbone, make_reader, make_tokenizer
from peft import LoraConfig, get_peft_model

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor, FiDT5Processor
from hf_xlir.models.auto import check_processor
from support.vocabulary import train_tokenizer


@pytest.fixture
def colbert(make_colbert, tiny_tokenizer):
    model = make_colbert()
    return model, ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config)


@pytest.fixture
def biencoder(make_biencoder, tiny_tokenizer):
    model = make_biencoder()
    return model, BiEncoderProcessor.from_config(tiny_tokenizer, model.config)


def test_pairs(colbert, biencoder):
    for model, processor in (colbert, biencoder):
        check_processor(processor, model)
        check_processor(processor, torch.compile(model))
        check_processor(processor, get_peft_model(model, LoraConfig(r=2, target_modules=["query"])))


def test_other_families(colbert, biencoder):
    for (model, own), other in ((colbert, biencoder[1]), (biencoder, colbert[1])):
        for processor in (other, FiDT5Processor(make_tokenizer()), own.tokenizer, None):
            expected = (
                f"`{type(model).__name__}` needs its own processor.*{type(own).__name__}.*{type(processor).__name__}"
            )
            with pytest.raises(ValueError, match=expected):
                check_processor(processor, model)
    with pytest.raises(ValueError, match="Expected a retriever, got `FiDT5ForConditionalGeneration`"):
        check_processor(colbert[1], make_reader(make_backbone()))


@pytest.mark.parametrize(
    "name, value",
    [
        ("query_length", 17),
        ("document_length", 39),
        ("query_expansion", "mask"),
        ("attend_to_expansion", True),
        ("skip_punctuation", False),
        ("mask_id_zero", True),
    ],
)
def test_other_settings(colbert, name, value):
    model, processor = colbert
    processor = ColBERTXLMRProcessor(processor.tokenizer, **{"query_length": 16, "document_length": 40, name: value})
    with pytest.raises(ValueError, match=f"The processor has {name}={value!r}, the model's configuration {name}="):
        check_processor(processor, model)


def test_other_markers(make_colbert, tiny_tokenizer):
    model = make_colbert(query_marker_id=9)
    processor = ColBERTXLMRProcessor(tiny_tokenizer, query_length=16, document_length=40)
    with pytest.raises(ValueError, match="query_marker_id=118, the model's configuration query_marker_id=9"):
        check_processor(processor, model)


def test_a_larger_vocabulary(biencoder):
    model, processor = biencoder
    tokenizer = train_tokenizer(["one two three four five six seven"] * 3, vocab_size=300)
    tokenizer.add_tokens([f"token{i}" for i in range(len(processor.tokenizer) - len(tokenizer) + 1)])
    other = BiEncoderProcessor.from_config(tokenizer, model.config)
    sizes = len(tokenizer), len(processor.tokenizer)
    assert sizes[0] == sizes[1] + 1
    with pytest.raises(ValueError, match=f"has {sizes[0]} pieces, but `BiEncoderModel` only {sizes[1]}"):
        check_processor(other, model)


def test_lengths_beyond_the_encoder_s_positions(biencoder, tiny_tokenizer):
    model, _ = biencoder
    model.config.document_length = 65
    processor = BiEncoderProcessor.from_config(tiny_tokenizer, model.config)
    with pytest.raises(ValueError, match="`document_length` is 65 token ids, but the encoder has positions for 64"):
        check_processor(processor, model)
