"""Every family through the Auto classes, from folders as `save_pretrained` writes them."""

import json

import pytest
import torch
from fid_tiny import make_backbone, make_inputs, make_reader, make_tokenizer
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    ColBERTXLMRConfig,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    FiDT5Config,
    FiDT5ForConditionalGeneration,
    FiDT5Processor,
)
from hf_xlir.models.auto import (
    FAMILIES as RECORDS,
)
from hf_xlir.models.auto import (
    ModelFamily,
    check_processor,
    family_of,
    load_reader,
    load_retriever,
    register_family,
)


COLBERT = ("colbert_xlmr", ColBERTXLMRConfig, ColBERTXLMRModel, ColBERTXLMRProcessor)
BIENCODER = ("biencoder", BiEncoderConfig, BiEncoderModel, BiEncoderProcessor)
FID = ("fid_t5", FiDT5Config, FiDT5ForConditionalGeneration, FiDT5Processor)
FAMILIES = pytest.mark.parametrize("family", [COLBERT, BIENCODER, FID], ids=lambda family: family[0])


@pytest.fixture
def saved(tmp_path, make_colbert, make_biencoder, tiny_tokenizer):
    """Writes a model and its processor, and returns both and the folder."""

    def save(model_type):
        if model_type == "colbert_xlmr":
            model, processor = make_colbert(), ColBERTXLMRProcessor(tiny_tokenizer)
        elif model_type == "biencoder":
            model, processor = make_biencoder(share_encoders=False), BiEncoderProcessor(tiny_tokenizer)
        else:
            model, processor = make_reader(make_backbone()), FiDT5Processor(make_tokenizer())
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        return model, processor, tmp_path

    return save


@FAMILIES
def test_classes(saved, family):
    model_type, config_class, model_class, processor_class = family
    model, processor, folder = saved(model_type)
    assert type(AutoConfig.from_pretrained(folder)) is config_class
    assert type(AutoConfig.for_model(model_type)) is config_class
    assert type(AutoModel.from_pretrained(folder)) is model_class
    assert type(AutoModel.from_config(model.config)) is model_class
    loaded = AutoProcessor.from_pretrained(folder)
    assert type(loaded) is processor_class
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@FAMILIES
def test_files(saved, family):
    model_type, _, model_class, processor_class = family
    model, _, folder = saved(model_type)
    names = {path.name for path in folder.iterdir()}
    expected = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names - {"generation_config.json"} == expected
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        written = set(file.keys())
    loaded, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert written <= model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in model.state_dict().items())
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (model_type, [model_class.__name__])
    # Code is exported only if asked for
    assert "auto_map" not in config
    processor_config = json.loads((folder / "processor_config.json").read_text())
    assert processor_config["processor_class"] == processor_class.__name__ and "auto_map" not in processor_config


def test_a_reader_is_a_sequence_to_sequence_model(saved):
    model, _, folder = saved("fid_t5")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert type(loaded) is FiDT5ForConditionalGeneration
    assert type(AutoModelForSeq2SeqLM.from_config(model.config)) is FiDT5ForConditionalGeneration
    inputs, labels = make_inputs([[7, 3], [4, 9]]), torch.tensor([[5, 6, 1], [8, 1, -100]])
    with torch.no_grad():
        difference = loaded(**inputs, labels=labels).logits - model(**inputs, labels=labels).logits
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("model_type", ["colbert_xlmr", "biencoder"])
def test_a_retriever_is_none(saved, model_type):
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForSeq2SeqLM.from_pretrained(saved(model_type)[2])


@pytest.mark.parametrize("family", [COLBERT, BIENCODER], ids=lambda family: family[0])
@torch.no_grad()
def test_model_and_processor_work_together_after_loading(saved, family):
    model, processor, folder = saved(family[0])
    loaded_model, loaded_processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    texts = ["The Nile flows north, to the sea.", "Seoul"]
    for method in ("process_queries", "process_documents"):
        expected = model(**getattr(processor, method)(texts)).embeddings
        found = loaded_model(**getattr(loaded_processor, method)(texts)).embeddings
        assert (found - expected).abs().max() < 1e-6


@FAMILIES
def test_fields_may_be_set_while_loading(saved, family):
    model_type, _, _, _ = family
    _, _, folder = saved(model_type)
    name = "dropout_rate" if model_type == "fid_t5" else "query_length"
    value = 0.25 if model_type == "fid_t5" else 13
    assert getattr(AutoConfig.from_pretrained(folder, **{name: value}), name) == value
    assert getattr(AutoModel.from_pretrained(folder, **{name: value}).config, name) == value


@pytest.mark.parametrize("family", [COLBERT, BIENCODER], ids=lambda family: family[0])
@torch.no_grad()
def test_a_retriever_is_loaded_with_its_processor(saved, family):
    model_type, _, model_class, processor_class = family
    model, processor, folder = saved(model_type)
    texts = ["The Nile flows north, to the sea."]
    expected = model(**processor.process_documents(texts)).embeddings
    for asked in (None, model_type):
        loaded, loaded_processor = load_retriever(folder, asked, embedding_dim=None)
        assert type(loaded) is model_class and type(loaded_processor) is processor_class and not loaded.training
        assert (loaded(**loaded_processor.process_documents(texts)).embeddings - expected).abs().max() < 1e-6
    loaded, loaded_processor = load_retriever(folder, document_length=6)
    assert loaded.config.document_length == loaded_processor.document_length == 6
    assert loaded_processor.process_documents(texts)["input_ids"].shape == (1, 6)


