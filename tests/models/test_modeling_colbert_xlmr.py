"""ColBERT-XLMR against the bare encoder and a projection written out in float64."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from fid_tiny import checkpoint_activations
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, XLMRobertaModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import is_flash_attn_2_available

from hf_xlir import BiEncoderConfig, ColBERTXLMRConfig, ColBERTXLMRModel, ColBERTXLMRProcessor, FiDT5Config
from hf_xlir.models.modeling_retriever import RetrieverOutput


TEXTS = [
    "Nile",
    "The Nile flows north, to the sea.",
    "Who invented the telephone (in 1876)?",
    "Helsinki is the capital of Finland; Seoul, of Korea!",
]
IDS = torch.tensor([[0, 9, 10, 11, 12, 2], [0, 13, 14, 2, 1, 1]])
MASK = (IDS != 1).long()
# Checkpoints with and without a head for pre-training, of families with other key names
CHECKPOINTS = [
    *("XLMRobertaModel", "XLMRobertaForMaskedLM", "BertModel", "BertForMaskedLM", "BertForPreTraining"),
    *("DistilBertModel", "DistilBertForMaskedLM", "ElectraModel", "MPNetModel", "ModernBertModel"),
]


def largest(difference):
    return difference.abs().max().item()


def project(states, weight, kept):
    """`W h / |W h|` for each kept token, in float64, and zeros for the others."""
    rows = []
    for of_text, of_mask in zip(states.double(), kept, strict=True):
        vectors = []
        for state, counts in zip(of_text, of_mask.tolist(), strict=True):
            vector = weight.double() @ state
            vectors.append(vector / vector.pow(2).sum().sqrt() if counts else torch.zeros_like(vector))
        rows.append(torch.stack(vectors))
    return torch.stack(rows)


class PlainEncoder(torch.nn.Module):
    """The unit vector of each id, with any neighbours."""

    def __init__(self, attention):
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation=attention)

    def forward(self, input_ids, attention_mask):
        return BaseModelOutput(last_hidden_state=torch.eye(128)[input_ids][..., :32])


def sdpa_calls(monkeypatch, function):
    """How often `function` calls torch's fused attention."""
    calls, original = [], torch.nn.functional.scaled_dot_product_attention
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.nn.functional,
            "scaled_dot_product_attention",
            lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs),
        )
        function()
    return len(calls)


