"""The dual encoder against the bare encoder, with pooling, head and word vectors written out as loops in float64."""

import copy

import pytest
import torch
from fid_tiny import checkpoint_activations
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, XLMRobertaModel

from hf_xlir import BiEncoderConfig, BiEncoderModel, BiEncoderProcessor, FiDT5Config
from hf_xlir.models.modeling_retriever import RetrieverOutput


TEXTS = [
    "Nile",
    "The Nile flows north, to the sea.",
    "Who invented the telephone (in 1876)?",
    "Helsinki is the capital of Finland; Seoul, of Korea!",
]
IDS = torch.tensor([[0, 9, 10, 11, 12, 2], [0, 13, 14, 2, 1, 1]])
MASK = (IDS != 1).long()
POOLINGS = ["cls", "mean", "last4_mean"]
HEAD_BIAS = "head.linear.bias"
HEAD = {"head.linear.weight", "head.linear.bias", "head.LayerNorm.weight", "head.LayerNorm.bias"}
CHECKPOINTS = [
    *("XLMRobertaModel", "XLMRobertaForMaskedLM", "BertModel", "BertForMaskedLM", "BertForPreTraining"),
    *("DistilBertModel", "DistilBertForMaskedLM", "ElectraModel", "MPNetModel", "ModernBertModel"),
]


def largest(difference):
    return difference.abs().max().item()


def pool(hidden_states, mask, pooling):
    """One float64 vector a text, token by token."""
    layers = hidden_states[-4:] if pooling == "last4_mean" else hidden_states[-1:]
    rows = []
    for row, of_mask in enumerate(mask.tolist()):
        tokens = []
        for position, real in enumerate(of_mask):
            if real:
                tokens.append(sum(layer[row, position].double() for layer in layers) / len(layers))
        rows.append(tokens[0] if pooling == "cls" else sum(tokens) / len(tokens))
    return torch.stack(rows)


def apply_head(pooled, head):
    """Linear layer and LayerNorm by their definitions, in float64."""
    rows = []
    for vector in pooled.double():
        vector = head.linear.weight.double() @ vector + head.linear.bias.double()
        centred = vector - vector.mean()
        vector = centred / (centred.pow(2).mean() + 1e-5).sqrt()
        rows.append(vector * head.LayerNorm.weight.double() + head.LayerNorm.bias.double())
    return torch.stack(rows)


def apply_dense(vectors, head, function):
    """A linear layer and a function by their definitions, in float64, of vectors in rows."""
    return function(vectors.double() @ head.linear.weight.double().T + head.linear.bias.double())


def bare_copy(encoder):
    """A transformers model of its own with an encoder's weights."""
    bare = XLMRobertaModel(copy.deepcopy(encoder.config)).eval()
    bare.load_state_dict(encoder.state_dict(), strict=False)
    return bare


