"""The retrievers' configurations: defaults, saving, bare encoders' folders, and mistakes."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig, DistilBertConfig, MT5Config, T5Config, XLMRobertaConfig

from hf_xlir import BiEncoderConfig, ColBERTXLMRConfig, FiDT5Config


BOTH = pytest.mark.parametrize("config_class", [ColBERTXLMRConfig, BiEncoderConfig])
COLBERT_FIELDS = {
    "embedding_dim": 24,
    "query_length": 20,
    "document_length": 50,
    "query_marker_id": 7,
    "document_marker_id": 8,
    "query_expansion": "mask",
    "attend_to_expansion": True,
    "skip_punctuation": False,
    "mask_id_zero": True,
    "projection_bias": True,
    "use_markers": False,
    "skip_ids": [3, 4],
    "query_skip_ids": [0],
    "query_prompt": "query: ",
    "document_prompt": "passage: ",
}
BIENCODER_FIELDS = {
    "embedding_dim": 24,
    "share_encoders": False,
    "pooling": "last4_mean",
    "normalize": True,
    "query_length": 20,
    "document_length": 50,
    "projection_norm": False,
    "projection_activation": "tanh",
    "project_tokens": True,
    "query_prompt": "query: ",
    "document_prompt": "passage: ",
}


def fields_of(config, names):
    return {name: getattr(config, name) for name in names}


class TestDefaults:
    def test_colbert(self):
        config = ColBERTXLMRConfig()
        assert config.model_type == "colbert_xlmr"
        assert fields_of(config, COLBERT_FIELDS) == {
            "embedding_dim": 128,
            "query_length": 32,
            "document_length": 180,
            "query_marker_id": None,
            "document_marker_id": None,
            "query_expansion": "pad",
            "attend_to_expansion": False,
            "skip_punctuation": True,
            "mask_id_zero": False,
            "projection_bias": False,
            "use_markers": True,
            "skip_ids": None,
            "query_skip_ids": None,
            "query_prompt": "",
            "document_prompt": "",
        }

    def test_biencoder(self):
        config = BiEncoderConfig()
        assert config.model_type == "biencoder"
        assert fields_of(config, BIENCODER_FIELDS) == {
            "embedding_dim": None,
            "share_encoders": True,
            "pooling": "cls",
            "normalize": False,
            "query_length": 64,
            "document_length": 256,
            "projection_norm": True,
            "projection_activation": None,
            "project_tokens": False,
            "query_prompt": "",
            "document_prompt": "",
        }

    @BOTH
    def test_the_encoder_is_xlmr_base(self, config_class):
        encoder = config_class().encoder_config
        assert type(encoder) is XLMRobertaConfig
        # what FacebookAI/xlm-roberta-base has in its config.json
        published = {
            "vocab_size": 250002,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
        }
        assert fields_of(encoder, published) == published

    @BOTH
    def test_one_configuration_does_not_share_its_encoder_with_another(self, config_class):
        config_class().encoder_config.vocab_size = 3
        assert config_class().encoder_config.vocab_size == 250002

    @BOTH
    def test_the_encoder_answers_for_sizes_that_transformers_asks_for(self, config_class):
        config = config_class(encoder_config={"model_type": "bert", "vocab_size": 77, "hidden_size": 24})
        assert type(config.encoder_config) is BertConfig
        assert config.get_text_config() is config.get_text_config(decoder=True) is config.encoder_config
        assert (config.get_text_config().vocab_size, config.get_text_config().hidden_size) == (77, 24)


class TestSaving:
    @pytest.mark.parametrize(
        "config_class, fields", [(ColBERTXLMRConfig, COLBERT_FIELDS), (BiEncoderConfig, BIENCODER_FIELDS)]
    )
    def test_every_field_is_written_and_read(self, tmp_path, config_class, fields):
        encoder = DistilBertConfig(vocab_size=99, dim=24, n_heads=2)
        config_class(encoder_config=encoder, **fields).save_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert {name: written[name] for name in fields} == fields
        assert written["model_type"] == config_class.model_type
        assert written["encoder_config"]["model_type"] == "distilbert"

        loaded = config_class.from_pretrained(tmp_path)
        assert fields_of(loaded, fields) == fields
        assert type(loaded.encoder_config) is DistilBertConfig
        assert (loaded.encoder_config.vocab_size, loaded.encoder_config.dim) == (99, 24)
        assert config_class.from_pretrained(tmp_path, query_length=11).query_length == 11

    @BOTH
    def test_the_default_encoder_is_written_in_full(self, tmp_path, config_class):
        config_class().save_pretrained(tmp_path)
        assert config_class.from_pretrained(tmp_path).encoder_config.vocab_size == 250002


class TestBareEncoders:
    @BOTH
    @pytest.mark.parametrize(
        "encoder", [XLMRobertaConfig(vocab_size=88), BertConfig(vocab_size=88), DistilBertConfig(vocab_size=88)]
    )
    def test_a_folder_becomes_the_encoder_config(self, tmp_path, config_class, encoder):
        encoder.architectures, encoder.dtype = ["SomethingForMaskedLM"], "bfloat16"
        encoder.save_pretrained(tmp_path)
        config = config_class.from_pretrained(tmp_path, embedding_dim=16)
        assert config.model_type == config_class.model_type and config.embedding_dim == 16
        assert type(config.encoder_config) is type(encoder)
        assert config.encoder_config.vocab_size == 88
        # What belongs to the checkpoint, not to the encoder
        assert config.encoder_config.architectures is None and config.architectures is None
        assert config.encoder_config.dtype is None and config.dtype is None


class TestMistakes:
    @pytest.mark.parametrize(
        "config_class, fields, message",
        [
            (ColBERTXLMRConfig, {"embedding_dim": 0}, "`embedding_dim` must be at least 1, got 0"),
            (BiEncoderConfig, {"embedding_dim": -3}, "`embedding_dim` must be at least 1, got -3"),
            (ColBERTXLMRConfig, {"query_length": 3}, "`query_length` must be at least 4 token ids, got 3"),
            (BiEncoderConfig, {"document_length": 3}, "`document_length` must be at least 4 token ids, got 3"),
            (ColBERTXLMRConfig, {"embeding_dim": 9}, "no field `embeding_dim`. Did you mean `embedding_dim`"),
            (BiEncoderConfig, {"share_encoder": False}, "no field `share_encoder`. Did you mean `share_encoders`"),
            (ColBERTXLMRConfig, {"dim": 64}, r"no field `dim`.*'embedding_dim'"),
            (BiEncoderConfig, {"max_length": 64}, r"no field `max_length`.*'document_length'"),
            (BiEncoderConfig, {"query_expansion": "pad"}, "no field `query_expansion`"),
            (ColBERTXLMRConfig, {"encoder_config": {"model_type": "nope"}}, "nope"),
        ],
    )
    def test_values(self, config_class, fields, message):
        with pytest.raises(ValueError, match=message):
            config_class(**fields)

    @pytest.mark.parametrize(
        "config_class, fields, message",
        [
            (ColBERTXLMRConfig, {"embedding_dim": None}, "'embedding_dim' expected int, got NoneType"),
            (BiEncoderConfig, {"embedding_dim": "8"}, "'embedding_dim' with value '8'"),
            (ColBERTXLMRConfig, {"query_length": "32"}, "'query_length' expected int, got str"),
            (ColBERTXLMRConfig, {"query_expansion": "padding"}, "one of .'pad', 'mask', 'none'., got padding"),
            (BiEncoderConfig, {"pooling": "max"}, "one of .'cls', 'mean', 'last4_mean'., got max"),
            (BiEncoderConfig, {"share_encoders": "no"}, "'share_encoders' expected bool, got str"),
            (BiEncoderConfig, {"projection_activation": "swish"}, "'tanh', 'relu', 'gelu'"),
        ],
    )
    def test_types(self, config_class, fields, message):
        with pytest.raises(StrictDataclassError, match=message):
            config_class(**fields)

    @BOTH
    def test_keywords_of_transformers_are_no_mistakes(self, config_class):
        config = config_class(
            attn_implementation="eager", torch_dtype="float16", num_labels=3, output_attentions=True, dtype="bfloat16"
        )
        assert (config._attn_implementation, config.num_labels) == ("eager", 3)

    @BOTH
    def test_a_file_may_have_fields_of_a_later_version(self, tmp_path, config_class):
        config_class().save_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**written, "of_a_later_version": 1}))
        assert config_class.from_pretrained(tmp_path).of_a_later_version == 1
        (tmp_path / "config.json").write_text(json.dumps({**written, "querry_length": 9}))
        with pytest.raises(ValueError, match="no field `querry_length`. Did you mean `query_length`"):
            config_class.from_pretrained(tmp_path)

    def test_a_bad_value_is_not_saved(self, tmp_path):
        config = ColBERTXLMRConfig()
        config.query_length = 1
        with pytest.raises(StrictDataclassError, match="`query_length` must be at least 4"):
            config.save_pretrained(tmp_path)
        assert not (tmp_path / "config.json").exists()

    @pytest.mark.parametrize(
        "config_class, saved, message",
        [
            (ColBERTXLMRConfig, BiEncoderConfig, "of type `biencoder`, but `ColBERTXLMRConfig` needs"),
            (BiEncoderConfig, ColBERTXLMRConfig, "of type `colbert_xlmr`, but `BiEncoderConfig` needs"),
            (ColBERTXLMRConfig, FiDT5Config, "of type `fid_t5`"),
            (BiEncoderConfig, T5Config, "of type `t5`"),
            (ColBERTXLMRConfig, MT5Config, "of type `mt5`"),
        ],
    )
    def test_another_family(self, tmp_path, config_class, saved, message):
        saved().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            config_class.from_pretrained(tmp_path)

    @BOTH
    def test_no_family(self, tmp_path, config_class):
        with pytest.raises(ValueError, match="has no `config.json` with a `model_type`"):
            config_class.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text('{"hidden_size": 3}')
        with pytest.raises(ValueError, match="has no `config.json` with a `model_type`"):
            config_class.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "nope"}')
        with pytest.raises(ValueError, match="a model of unknown type `nope`"):
            config_class.from_pretrained(tmp_path)
        with pytest.raises(OSError, match="absent"):
            config_class.from_pretrained(tmp_path / "absent")