class TestEmbeddings:
    @torch.no_grad()
    def test_equal_the_bare_encoder_and_a_projection(self, tiny_colbert):
        encoder = XLMRobertaModel(copy.deepcopy(tiny_colbert.config.encoder_config)).eval()
        encoder.load_state_dict(tiny_colbert.encoder.state_dict(), strict=False)
        kept = MASK.bool().clone()
        kept[0, 3] = False  # attended to, and not counted
        kept[1, 4] = True  # counted, and not attended to
        out = tiny_colbert(IDS, MASK, kept)
        assert isinstance(out, RetrieverOutput)
        expected = project(encoder(IDS, MASK).last_hidden_state, tiny_colbert.linear.weight, kept)
        assert out.embeddings.shape == (2, 6, 12) and out.embeddings.dtype == torch.float32
        assert largest(out.embeddings - expected) < 1e-6
        assert torch.equal(out.embedding_mask, kept)
        assert largest(out.embeddings.norm(dim=-1) - kept.float()) < 1e-6

    @torch.no_grad()
    def test_a_projection_with_bias(self, make_colbert):
        model = make_colbert(projection_bias=True)
        torch.nn.init.normal_(model.linear.bias)
        vectors = model.encoder(IDS, MASK).last_hidden_state.double() @ model.linear.weight.double().T
        vectors = vectors + model.linear.bias.double()
        expected = vectors / vectors.pow(2).sum(-1, keepdim=True).sqrt() * MASK[..., None]
        assert largest(model(IDS, MASK).embeddings - expected) < 1e-6

    @torch.no_grad()
    def test_default_masks(self, tiny_colbert):
        everything = tiny_colbert(IDS, torch.ones_like(IDS), torch.ones(2, 6, dtype=torch.bool))
        out = tiny_colbert(IDS)
        assert torch.equal(out.embeddings, everything.embeddings) and out.embedding_mask.all()
        attended = tiny_colbert(IDS, MASK)
        assert torch.equal(attended.embedding_mask, MASK.bool())
        assert largest(attended.embeddings[1, 4:]) == 0
        assert largest(attended.embeddings[1, :4] - everything.embeddings[1, :4]) > 1e-2

    @torch.no_grad()
    def test_segment_ids_reach_the_encoder(self, make_colbert, make_bare_encoder):
        bare = make_bare_encoder("BertModel")
        model = make_colbert(encoder_config=copy.deepcopy(bare.config))
        model.encoder.load_state_dict(bare.state_dict(), strict=False)
        segments = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)
        out = model(IDS, MASK, token_type_ids=segments)
        states = bare(IDS, MASK, token_type_ids=segments).last_hidden_state
        assert largest(out.embeddings - project(states, model.linear.weight, MASK)) < 1e-6
        assert largest(out.embeddings - model(IDS, MASK).embeddings) > 1e-2

    @torch.no_grad()
    def test_what_else_is_returned(self, tiny_colbert):
        out = tiny_colbert(IDS, MASK)
        assert out.hidden_states is None and out.attentions is None
        embeddings, mask = tiny_colbert(IDS, MASK, return_dict=False)
        assert torch.equal(embeddings, out.embeddings) and torch.equal(mask, out.embedding_mask)
        tiny_colbert.set_attn_implementation("eager")
        out = tiny_colbert(IDS, MASK, output_hidden_states=True, output_attentions=True)
        assert [states.shape for states in out.hidden_states] == [(2, 6, 32)] * 3
        assert [weights.shape for weights in out.attentions] == [(2, 4, 6, 6)] * 2
        assert largest(out.attentions[0][1, :, :, 4:]) == 0

    @torch.no_grad()
    def test_embeddings_instead_of_ids(self, tiny_colbert):
        embedded = tiny_colbert.get_input_embeddings()(IDS)
        out = tiny_colbert(inputs_embeds=embedded[:1])
        assert largest(out.embeddings - tiny_colbert(IDS[:1]).embeddings) < 1e-6
        for given, got in (({}, "neither"), ({"input_ids": IDS, "inputs_embeds": embedded}, "both")):
            with pytest.raises(ValueError, match=f"Give `input_ids` or `inputs_embeds`, got {got}"):
                tiny_colbert(**given)

    @torch.no_grad()
    def test_an_encoder_of_few_arguments(self, tiny_colbert):
        """What is not given is not passed on: an encoder may know neither segments nor embeddings."""
        tiny_colbert.encoder = PlainEncoder(attention="eager")
        expected = project(torch.eye(32)[IDS], tiny_colbert.linear.weight, MASK)
        assert largest(tiny_colbert(IDS, MASK).embeddings - expected) < 1e-6
        with pytest.raises(TypeError, match="token_type_ids"):
            tiny_colbert(IDS, MASK, token_type_ids=torch.zeros_like(IDS))

    def test_the_trainer_must_not_rescale_its_losses(self):
        assert ColBERTXLMRModel.accepts_loss_kwargs is False


class TestDocuments:
    @pytest.mark.parametrize("class_name", ["XLMRobertaModel", "BertModel", "DistilBertModel", "ModernBertModel"])
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @torch.no_grad()
    def test_do_not_depend_on_their_batch(
        self, make_colbert, make_bare_encoder, tiny_tokenizer, class_name, attention
    ):
        model = make_colbert(encoder_config=make_bare_encoder(class_name).config)
        model.set_attn_implementation(attention)
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config)
        alone = [model(**processor.process_documents([text])) for text in TEXTS]
        for order in ([0, 1, 2, 3], [3, 0], [2, 1, 0]):
            together = model(**processor.process_documents([TEXTS[i] for i in order]))
            for row, i in enumerate(order):
                kept = together.embedding_mask[row]
                expected = alone[i].embeddings[alone[i].embedding_mask]
                assert kept.sum() == alone[i].embedding_mask.sum()
                assert largest(together.embeddings[row, kept] - expected) < 1e-5
                assert not together.embeddings[row, ~kept].any()

    @torch.no_grad()
    def test_scores_do_not_depend_on_their_batch(self, tiny_colbert, tiny_tokenizer):
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config)
        queries = tiny_colbert(**processor.process_queries(["Where does the Nile flow?", "Who?"]))
        scores = processor.score(queries, tiny_colbert(**processor.process_documents(TEXTS)))
        assert scores.shape == (2, 4)
        for i, text in enumerate(TEXTS):
            alone = processor.score(queries, tiny_colbert(**processor.process_documents([text])))
            assert largest(scores[:, i : i + 1] - alone) < 1e-5

    @torch.no_grad()
    def test_depend_on_their_batch_with_the_quirk_of_the_published_code(self, tiny_colbert, tiny_tokenizer):
        """What `mask_id_zero` reproduces, and the default avoids: padding counts."""
        processor = ColBERTXLMRProcessor(tiny_tokenizer, mask_id_zero=True)
        alone = tiny_colbert(**processor.process_documents(TEXTS[:1]))
        together = tiny_colbert(**processor.process_documents(TEXTS))
        length = alone.embedding_mask.shape[1]
        assert alone.embedding_mask[0].tolist() == [False] + [True] * (length - 1)
        assert together.embedding_mask[0].tolist() == [False] + [True] * (together.embedding_mask.shape[1] - 1)
        assert (together.embeddings[0, length:].norm(dim=-1) - 1).abs().max() < 1e-6


