"""What both retrievers' models share: complete weights, heads of checkpoints, positions, encoders without layers."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_xlir import BiEncoderConfig, BiEncoderModel, ColBERTXLMRConfig, ColBERTXLMRModel
from hf_xlir.models.modeling_retriever import check_positions


IDS = torch.tensor([[0, 9, 10, 11, 12, 2], [0, 13, 14, 2, 1, 1]])
MASK = (IDS != 1).long()
BOTH = pytest.mark.parametrize("model_class", [ColBERTXLMRModel, BiEncoderModel])
NEW = {
    ColBERTXLMRModel: {"linear.weight"},
    BiEncoderModel: {"head.linear.weight", "head.linear.bias", "head.LayerNorm.weight", "head.LayerNorm.bias"},
}


def drop_weights(folder, part):
    """Rewrite a folder's weights without those whose names contain `part`; returns how many those were."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {name: weight for name, weight in weights.items() if part not in name}
    save_file(kept, file, metadata={"format": "pt"})
    return len(weights) - len(kept)


class TestMissingWeights:
    @BOTH
    @pytest.mark.parametrize("make", [AutoModel.from_pretrained, None])
    @pytest.mark.parametrize("part", ["layer.1.", "embeddings.word", "linear."])
    def test_of_an_own_folder(self, tmp_path, make_colbert, make_biencoder, model_class, make, part):
        (make_colbert() if model_class is ColBERTXLMRModel else make_biencoder(embedding_dim=8)).save_pretrained(
            tmp_path
        )
        number = drop_weights(tmp_path, part)
        assert number > 0
        with pytest.raises(ValueError, match=f"lacks {number} weights"):
            (make or model_class.from_pretrained)(tmp_path)

    @BOTH
    def test_of_a_bare_encoder(self, tmp_path, make_bare_encoder, model_class):
        make_bare_encoder("BertForMaskedLM").save_pretrained(tmp_path)
        number = drop_weights(tmp_path, "layer.1.output")
        with pytest.raises(ValueError, match=rf"lacks {number} weights .*\['encoder.encoder.layer.1.output"):
            model_class.from_pretrained(tmp_path, embedding_dim=8)

    def test_of_a_second_tower(self, tmp_path, make_biencoder):
        make_biencoder(share_encoders=False).save_pretrained(tmp_path)
        drop_weights(tmp_path, "document_encoder")
        with pytest.raises(ValueError, match=r"lacks .*\['document_encoder"):
            BiEncoderModel.from_pretrained(tmp_path)

    @BOTH
    def test_the_loading_info_is_returned_only_if_asked_for(self, tmp_path, make_bare_encoder, model_class):
        make_bare_encoder("BertModel").save_pretrained(tmp_path)
        assert isinstance(model_class.from_pretrained(tmp_path, embedding_dim=8), model_class)
        model, info = model_class.from_pretrained(tmp_path, embedding_dim=8, output_loading_info=True)
        assert isinstance(model, model_class) and set(info["missing_keys"]) == NEW[model_class]


class TestHeads:
    @pytest.mark.parametrize(
        "class_name",
        [
            *("AlbertForMaskedLM", "ElectraForMaskedLM", "ElectraForPreTraining", "ModernBertForMaskedLM"),
            *("ModernBertForSequenceClassification", "DistilBertForSequenceClassification"),
            *("BertForQuestionAnswering", "XLMRobertaForTokenClassification"),
        ],
    )
    @BOTH
    @torch.no_grad()
    def test_of_a_task_are_not_reported(self, tmp_path, make_bare_encoder, class_name, model_class):
        bare = make_bare_encoder(class_name)
        bare.save_pretrained(tmp_path)
        model, info = model_class.from_pretrained(tmp_path, embedding_dim=8, output_loading_info=True)
        assert not info["unexpected_keys"] and set(info["missing_keys"]) == NEW[model_class]
        states = model.encoder(IDS, MASK).last_hidden_state
        assert (states - bare.base_model(IDS, MASK)[0]).abs().max() < 1e-6

    def test_the_dual_encoder_s_own_is_reported(self, tmp_path, make_biencoder):
        make_biencoder(embedding_dim=8).save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        weights["head.extra.weight"] = torch.ones(2)
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        _, info = BiEncoderModel.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["unexpected_keys"]) == {"head.extra.weight"}