def randomize(module):
    """Values that show in LayerNorm weights and biases, which start as ones and zeros."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)


def processed(tiny_tokenizer, model):
    return BiEncoderProcessor.from_config(tiny_tokenizer, model.config)


class TestEmbeddings:
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("embedding_dim", [None, 8])
    @pytest.mark.parametrize("normalize", [False, True])
    @torch.no_grad()
    def test_equal_the_bare_encoder_and_loops(
        self, make_biencoder, make_encoder_config, pooling, embedding_dim, normalize
    ):
        model = make_biencoder(
            encoder_config=make_encoder_config(num_hidden_layers=5),
            pooling=pooling,
            embedding_dim=embedding_dim,
            normalize=normalize,
        )
        randomize(model.head)
        hidden_states = bare_copy(model.encoder)(IDS, MASK, output_hidden_states=True).hidden_states
        assert len(hidden_states) == 6
        expected = pool(hidden_states, MASK, pooling)
        if embedding_dim is not None:
            expected = apply_head(expected, model.head)
        if normalize:
            expected = torch.stack([vector / vector.pow(2).sum().sqrt() for vector in expected])
        out = model(IDS, MASK)
        assert isinstance(out, RetrieverOutput) and out.embedding_mask is None and out.hidden_states is None
        assert out.embeddings.shape == (2, embedding_dim or 32) and out.embeddings.dtype == torch.float32
        assert largest(out.embeddings - expected) < 2e-6
        if normalize:
            assert largest(out.embeddings.norm(dim=-1) - 1) < 1e-6

    @pytest.mark.parametrize(
        "activation, function",
        [
            (None, lambda x: x),
            ("tanh", lambda x: 1 - 2 / (torch.exp(2 * x) + 1)),
            ("relu", lambda x: x * (x > 0)),
            ("gelu", lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
        ],
    )
    @torch.no_grad()
    def test_a_projection_without_norm(self, make_biencoder, activation, function):
        model = make_biencoder(
            embedding_dim=8, pooling="mean", projection_norm=False, projection_activation=activation
        )
        randomize(model.head)
        assert {name for name in model.state_dict() if name.startswith("head.")} == {"head.linear.weight", HEAD_BIAS}
        expected = apply_dense(pool([model.encoder(IDS, MASK).last_hidden_state], MASK, "mean"), model.head, function)
        assert largest(model(IDS, MASK).embeddings - expected) < 2e-6

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    @torch.no_grad()
    def test_tokens_may_be_projected_before_they_are_pooled(self, make_biencoder, pooling):
        model = make_biencoder(embedding_dim=8, pooling=pooling, project_tokens=True)
        randomize(model.head)
        states = model.encoder(IDS, MASK).last_hidden_state
        projected = torch.stack([apply_head(row, model.head) for row in states])
        assert largest(model(IDS, MASK).embeddings - pool([projected], MASK, pooling)) < 2e-6

    @torch.no_grad()
    def test_poolings_differ(self, make_biencoder, make_encoder_config):
        encoder_config = make_encoder_config(num_hidden_layers=5)
        out = [make_biencoder(encoder_config=encoder_config, pooling=each)(IDS, MASK).embeddings for each in POOLINGS]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert largest(out[i] - out[j]) > 1e-2

    @torch.no_grad()
    def test_all_tokens_are_real_by_default(self, make_biencoder):
        model = make_biencoder(pooling="mean")
        assert torch.equal(model(IDS).embeddings, model(IDS, torch.ones_like(IDS)).embeddings)
        assert largest(model(IDS).embeddings[1] - model(IDS, MASK).embeddings[1]) > 1e-2

    def test_without_a_projection_there_is_no_head(self, make_biencoder):
        model = make_biencoder()
        assert not list(model.head.parameters())
        assert {name.partition(".")[0] for name in model.state_dict()} == {"encoder"}

    @torch.no_grad()
    def test_segment_ids_reach_the_encoder(self, make_biencoder, make_bare_encoder, tiny_bert_tokenizer):
        bare = make_bare_encoder("BertModel")
        model = make_biencoder(encoder_config=copy.deepcopy(bare.config), pooling="mean")
        model.encoder.load_state_dict(bare.state_dict(), strict=False)
        inputs = processed(tiny_bert_tokenizer, model).process_documents(TEXTS[1:3], titles=["Nile", "Who?"])
        assert inputs["token_type_ids"].any()
        states = bare(**{name: value for name, value in inputs.items() if name != "text_type"}).last_hidden_state
        out = model(**inputs).embeddings
        assert largest(out - pool([states], inputs["attention_mask"], "mean")) < 1e-6
        del inputs["token_type_ids"]
        assert largest(out - model(**inputs).embeddings) > 1e-2

    @torch.no_grad()
    def test_what_else_is_returned(self, make_biencoder):
        model = make_biencoder(pooling="last4_mean")
        (embeddings,) = model(IDS, MASK, return_dict=False)
        assert torch.equal(embeddings, model(IDS, MASK).embeddings)
        model.set_attn_implementation("eager")
        out = model(IDS, MASK, output_hidden_states=True, output_attentions=True)
        assert [states.shape for states in out.hidden_states] == [(2, 6, 32)] * 3
        assert [weights.shape for weights in out.attentions] == [(2, 4, 6, 6)] * 2
        assert largest(out.attentions[0][1, :, :, 4:]) == 0

    @torch.no_grad()
    def test_embeddings_instead_of_ids(self, tiny_biencoder):
        embedded = tiny_biencoder.get_input_embeddings()(IDS)
        out = tiny_biencoder(inputs_embeds=embedded[:1])
        assert largest(out.embeddings - tiny_biencoder(IDS[:1]).embeddings) < 2e-6
        with pytest.raises(ValueError, match="Give `input_ids` or `inputs_embeds`, got neither"):
            tiny_biencoder()

    @pytest.mark.parametrize("class_name", ["XLMRobertaModel", "BertModel", "DistilBertModel", "ModernBertModel"])
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("embedding_dim", [None, 8])
    @torch.no_grad()
    def test_do_not_depend_on_the_batch(
        self, make_biencoder, make_bare_encoder, tiny_tokenizer, class_name, pooling, embedding_dim
    ):
        model = make_biencoder(
            encoder_config=make_bare_encoder(class_name).config,
            pooling=pooling,
            embedding_dim=embedding_dim,
            share_encoders=False,
        )
        processor = processed(tiny_tokenizer, model)
        for process in (processor.process_documents, processor.process_queries):
            together = model(**process(TEXTS)).embeddings
            for row, text in zip(together, TEXTS, strict=True):
                assert largest(model(**process([text])).embeddings[0] - row) < 1e-5

    def test_the_trainer_must_not_rescale_its_losses(self):
        assert BiEncoderModel.accepts_loss_kwargs is False


class TestTowers:
    @torch.no_grad()
    def test_one_tower(self, tiny_biencoder):
        query, document = (tiny_biencoder(IDS, MASK, text_type=each).embeddings for each in ("query", "document"))
        assert torch.equal(query, document)
        assert tiny_biencoder.tower("query") == tiny_biencoder.tower("document")

    @pytest.mark.parametrize("embedding_dim", [None, 8])
    @torch.no_grad()
    def test_two_towers(self, make_biencoder, tiny_tokenizer, embedding_dim):
        model = make_biencoder(share_encoders=False, embedding_dim=embedding_dim)
        processor = processed(tiny_tokenizer, model)
        for inputs, encoder, head in (
            (processor.process_queries(TEXTS), model.encoder, model.head),
            (processor.process_documents(TEXTS), model.document_encoder, model.document_head),
        ):
            given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            pooled = bare_copy(encoder)(**given).last_hidden_state[:, 0]
            expected = pooled if embedding_dim is None else apply_head(pooled, head)
            assert largest(model(**inputs).embeddings - expected) < 2e-6
        assert largest(model(IDS).embeddings - model(IDS, text_type="document").embeddings) > 1e-2
        assert model.encoder.config is not model.document_encoder.config  # one may be changed without the other

    @pytest.mark.parametrize("embedding_dim", [None, 8])
    @pytest.mark.parametrize("by_config", [False, True])
    def test_both_start_from_a_bare_encoder_and_part_in_training(
        self, tmp_path, make_bare_encoder, embedding_dim, by_config
    ):
        bare = make_bare_encoder("XLMRobertaModel")
        bare.save_pretrained(tmp_path)
        given = {"share_encoders": False, "embedding_dim": embedding_dim}
        if by_config:
            config = BiEncoderConfig(encoder_config=copy.deepcopy(bare.config), **given)
            given = {"config": config}
        model, info = BiEncoderModel.from_pretrained(tmp_path, output_loading_info=True, **given)
        assert set(info["missing_keys"]) == (HEAD if embedding_dim else set()) and not info["unexpected_keys"]
        assert model.config.share_encoders is False
        if by_config:
            assert config.share_encoders is False

        # Equal, and not the same: no weight of one tower shares memory with the other's
        towers = [
            [*encoder.parameters(), *head.parameters()] for encoder, head in map(model.tower, ("query", "document"))
        ]
        assert len(towers[0]) == len(towers[1]) > 30
        for one, other in zip(*towers, strict=True):
            assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()
        assert model.encoder.config is not model.document_encoder.config
        query, document = (model(IDS, MASK, text_type=each).embeddings for each in ("query", "document"))
        assert torch.equal(query, document)

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        (document * torch.randn_like(document)).sum().backward()
        assert all(weight.grad is None for weight in towers[0])
        optimizer.step()
        with torch.no_grad():
            assert torch.equal(model(IDS, MASK, text_type="query").embeddings, query)
            assert largest(model(IDS, MASK, text_type="document").embeddings - document) > 1e-3

    @pytest.mark.parametrize("embedding_dim", [None, 8])
    @pytest.mark.parametrize("make", [AutoModel.from_pretrained, BiEncoderModel.from_pretrained])
    def test_both_start_from_a_saved_model_with_one(self, tmp_path, make_biencoder, make, embedding_dim):
        model = make_biencoder(embedding_dim=embedding_dim)
        randomize(model)
        model.save_pretrained(tmp_path)
        loaded, info = make(tmp_path, share_encoders=False, output_loading_info=True)
        assert not any(info.values()) and loaded.config.share_encoders is False
        with torch.no_grad():
            for each in ("query", "document"):
                assert torch.equal(loaded(IDS, MASK, text_type=each).embeddings, model(IDS, MASK).embeddings)
        query, document = (list(loaded.tower(each)[0].parameters()) for each in ("query", "document"))
        assert all(one.data_ptr() != other.data_ptr() for one, other in zip(query, document, strict=True))
        loaded.save_pretrained(tmp_path / "two")
        assert BiEncoderModel.from_pretrained(tmp_path / "two").config.share_encoders is False

    @pytest.mark.parametrize("make", [AutoModel.from_pretrained, BiEncoderModel.from_pretrained])
    def test_neither_of_two_is_dropped(self, tmp_path, make_biencoder, make):
        make_biencoder(share_encoders=False).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds two towers, got share_encoders=True, which would drop"):
            make(tmp_path, share_encoders=True)
        assert make(tmp_path, share_encoders=False).config.share_encoders is False

    def test_two_towers_are_saved(self, tmp_path, make_biencoder):
        model = make_biencoder(share_encoders=False, embedding_dim=8)
        randomize(model)
        model.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        assert weights.keys() == model.state_dict().keys()
        assert {name.partition(".")[0] for name in weights} == {"encoder", "head", "document_encoder", "document_head"}
        loaded, info = BiEncoderModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert loaded.config.share_encoders is False
        with torch.no_grad():
            for each in ("query", "document"):
                out = loaded(IDS, MASK, text_type=each).embeddings
                assert largest(out - model(IDS, MASK, text_type=each).embeddings) < 1e-6

    @torch.no_grad()
    def test_separate_later(self, tiny_biencoder):
        expected = tiny_biencoder(IDS, MASK).embeddings
        tiny_biencoder.separate_encoders()
        assert torch.equal(tiny_biencoder(IDS, MASK, text_type="document").embeddings, expected)
        tiny_biencoder.encoder.embeddings.word_embeddings.weight.zero_()
        assert torch.equal(tiny_biencoder(IDS, MASK, text_type="document").embeddings, expected)
        assert largest(tiny_biencoder(IDS, MASK, text_type="query").embeddings - expected) > 1e-2
        with pytest.raises(ValueError, match="separate already"):
            tiny_biencoder.separate_encoders()

    @pytest.mark.parametrize("share_encoders", [False, True])
    @pytest.mark.parametrize("text_type", ["passage", "", None])
    def test_another_kind_of_text(self, make_biencoder, share_encoders, text_type):
        model = make_biencoder(share_encoders=share_encoders)
        with pytest.raises(ValueError, match=f'`text_type` must be "query" or "document", got {text_type!r}'):
            model(IDS, MASK, text_type=text_type)


class TestBareEncoders:
    @pytest.mark.parametrize("class_name", CHECKPOINTS)
    @torch.no_grad()
    def test_only_the_projection_is_new(self, tmp_path, make_bare_encoder, class_name):
        bare = make_bare_encoder(class_name)
        bare.save_pretrained(tmp_path)
        model, info = BiEncoderModel.from_pretrained(tmp_path, embedding_dim=8, output_loading_info=True)
        assert set(info["missing_keys"]) == HEAD
        assert not info["unexpected_keys"] and not info["mismatched_keys"]
        assert not model.training
        states = bare.base_model(IDS, MASK)[0]
        assert largest(states) > 0.1
        assert largest(model(IDS, MASK).embeddings - apply_head(states[:, 0], model.head)) < 2e-6
        assert 0.1 < model.head.linear.weight.std() < 0.5  # made with the encoder's `initializer_range`, 0.3
        assert model.head.LayerNorm.weight.tolist() == [1.0] * 8 and model.head.linear.bias.tolist() == [0.0] * 8

    @torch.no_grad()
    def test_nothing_is_new_without_a_projection(self, tmp_path, make_bare_encoder):
        bare = make_bare_encoder("BertForMaskedLM")
        bare.save_pretrained(tmp_path / "bert")
        model, info = BiEncoderModel.from_pretrained(tmp_path / "bert", pooling="mean", output_loading_info=True)
        assert not any(info.values())
        expected = pool([bare.bert(IDS, MASK).last_hidden_state], MASK, "mean")
        assert largest(model(IDS, MASK).embeddings - expected) < 1e-6
        model.save_pretrained(tmp_path / "biencoder")
        assert {path.name for path in (tmp_path / "biencoder").iterdir()} == {"config.json", "model.safetensors"}
        assert load_file(tmp_path / "biencoder" / "model.safetensors").keys() == model.state_dict().keys()


class TestSaving:
    def test_identity(self, tmp_path, make_biencoder):
        model = make_biencoder(embedding_dim=8, pooling="last4_mean", normalize=True)
        randomize(model)
        model.save_pretrained(tmp_path)
        loaded, info = BiEncoderModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in model.state_dict().items())
        assert (loaded.config.pooling, loaded.config.normalize) == ("last4_mean", True)
        with torch.no_grad():
            assert largest(loaded(IDS, MASK).embeddings - model(IDS, MASK).embeddings) < 1e-6

    @pytest.mark.parametrize("make", [AutoModel.from_pretrained, BiEncoderModel.from_pretrained])
    @pytest.mark.parametrize("saved, asked", [(8, 16), (8, None), (None, 16)])
    def test_another_embedding_dim(self, tmp_path, make_biencoder, make, saved, asked):
        make_biencoder(embedding_dim=saved).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"holds weights for embedding_dim={saved}, got embedding_dim={asked}"):
            make(tmp_path, embedding_dim=asked)
        assert make(tmp_path, embedding_dim=saved).config.embedding_dim == saved

    def test_other_families(self, tmp_path, make_colbert, tiny_biencoder):
        make_colbert().save_pretrained(tmp_path / "colbert")
        FiDT5Config().save_pretrained(tmp_path / "fid")
        for folder, model_type in (("colbert", "colbert_xlmr"), ("fid", "fid_t5")):
            for given in ({}, {"config": tiny_biencoder.config}):
                with pytest.raises(ValueError, match=f"holds a model of type `{model_type}`, but `BiEncoderConfig`"):
                    BiEncoderModel.from_pretrained(tmp_path / folder, **given)

    def test_no_model(self, tmp_path):
        with pytest.raises(OSError, match="absent"):
            BiEncoderModel.from_pretrained(tmp_path / "absent")
        with pytest.raises(ValueError, match="has no `config.json` with a `model_type`"):
            BiEncoderModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize("share_encoders", [True, False])
    def test_more_tokens(self, tmp_path, make_biencoder, share_encoders):
        model = make_biencoder(share_encoders=share_encoders)
        encoders = [model.tower(each)[0] for each in ("query", "document")]
        before = [encoder.embeddings.word_embeddings.weight.clone() for encoder in encoders]
        returned = model.resize_token_embeddings(len(before[0]) + 5)
        assert returned is model.get_input_embeddings()
        model.save_pretrained(tmp_path)
        loaded = BiEncoderModel.from_pretrained(tmp_path)
        for each, expected in zip(("query", "document"), before, strict=True):
            weight = loaded.tower(each)[0].embeddings.word_embeddings.weight
            assert len(weight) == len(expected) + 5 and torch.equal(weight[:-5], expected)


class TestWordVectors:
    TEXTS = [*TEXTS[:2], "Finlanders telephoned northwards (in 1876).", TEXTS[3]]
    # Whole words, of one piece and of several; parts of a word; several words
    SPANS = [[(0, 4)], [], [(0, 10), (11, 21), (11, 13), (22, 32), (33, 36)], [(0, 8), (26, 33)]]

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("layers", [(-1,), (0,), (0, 1, 2), (-2, -1)])
    @pytest.mark.parametrize("text_type", ["query", "document"])
    @torch.no_grad()
    def test_equal_loops(self, make_biencoder, tiny_tokenizer, reduction, layers, text_type):
        model = make_biencoder(share_encoders=False, embedding_dim=8, query_length=40)
        processor = processed(tiny_tokenizer, model)
        process = processor.process_queries if text_type == "query" else processor.process_documents
        inputs = process(self.TEXTS, return_offsets_mapping=True)
        vectors = model.word_vectors(**inputs, spans=self.SPANS, layers=layers, reduction=reduction)
        assert [each.shape for each in vectors] == [(1, 32), (0, 32), (5, 32), (2, 32)]

        encoder = bare_copy(model.encoder if text_type == "query" else model.document_encoder)
        several_pieces = 0
        for row, (text, spans) in enumerate(zip(self.TEXTS, self.SPANS, strict=True)):
            # the text alone, its pieces and their characters from the tokenizer itself
            alone = tiny_tokenizer(text, return_offsets_mapping=True)
            states = encoder(torch.tensor([alone["input_ids"]]), output_hidden_states=True).hidden_states
            for found, (start, end) in zip(vectors[row], spans, strict=True):
                pieces = [
                    sum(states[layer][0, position].double() for layer in layers) / len(layers)
                    for position, (first, last) in enumerate(alone["offset_mapping"])
                    if any(start <= character < end for character in range(first, last))
                ]
                several_pieces += len(pieces) > 1
                expected = sum(pieces) / (len(pieces) if reduction == "mean" else 1)
                assert largest(found - expected) < 1e-5
        assert several_pieces >= 3

    @torch.no_grad()
    def test_a_title_is_context_and_has_no_words(self, tiny_biencoder, tiny_tokenizer):
        processor = processed(tiny_tokenizer, tiny_biencoder)
        text = TEXTS[1]
        inputs = processor.process_documents([text], titles=["Nile"], return_offsets_mapping=True)
        (found,) = tiny_biencoder.word_vectors(**inputs, spans=[[(0, len(text))]], reduction="sum")
        title = len(tiny_tokenizer("Nile", add_special_tokens=False)["input_ids"])
        pair = tiny_tokenizer("Nile", text, return_tensors="pt")
        states = bare_copy(tiny_biencoder.encoder)(**pair).last_hidden_state[0].double()
        assert largest(found[0] - sum(states[title + 3 : -1])) < 1e-5  # behind <s> title </s></s>, up to </s>

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"reduction": "max"}, '`reduction` must be "mean" or "sum", got \'max\''),
            ({"spans": [[(0, 4)]]}, "`spans` needs a list for each of the 2 texts, got 1"),
            ({"layers": ()}, "`layers` must name some of the 3 hidden states"),
            ({"layers": (3,)}, "`layers` must name some of the 3 hidden states"),
            ({"layers": (-4,)}, "`layers` must name some of the 3 hidden states"),
            (
                {"spans": [[(0, 4)], [(0, 4), (90, 95)]]},
                r"Spans \[\[90, 95\]\] of text 1.* 33",
            ),
            ({"spans": [[], [(0, 4), (30, 34)]]}, r"Spans \[\[30, 34\]\] of text 1.* 33"),
            ({"spans": [[], [(3, 4)]]}, r"Spans \[\[3, 4\]\] of text 1 touch no token"),  # the space behind "The"
            ({"spans": [[(3, 3)], []]}, r"`spans\[0\]` has \(3, 3\), expected a pair"),
            ({"spans": [[], [(6, 5)]]}, r"`spans\[1\]` has \(6, 5\)"),
            ({"spans": [[(-3, 2)], []]}, r"`spans\[0\]` has \(-3, 2\), expected a pair"),
            ({"spans": [[(0,)], []]}, r"`spans\[0\]` has \(0,\), expected a pair"),
            ({"spans": [[(0, 1, 2)], []]}, r"`spans\[0\]` has \(0, 1, 2\)"),
            ({"spans": [[(0, 1.5)], []]}, r"`spans\[0\]` has \(0, 1.5\)"),
            ({"spans": [(0, 3), []]}, r"`spans\[0\]` has 0, expected a pair"),
            ({"spans": [None, []]}, r"`spans\[0\]` must be a list of \(start, end\) pairs, got None"),
            ({"spans": None}, "`spans` needs a list for each of the 2 texts, got NoneType"),
            ({"layers": -1}, r"`layers` must be a tuple of integers such as \(-1,\), got -1"),
            ({"layers": ("last",)}, r"`layers` must be a tuple of integers .*got \('last',\)"),
            (
                {"offset_mapping": torch.zeros(2, 3, 2)},
                r"`offset_mapping` must have shape \(2, .*, 2\), got \(2, 3, 2\)",
            ),
            ({"text_type": "word"}, '`text_type` must be "query" or "document"'),
        ],
    )
    def test_mistakes(self, tiny_biencoder, tiny_tokenizer, changed, message):
        inputs = processed(tiny_tokenizer, tiny_biencoder).process_documents(TEXTS[:2], return_offsets_mapping=True)
        with pytest.raises(ValueError, match=message):
            tiny_biencoder.word_vectors(**{**inputs, "spans": [[], []], **changed})

    def test_words_that_were_cut_off(self, tiny_biencoder, tiny_tokenizer):
        processor = BiEncoderProcessor(tiny_tokenizer, document_length=8)
        inputs = processor.process_documents([TEXTS[3]], return_offsets_mapping=True)
        end = int(inputs["offset_mapping"].max())
        assert end < len(TEXTS[3]) - 6
        for span in ((len(TEXTS[3]) - 6, len(TEXTS[3]) - 1), (end - 1, end + 1)):  # the second is kept in part
            with pytest.raises(ValueError, match=f"up to {end}"):
                tiny_biencoder.word_vectors(**inputs, spans=[[span]])

    @torch.no_grad()
    def test_pieces_without_characters_do_not_count(self, tiny_biencoder):
        """Some tokenizers give such pieces, not only special tokens: a lone word boundary whose space is trimmed."""
        offsets = torch.tensor([[[0, 0], [0, 3], [2, 2], [3, 5], [5, 5], [0, 0]]])
        (found,) = tiny_biencoder.word_vectors(IDS[:1], MASK[:1], offsets, [[(0, 5)]], reduction="sum")
        states = tiny_biencoder.encoder(IDS[:1], MASK[:1]).last_hidden_state[0]
        assert largest(found[0] - (states[1] + states[3])) < 1e-5

    @torch.no_grad()
    def test_one_batch_serves_texts_and_words(self, tiny_biencoder, tiny_tokenizer):
        processor = processed(tiny_tokenizer, tiny_biencoder)
        expected = tiny_biencoder(**processor.process_documents(TEXTS)).embeddings
        inputs = processor.process_documents(TEXTS, return_offsets_mapping=True)
        assert "offset_mapping" in inputs
        assert torch.equal(tiny_biencoder(**inputs).embeddings, expected)

    @torch.no_grad()
    def test_a_word_boundary_counts_with_what_follows(self, tiny_biencoder, xlmr_tokenizer):
        """XLM-R puts a piece of its own in front of Chinese, with the characters of the next piece."""
        processor = BiEncoderProcessor(xlmr_tokenizer, query_length=16, document_length=40)
        inputs = processor.process_documents(["東京"], return_offsets_mapping=True)
        pieces = xlmr_tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        assert pieces[1] == "▁" and inputs["offset_mapping"][0, 1].tolist() == [0, 1]
        tiny_biencoder.resize_token_embeddings(len(xlmr_tokenizer))
        (found,) = tiny_biencoder.word_vectors(**inputs, spans=[[(0, 2)]], reduction="sum")
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        states = tiny_biencoder.encoder(**given).last_hidden_state[0]
        assert largest(found[0] - states[1:-1].sum(dim=0)) < 1e-5


class TestAttention:
    @torch.no_grad()
    def test_implementations_agree(self, make_biencoder):
        model, out = make_biencoder(share_encoders=False, embedding_dim=8, pooling="mean"), {}
        for attention in ("sdpa", "eager"):
            model.set_attn_implementation(attention)
            out[attention] = [model(IDS, MASK, text_type=each).embeddings for each in ("query", "document")]
            returned = model(IDS, MASK, text_type="document", output_attentions=True).attentions
            assert len(returned) == (2 if attention == "eager" else 0)  # only eager attention has weights to show
        for one, other in zip(out["sdpa"], out["eager"], strict=True):
            assert largest(one - other) < 1e-5

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_the_choice_reaches_both_towers(self, tmp_path, make_biencoder, make_bare_encoder, attention):
        make_biencoder(share_encoders=False).save_pretrained(tmp_path / "biencoder")
        make_bare_encoder("BertModel").save_pretrained(tmp_path / "bert")
        chosen = {"attn_implementation": attention}
        for model in (
            BiEncoderModel.from_pretrained(tmp_path / "biencoder", **chosen),
            AutoModel.from_pretrained(tmp_path / "biencoder", **chosen),
            BiEncoderModel.from_pretrained(tmp_path / "bert", share_encoders=False, **chosen),
        ):
            for each in (model, model.encoder, model.document_encoder):
                assert each.config._attn_implementation == attention


class TestTraining:
    def test_activation_checkpointing_changes_no_gradient(self, make_biencoder, make_encoder_config):
        model = make_biencoder(
            encoder_config=make_encoder_config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1),
            share_encoders=False,
            embedding_dim=8,
            pooling="last4_mean",
        ).train()
        layer_calls, gradients, losses = [], [], []
        for encoder in (model.encoder, model.document_encoder):
            encoder.encoder.layer[0].attention.register_forward_hook(lambda *args: layer_calls.append(1))
        target = torch.randn(2, 2, 8)
        for checkpointing in (False, True):
            if checkpointing:
                checkpoint_activations(model)
            model.zero_grad()
            torch.manual_seed(1)
            out = [model(IDS, MASK, text_type=each).embeddings for each in ("query", "document")]
            loss = (torch.stack(out) * target).sum()
            loss.backward()
            losses.append(loss.item())
            gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
            assert len(layer_calls) == (6 if checkpointing else 2)  # with it, both forward passes are run once more
        assert losses[0] == losses[1]
        for name, gradient in gradients[0].items():
            assert largest(gradient - gradients[1][name]) <= 1e-6 * max(1, largest(gradient)), name
        for tower in ("encoder", "document_encoder"):
            assert largest(gradients[0][f"{tower}.embeddings.word_embeddings.weight"]) > 0

    @pytest.mark.parametrize("task_type", [None, TaskType.FEATURE_EXTRACTION])
    def test_lora(self, tmp_path, make_biencoder, task_type):
        base = make_biencoder(share_encoders=False, embedding_dim=8)
        base.save_pretrained(tmp_path / "base")
        lora = LoraConfig(
            r=4, target_modules=["query", "value"], modules_to_save=["head"], lora_dropout=0.0, task_type=task_type
        )
        model = get_peft_model(BiEncoderModel.from_pretrained(tmp_path / "base"), lora)
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        # in each tower: A and B, query and value, two layers; and the four weights of the head
        assert len(trained) == 2 * (2 * 2 * 2 + 4)
        assert all("lora_" in name or "head.modules_to_save" in name for name in trained)

        def embed(of_model):
            return torch.stack(
                [
                    of_model(input_ids=IDS, attention_mask=MASK, text_type=each).embeddings
                    for each in ("query", "document")
                ]
            )

        before = {name: weight.clone() for name, weight in model.named_parameters()}
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
        target, losses = torch.randn(2, 2, 8), []
        for _ in range(3):
            loss = -(embed(model) * target).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[2] < losses[0] - 0.1
        assert {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])} == trained

        model.eval().save_pretrained(tmp_path / "adapter")
        with torch.no_grad():
            expected = embed(model)
            loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
            assert largest(embed(loaded.eval()) - expected) < 1e-6
            merged = loaded.merge_and_unload()
            assert type(merged) is BiEncoderModel
            assert largest(embed(merged) - expected) < 1e-5
            merged.save_pretrained(tmp_path / "merged")
            assert largest(embed(AutoModel.from_pretrained(tmp_path / "merged")) - expected) < 1e-5
            assert (embed(base) - expected).abs().amax((1, 2)).min() > 1e-2  # both towers have learnt


class TestDtypes:
    @pytest.mark.parametrize("pooling", POOLINGS)
    @torch.no_grad()
    def test_bfloat16_forward(self, make_biencoder, pooling):
        model = make_biencoder(pooling=pooling, embedding_dim=8, normalize=True)
        expected = model(IDS, MASK).embeddings
        out = model.to(torch.bfloat16)(IDS, MASK).embeddings
        assert out.dtype == torch.bfloat16
        assert (out.float() * expected).sum(-1).min() > 0.98

    @pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("source", ["own", "bare"])
    def test_loading(self, tmp_path, make_biencoder, make_bare_encoder, keyword, dtype, source):
        fields = {"share_encoders": False, "embedding_dim": 8}
        (make_biencoder(**fields) if source == "own" else make_bare_encoder("BertModel")).save_pretrained(tmp_path)
        model = BiEncoderModel.from_pretrained(tmp_path, **{keyword: dtype}, **(fields if source == "bare" else {}))
        assert {weight.dtype for weight in model.parameters()} == {dtype}
        assert model(IDS, MASK, text_type="document").embeddings.dtype == dtype

    def test_a_configuration_saved_in_bfloat16(self, tmp_path, make_biencoder):
        make_biencoder(embedding_dim=8, share_encoders=False).save_pretrained(tmp_path)
        BiEncoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
        config = BiEncoderConfig.from_pretrained(tmp_path)
        assert config.encoder_config.dtype == torch.bfloat16
        assert {weight.dtype for weight in BiEncoderModel(config).parameters()} == {torch.float32}