class TestQueryExpansion:
    @pytest.mark.parametrize("expansion", ["pad", "mask"])
    @torch.no_grad()
    def test_is_scored_and_not_attended_to(self, tiny_colbert, tiny_tokenizer, expansion):
        expanded, bare = (
            ColBERTXLMRProcessor(tiny_tokenizer, query_length=16, query_expansion=each) for each in (expansion, "none")
        )
        query = ["Who?"]
        long, short = tiny_colbert(**expanded.process_queries(query)), tiny_colbert(**bare.process_queries(query))
        length = short.embeddings.shape[1]
        assert length < 16 == long.embeddings.shape[1]
        # not attended to: the query's own tokens are as without expansion
        assert largest(long.embeddings[:, :length] - short.embeddings) < 1e-5
        # scored: each adds its own best similarity
        assert largest(long.embeddings[:, length:].norm(dim=-1) - 1) < 1e-6
        documents = tiny_colbert(**bare.process_documents(TEXTS))
        for i in range(len(TEXTS)):
            vectors = documents.embeddings[i, documents.embedding_mask[i]].double()
            added = sum(max((vectors @ token.double()).tolist()) for token in long.embeddings[0, length:])
            difference = expanded.score(long, documents)[0, i] - bare.score(short, documents)[0, i]
            assert difference.item() == pytest.approx(added, abs=1e-5)

    @torch.no_grad()
    def test_may_be_attended_to(self, tiny_colbert, tiny_tokenizer):
        attending = ColBERTXLMRProcessor(tiny_tokenizer, query_length=16, attend_to_expansion=True)
        bare = ColBERTXLMRProcessor(tiny_tokenizer, query_length=16, query_expansion="none")
        short = tiny_colbert(**bare.process_queries(["Who?"])).embeddings
        long = tiny_colbert(**attending.process_queries(["Who?"])).embeddings
        assert largest(long[:, : short.shape[1]] - short) > 1e-2

    @torch.no_grad()
    def test_a_query_does_not_depend_on_its_batch(self, tiny_colbert, tiny_tokenizer):
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config)
        together = tiny_colbert(**processor.process_queries(TEXTS)).embeddings
        for row, text in zip(together, TEXTS, strict=True):
            assert largest(tiny_colbert(**processor.process_queries([text])).embeddings[0] - row) < 1e-5

    @torch.no_grad()
    def test_flash_attention_would_drop_it(self, tiny_colbert, tiny_tokenizer):
        # Chosen for the encoder alone, as `attn_implementation={"encoder_config": ...}` does
        tiny_colbert.encoder = PlainEncoder(attention="flash_attention_2")
        assert tiny_colbert.config._attn_implementation == "sdpa"
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config)
        with pytest.raises(ValueError, match="'flash_attention_2'"):
            tiny_colbert(**processor.process_queries(["Who?"]))
        assert tiny_colbert(**processor.process_documents(TEXTS)).embeddings.isfinite().all()
        processor.attend_to_expansion = True
        assert tiny_colbert(**processor.process_queries(["Who?"])).embeddings.isfinite().all()