class TestPositions:
    @pytest.mark.parametrize("class_name", ["XLMRobertaModel", "MPNetModel", "BertModel", "DistilBertModel"])
    @pytest.mark.parametrize("name", ["query_length", "document_length"])
    @torch.no_grad()
    def test_the_longest_text_fits_the_encoder(self, make_bare_encoder, class_name, name):
        encoder = make_bare_encoder(class_name)

        def takes(length):
            try:
                encoder(torch.full((1, length), 9), torch.ones(1, length, dtype=torch.long))
            except (RuntimeError, IndexError):
                return False
            return True

        rows = encoder.config.max_position_embeddings
        most = next(length for length in range(rows, 0, -1) if takes(length))
        assert most == rows - (2 if class_name in ("XLMRobertaModel", "MPNetModel") else 0)
        for make in (
            lambda **lengths: ColBERTXLMRModel(ColBERTXLMRConfig(encoder_config=encoder.config, **lengths)),
            lambda **lengths: BiEncoderModel(BiEncoderConfig(encoder_config=encoder.config, **lengths)),
        ):
            make(**{name: most})
            message = f"`{name}` is {most + 1} token ids, but the encoder has positions for {most}: set"
            with pytest.raises(ValueError, match=message):
                make(**{name: most + 1})

    def test_rotary_positions_have_no_end(self, make_bare_encoder):
        config = make_bare_encoder("ModernBertModel").config
        config.max_position_embeddings = 16
        BiEncoderModel(BiEncoderConfig(encoder_config=config, document_length=5000))

    @BOTH
    def test_of_a_bare_encoder(self, tmp_path, make_bare_encoder, model_class):
        make_bare_encoder("XLMRobertaModel").save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="`document_length` is 257 token ids.* for 256"):
            model_class.from_pretrained(tmp_path, document_length=257)

    def test_of_a_configuration_that_changed(self, tiny_colbert):
        check_positions(tiny_colbert)
        tiny_colbert.config.document_length = 65
        with pytest.raises(
            ValueError, match="`document_length` is 65 token ids, but the encoder has positions for 64"
        ):
            check_positions(tiny_colbert)


class TestEncodersWithoutLayers:
    @torch.no_grad()
    def test_the_embedding_layer_is_the_only_one(self, make_biencoder, make_encoder_config):
        config = make_encoder_config(num_hidden_layers=0)
        model = make_biencoder(encoder_config=config, pooling="last4_mean")
        states = model.encoder(IDS, MASK).last_hidden_state
        expected = torch.stack([states[0].mean(dim=0), states[1, :4].mean(dim=0)])
        out = model(IDS, MASK, output_hidden_states=True)
        assert (out.embeddings - expected).abs().max() < 1e-6
        assert len(out.hidden_states) == 1 and torch.equal(out.hidden_states[0], states)
        offsets = torch.tensor([[[0, 0], [0, 2], [2, 3], [4, 6], [6, 7], [0, 0]]] * 2)
        (found, _) = model.word_vectors(IDS, MASK, offsets, [[(0, 3), (4, 7)], []], layers=(0,))
        assert (found - torch.stack([states[0, 1:3].mean(dim=0), states[0, 3:5].mean(dim=0)])).abs().max() < 1e-6

    @torch.no_grad()
    def test_late_interaction(self, make_colbert, make_encoder_config):
        model = make_colbert(encoder_config=make_encoder_config(num_hidden_layers=0))
        out = model(IDS, MASK, output_hidden_states=True)
        assert torch.equal(out.hidden_states[0], model.encoder(IDS, MASK).last_hidden_state)
        assert model(IDS, MASK).hidden_states is None


def test_configurations_are_not_changed_by_loading(tmp_path, make_biencoder):
    model = make_biencoder()
    model.save_pretrained(tmp_path)
    config = copy.deepcopy(model.config)
    config.share_encoders = False
    loaded = BiEncoderModel.from_pretrained(tmp_path, config=config)
    assert loaded.config.share_encoders is False and config.share_encoders is False
    assert loaded.config is not config