def test_a_retriever_is_made_of_a_bare_encoder(tmp_path, make_bare_encoder, tiny_tokenizer):
    encoder = make_bare_encoder("BertModel")
    for part in (encoder, tiny_tokenizer):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert', expected a retriever"):
        load_retriever(tmp_path)
    model, processor = load_retriever(tmp_path, "biencoder", pooling="mean", share_encoders=False)
    assert torch.equal(
        model.document_encoder.state_dict()["embeddings.word_embeddings.weight"],
        encoder.embeddings.word_embeddings.weight,
    )
    assert (model.config.pooling, processor.document_length) == ("mean", 256)


def test_what_is_no_retriever_or_no_setting_is_an_error(saved):
    folder = saved("biencoder")[2]
    with pytest.raises(ValueError, match="`model_type` must be one of .*, got 'fid_t5'"):
        load_retriever(folder, "fid_t5")
    with pytest.raises(ValueError, match=r"`BiEncoderConfig` has no fields \['query_expansion'\]"):
        load_retriever(folder, query_expansion="mask", query_length=8)
    with pytest.raises(ValueError, match="holds a model of type `biencoder`"):
        load_retriever(folder, "colbert_xlmr")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, make_bare_encoder):
    """For these families transformers makes one up, of special tokens alone."""
    make_bare_encoder("XLMRobertaModel").save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="encoder` has no tokenizer"):
        load_retriever(tmp_path / "encoder", "biencoder")
    backbone = T5ForConditionalGeneration(
        T5Config(vocab_size=200, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    backbone.save_pretrained(tmp_path / "reader")
    with pytest.raises(ValueError, match="reader` has no tokenizer"):
        load_reader(tmp_path / "reader")


class OutsideConfig(BiEncoderConfig):
    model_type = "outside_retriever"


class OutsideModel(BiEncoderModel):
    config_class = OutsideConfig

    def forward(self, **inputs):
        output = super().forward(**inputs)
        output.embeddings = 2 * output.embeddings
        return output


class OutsideProcessor(BiEncoderProcessor):
    config_class = OutsideConfig


class TestFamilies:
    @pytest.fixture
    def outside(self):
        """A family that is defined outside the package."""
        family = ModelFamily(OutsideConfig, OutsideModel, OutsideProcessor, vectors="vectors")
        assert register_family(family) is family
        yield family
        del RECORDS["outside_retriever"]

    def test_records(self, make_colbert, make_biencoder):
        found = {name: (each.role, each.vectors, each.exports) for name, each in RECORDS.items()}
        assert found == {
            "colbert_xlmr": ("retriever", "token_vectors", ("pylate", "transformers")),
            "biencoder": ("retriever", "vectors", ("sentence-transformers", "transformers")),
            "fid_t5": ("reader", None, ("transformers",)),
        }
        for given in (make_colbert(), make_colbert().config, torch.compile(make_colbert())):
            assert family_of(given) is RECORDS["colbert_xlmr"]
        for unknown in (T5Config(), "biencoder"):
            with pytest.raises(ValueError, match="registered family"):
                family_of(unknown)

    def test_mistakes(self):
        classes = BiEncoderConfig, BiEncoderModel, BiEncoderProcessor
        for fields, message in (
            ({"role": "writer"}, "`role`.*'writer'"),
            ({}, "`vectors` of a retriever.*got None"),
            ({"role": "reader", "vectors": "vectors"}, "`vectors` of a reader"),
        ):
            with pytest.raises(ValueError, match=message):
                ModelFamily(*classes, **fields)
        with pytest.raises(ValueError, match="`PreTrainedConfig` has no `model_type`"):
            ModelFamily(PreTrainedConfig, *classes[1:], vectors="vectors")

    @torch.no_grad()
    def test_from_outside_the_package(self, outside, tmp_path, make_bare_encoder, tiny_tokenizer):
        for part in (make_bare_encoder("BertModel"), tiny_tokenizer):
            part.save_pretrained(tmp_path / "encoder")
        model, processor = load_retriever(tmp_path / "encoder", "outside_retriever")
        assert (type(model), type(processor)) == (OutsideModel, OutsideProcessor)
        check_processor(processor, model)
        with pytest.raises(ValueError, match="`OutsideModel` needs its own processor"):
            check_processor(BiEncoderProcessor.from_config(tiny_tokenizer, model.config), model)
        for part in (model, processor):
            part.save_pretrained(tmp_path / "saved")
        loaded, loaded_processor = load_retriever(tmp_path / "saved")
        assert type(AutoModel.from_pretrained(tmp_path / "saved")) is OutsideModel is type(loaded)
        assert type(AutoProcessor.from_pretrained(tmp_path / "saved")) is OutsideProcessor
        inputs = loaded_processor.process_queries(["The Nile flows north."])
        assert torch.equal(loaded(**inputs).embeddings, model(**inputs).embeddings)
        plain = BiEncoderModel.from_pretrained(tmp_path / "encoder")
        assert torch.equal(loaded(**inputs).embeddings, 2 * plain(**inputs).embeddings)