class TestBareEncoders:
    @pytest.mark.parametrize("class_name", CHECKPOINTS)
    @torch.no_grad()
    def test_only_the_projection_is_new(self, tmp_path, make_bare_encoder, class_name):
        bare = make_bare_encoder(class_name)
        bare.save_pretrained(tmp_path)
        model, info = ColBERTXLMRModel.from_pretrained(tmp_path, embedding_dim=12, output_loading_info=True)
        assert set(info["missing_keys"]) == {"linear.weight"}
        assert not info["unexpected_keys"] and not info["mismatched_keys"]
        assert not model.training
        states = bare.base_model(IDS, MASK)[0]
        assert largest(states) > 0.1
        assert largest(model(IDS, MASK).embeddings - project(states, model.linear.weight, MASK)) < 1e-6
        assert 0.1 < model.linear.weight.std() < 0.5  # made with the encoder's `initializer_range`, 0.3

    def test_what_is_saved_then_has_this_family_s_names(self, tmp_path, make_bare_encoder):
        make_bare_encoder("BertForMaskedLM").save_pretrained(tmp_path / "bert")
        model = ColBERTXLMRModel.from_pretrained(tmp_path / "bert", embedding_dim=12)
        model.save_pretrained(tmp_path / "colbert")
        assert {path.name for path in (tmp_path / "colbert").iterdir()} == {"config.json", "model.safetensors"}
        keys = load_file(tmp_path / "colbert" / "model.safetensors").keys()
        assert keys == model.state_dict().keys()
        assert {key.partition(".")[0] for key in keys} == {"encoder", "linear"}

    @torch.no_grad()
    def test_an_old_bert_checkpoint(self, tmp_path, make_bare_encoder):
        """As Google's were converted: pickled, and layer norms with `gamma` and `beta`."""
        bare = make_bare_encoder("BertForPreTraining")
        bare.config.save_pretrained(tmp_path)
        weights = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
            for name, weight in bare.state_dict().items()
        }
        assert "bert.embeddings.LayerNorm.gamma" in weights
        torch.save(weights, tmp_path / "pytorch_model.bin")
        model, info = ColBERTXLMRModel.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == {"linear.weight"}
        states = bare.bert(IDS, MASK).last_hidden_state
        assert largest(model(IDS, MASK).embeddings - project(states, model.linear.weight, MASK)) < 1e-6

    def test_with_a_configuration(self, tmp_path, make_bare_encoder):
        bare = make_bare_encoder("BertModel")
        bare.save_pretrained(tmp_path)
        config = ColBERTXLMRConfig(encoder_config=copy.deepcopy(bare.config), embedding_dim=7, query_length=11)
        model = ColBERTXLMRModel.from_pretrained(tmp_path, config=config)
        assert model.linear.weight.shape == (7, 32) and model.config.query_length == 11
        assert torch.equal(model.encoder.embeddings.word_embeddings.weight, bare.embeddings.word_embeddings.weight)


class TestSaving:
    def test_identity(self, tmp_path, tiny_colbert):
        tiny_colbert.save_pretrained(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
        loaded, info = ColBERTXLMRModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        weights = loaded.state_dict()
        assert weights.keys() == tiny_colbert.state_dict().keys()
        assert all(torch.equal(weights[name], weight) for name, weight in tiny_colbert.state_dict().items())
        with torch.no_grad():
            assert largest(loaded(IDS, MASK).embeddings - tiny_colbert(IDS, MASK).embeddings) < 1e-6
        assert loaded.config.embedding_dim == 12 and loaded.config.document_length == 40

    @pytest.mark.parametrize("make", [AutoModel.from_pretrained, ColBERTXLMRModel.from_pretrained])
    def test_another_embedding_dim(self, tmp_path, tiny_colbert, make):
        tiny_colbert.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds weights for embedding_dim=12, got embedding_dim=24"):
            make(tmp_path, embedding_dim=24)
        config = ColBERTXLMRConfig(encoder_config=tiny_colbert.config.encoder_config, embedding_dim=24)
        with pytest.raises(ValueError, match="holds weights for embedding_dim=12, got embedding_dim=24"):
            make(tmp_path, config=config)
        assert make(tmp_path, embedding_dim=12).config.embedding_dim == 12

    @pytest.mark.parametrize("make", [AutoModel.from_pretrained, ColBERTXLMRModel.from_pretrained])
    def test_a_configuration_without_embedding_dim_means_the_default(self, tmp_path, make_colbert, make):
        make_colbert(embedding_dim=128).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        written = json.loads(path.read_text())
        del written["embedding_dim"]
        path.write_text(json.dumps(written))
        assert make(tmp_path).linear.weight.shape == (128, 32)
        with pytest.raises(ValueError, match="embedding_dim=128, got embedding_dim=24"):
            make(tmp_path, embedding_dim=24)

    def test_other_families(self, tmp_path, make_biencoder, tiny_colbert):
        make_biencoder().save_pretrained(tmp_path / "biencoder")
        FiDT5Config().save_pretrained(tmp_path / "fid")
        for folder, model_type in (("biencoder", "biencoder"), ("fid", "fid_t5")):
            for given in ({}, {"config": tiny_colbert.config}):
                with pytest.raises(ValueError, match=f"holds a model of type `{model_type}`, but `ColBERTXLMRConfig`"):
                    ColBERTXLMRModel.from_pretrained(tmp_path / folder, **given)
        assert AutoModel.from_pretrained(tmp_path / "biencoder").config_class is BiEncoderConfig

    def test_no_model(self, tmp_path):
        with pytest.raises(OSError, match="absent"):
            ColBERTXLMRModel.from_pretrained(tmp_path / "absent")
        with pytest.raises(ValueError, match="has no `config.json` with a `model_type`"):
            ColBERTXLMRModel.from_pretrained(tmp_path)
        ColBERTXLMRConfig().save_pretrained(tmp_path)
        with pytest.raises(OSError, match="no file named model.safetensors"):
            ColBERTXLMRModel.from_pretrained(tmp_path)

    def test_a_misspelt_keyword(self, tmp_path, tiny_colbert):
        tiny_colbert.save_pretrained(tmp_path)
        with pytest.raises(TypeError, match="embeding_dim"):
            ColBERTXLMRModel.from_pretrained(tmp_path, embeding_dim=12)

    def test_more_tokens(self, tmp_path, tiny_colbert):
        before = tiny_colbert.get_input_embeddings().weight.clone()
        tiny_colbert.resize_token_embeddings(len(before) + 5)
        tiny_colbert.save_pretrained(tmp_path)
        loaded = ColBERTXLMRModel.from_pretrained(tmp_path)
        assert loaded.config.encoder_config.vocab_size == len(before) + 5
        assert torch.equal(loaded.get_input_embeddings().weight[:-5], before)


class TestAttention:
    @torch.no_grad()
    def test_implementations_agree(self, tiny_colbert, monkeypatch):
        out = {}
        for attention, calls in (("sdpa", 2), ("eager", 0)):  # two layers
            tiny_colbert.set_attn_implementation(attention)
            assert tiny_colbert.encoder.config._attn_implementation == attention
            assert sdpa_calls(monkeypatch, lambda: tiny_colbert(IDS, MASK)) == calls
            out[attention] = tiny_colbert(IDS, MASK).embeddings
        assert largest(out["sdpa"] - out["eager"]) < 1e-5

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_the_choice_reaches_the_encoder(self, tmp_path, tiny_colbert, make_bare_encoder, attention):
        tiny_colbert.save_pretrained(tmp_path / "colbert")
        make_bare_encoder("BertModel").save_pretrained(tmp_path / "bert")
        for model in (
            ColBERTXLMRModel.from_pretrained(tmp_path / "colbert", attn_implementation=attention),
            ColBERTXLMRModel.from_pretrained(tmp_path / "bert", attn_implementation=attention),
            AutoModel.from_pretrained(tmp_path / "colbert", attn_implementation=attention),
            AutoModel.from_config(copy.deepcopy(tiny_colbert.config), attn_implementation=attention),
        ):
            assert model.config._attn_implementation == attention
            assert model.encoder.config._attn_implementation == attention

    @pytest.mark.skipif(is_flash_attn_2_available(), reason="flash attention is installed, so nothing is missed")
    def test_flash_attention_is_asked_for(self, tmp_path, tiny_colbert):
        tiny_colbert.save_pretrained(tmp_path)
        with pytest.raises(ImportError, match="FlashAttention2"):
            ColBERTXLMRModel.from_pretrained(tmp_path, attn_implementation="flash_attention_2", dtype=torch.bfloat16)


class TestTraining:
    def test_activation_checkpointing_changes_no_gradient(self, make_colbert, make_encoder_config):
        encoder_config = make_encoder_config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        model = make_colbert(encoder_config=encoder_config).train()
        layer_calls, gradients, losses = [], [], []
        model.encoder.encoder.layer[0].attention.register_forward_hook(lambda *args: layer_calls.append(1))
        target = torch.randn(2, 6, 12)
        for checkpointing in (False, True):
            if checkpointing:
                checkpoint_activations(model)
                assert model.is_gradient_checkpointing and model.encoder.is_gradient_checkpointing
            model.zero_grad()
            torch.manual_seed(1)
            loss = (model(IDS, MASK).embeddings * target).sum()
            loss.backward()
            losses.append(loss.item())
            gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
            assert len(layer_calls) == (3 if checkpointing else 1)  # with it, the forward pass is run once more
        assert losses[0] == losses[1]
        assert gradients[0].keys() == gradients[1].keys() and "linear.weight" in gradients[0]
        for name, gradient in gradients[0].items():
            assert largest(gradient - gradients[1][name]) <= 1e-6 * max(1, largest(gradient)), name
        assert largest(gradients[0]["encoder.embeddings.word_embeddings.weight"]) > 0

    @pytest.mark.parametrize("task_type", [None, TaskType.FEATURE_EXTRACTION])
    def test_lora(self, tmp_path, tiny_colbert, task_type):
        tiny_colbert.save_pretrained(tmp_path / "base")
        lora = LoraConfig(
            r=4, target_modules=["query", "value"], modules_to_save=["linear"], lora_dropout=0.0, task_type=task_type
        )
        model = get_peft_model(ColBERTXLMRModel.from_pretrained(tmp_path / "base"), lora)
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert len(trained) == 2 * 2 * 2 + 1  # A and B, query and value, two layers; and the projection
        assert all("lora_" in name or "linear.modules_to_save" in name for name in trained)

        before = {name: weight.clone() for name, weight in model.named_parameters()}
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
        target, losses = torch.randn(2, 6, 12), []
        for _ in range(3):
            loss = -(model(input_ids=IDS, attention_mask=MASK).embeddings * target).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[2] < losses[0] - 0.1
        changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        assert changed == trained

        model.eval().save_pretrained(tmp_path / "adapter")
        with torch.no_grad():
            expected = model(input_ids=IDS, attention_mask=MASK).embeddings
            loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
            assert largest(loaded.eval()(input_ids=IDS, attention_mask=MASK).embeddings - expected) < 1e-6
            merged = loaded.merge_and_unload()
            assert type(merged) is ColBERTXLMRModel
            assert largest(merged(IDS, MASK).embeddings - expected) < 1e-5
            merged.save_pretrained(tmp_path / "merged")
            again = AutoModel.from_pretrained(tmp_path / "merged")
            assert largest(again(IDS, MASK).embeddings - expected) < 1e-5
            assert largest(tiny_colbert(IDS, MASK).embeddings - expected) > 1e-2


class TestDtypes:
    @torch.no_grad()
    def test_bfloat16_forward(self, tiny_colbert):
        expected = tiny_colbert(IDS, MASK).embeddings
        out = tiny_colbert.to(torch.bfloat16)(IDS, MASK)
        assert out.embeddings.dtype == torch.bfloat16
        cosines = (out.embeddings.float() * expected).sum(-1)[MASK.bool()]
        assert cosines.min() > 0.98 and largest(out.embeddings[1, 4:]) == 0

    @pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("source", ["own", "bare"])
    def test_loading(self, tmp_path, tiny_colbert, make_bare_encoder, keyword, dtype, source):
        (tiny_colbert if source == "own" else make_bare_encoder("BertModel")).save_pretrained(tmp_path)
        model = ColBERTXLMRModel.from_pretrained(tmp_path, **{keyword: dtype})
        assert {weight.dtype for weight in model.parameters()} == {dtype}
        assert model(IDS, MASK).embeddings.dtype == dtype

    def test_a_model_saved_in_bfloat16(self, tmp_path, tiny_colbert):
        tiny_colbert.save_pretrained(tmp_path)
        ColBERTXLMRModel.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
        for given, dtype in (({}, torch.bfloat16), ({"dtype": torch.float32}, torch.float32)):
            model = ColBERTXLMRModel.from_pretrained(tmp_path, **given)
            assert {weight.dtype for weight in model.parameters()} == {dtype}
        # The configuration alone remembers a dtype, too; encoder and projection must still agree
        config = ColBERTXLMRConfig.from_pretrained(tmp_path)
        assert config.encoder_config.dtype == torch.bfloat16
        assert {weight.dtype for weight in ColBERTXLMRModel(config).parameters()} == {torch.float32}
