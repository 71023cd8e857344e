"""PyLate's and sentence-transformers' folders, made by hand, against what their modules are defined to do."""

import json
import string

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from hf_xlir.convert import convert_checkpoint
from hf_xlir.convert.sentence_transformers import Module, read_projection
from hf_xlir.models.auto import load_retriever


QUERIES = ["Where does the Nile flow?", "Who", "The Nile flows north. " * 5]
DOCUMENTS = ["The Nile flows north, to the sea!", "Seoul, Korea", "to the sea! " * 9]


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_dense(folder, weights, activation="Identity", **more):
    """A `Dense` module of given weights."""
    out_features, in_features = weights["linear.weight"].shape
    config = {"in_features": in_features, "out_features": out_features, "bias": "linear.bias" in weights, **more}
    write(folder / "config.json", {**config, "activation_function": f"torch.nn.modules.somewhere.{activation}"})
    save_file(weights, folder / "model.safetensors")
    return Module("Dense", folder, json.loads((folder / "config.json").read_text()))


def write_folder(folder, encoder, tokenizer, modules, settings, transformer=None):
    """The transformer, its list of modules (pairs of class and folder), and the settings of the whole."""
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    entries = [("sentence_transformers.models.Transformer", ""), *modules]
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(entries)]
    write(folder / "modules.json", entries[::-1])  # the index decides
    write(folder / "sentence_bert_config.json", {"max_seq_length": 14, "do_lower_case": False, **(transformer or {})})
    write(folder / "config_sentence_transformers.json", settings)
    return folder


def close(found, expected):
    return all(
        one.shape == other.shape and np.abs(one - other).max() < 1e-5
        for one, other in zip(found, expected, strict=True)
    )


@torch.no_grad()
def states_of(encoder, tokenizer, texts, length, **kwargs):
    batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt", **kwargs)
    return encoder(**batch).last_hidden_state.double(), batch["attention_mask"].double()


class TestProjection:
    def test_a_chain_is_one_layer(self, tmp_path):
        torch.manual_seed(0)
        shapes = (7, 6), (5, 7), (5, 5)
        layers = [torch.nn.Linear(ins, outs, bias=bias) for (outs, ins), bias in zip(shapes, (True, False, True))]  # noqa: B905
        modules = []
        for index, layer in enumerate(layers):
            weights = {f"linear.{name}": value for name, value in layer.state_dict().items()}
            modules.append(write_dense(tmp_path / str(index), weights))
        found = read_projection(modules)
        inputs = torch.randn(4, 6)
        expected = layers[2](layers[1](layers[0](inputs)))
        assert (inputs @ found.weight.T + found.bias - expected).abs().max() < 1e-6 and found.activation is None
        assert read_projection(modules[1:2]).bias is None
        only_added = read_projection(modules[1:])
        assert torch.equal(only_added.bias, layers[2].bias)

    def test_residuals_are_part_of_it(self, tmp_path):
        torch.manual_seed(0)
        square, wide = torch.randn(6, 6), torch.randn(4, 6)
        inputs, around = torch.randn(3, 6), torch.randn(4, 6)
        found = read_projection([write_dense(tmp_path / "a", {"linear.weight": square}, use_residual=True)])
        assert torch.allclose(inputs @ found.weight.T, inputs + inputs @ square.T, atol=1e-6)
        weights = {"linear.weight": wide, "residual.weight": around}
        found = read_projection([write_dense(tmp_path / "b", weights, use_residual=True)])
        assert torch.allclose(inputs @ found.weight.T, inputs @ around.T + inputs @ wide.T, atol=1e-6)

    def test_functions(self, tmp_path):
        weights = {"linear.weight": torch.ones(3, 3)}
        for name, expected in (("Tanh", "tanh"), ("ReLU", "relu"), ("GELU", "gelu"), ("Identity", None)):
            assert read_projection([write_dense(tmp_path / name, weights, name)]).activation == expected
        tanh, plain = (write_dense(tmp_path / name, weights, name) for name in ("Tanh", "Identity"))
        assert read_projection([plain, tanh]).activation == "tanh"
        with pytest.raises(ValueError, match="follows 'tanh'"):
            read_projection([tanh, plain])
        with pytest.raises(ValueError, match="activation_function='torch.nn.modules.somewhere.Softmax'"):
            read_projection([write_dense(tmp_path / "c", weights, "Softmax")])
        with pytest.raises(ValueError, match="use_residual=True with 'Tanh'"):
            read_projection([write_dense(tmp_path / "d", weights, "Tanh", use_residual=True)])

    def test_what_a_configuration_leaves_out(self, tmp_path):
        module = write_dense(tmp_path / "a", {"linear.weight": torch.ones(3, 2), "linear.bias": torch.ones(3)})
        found = read_projection([module._replace(config={"in_features": 2, "out_features": 3})])
        assert found.activation == "tanh" and torch.equal(found.bias, torch.ones(3))

    def test_weights_that_do_not_fit(self, tmp_path):
        module = write_dense(tmp_path / "a", {"linear.weight": torch.ones(3, 2)})
        with pytest.raises(ValueError, match=r"must have the weights \['linear.bias', 'linear.weight'\], got"):
            read_projection([module._replace(config={**module.config, "bias": True})])
        with pytest.raises(ValueError, match=r"says 4 to 3 features, but its weight has shape \(3, 2\)"):
            read_projection([module._replace(config={**module.config, "in_features": 4})])


class TestPyLate:
    SETTINGS = {
        **{"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 12},
        **{"document_length": 20, "attend_to_expansion_tokens": False, "do_query_expansion": True},
        **{"skiplist_words": [",", "▁Seoul", "no piece"], "prompts": {"query": "", "document": ""}},
    }
    MODULES = [("pylate.models.Dense.Dense", "1_Dense")]

    @pytest.fixture
    def make(self, make_bare_encoder, tiny_tokenizer, tmp_path):
        """Makes a folder, and gives its encoder, tokenizer and projection."""

        def make(modules=None, transformer=None, **settings):
            tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
            tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
            tokenizer.add_tokens(["[Q] ", "[D] "])
            encoder = make_bare_encoder("XLMRobertaModel")
            encoder.resize_token_embeddings(len(tokenizer))
            torch.manual_seed(3)
            weight = torch.randn(8, 32)
            tokenizer.pad_token = tokenizer.mask_token  # as PyLate saves it
            write_folder(
                *(tmp_path / "pylate", encoder, tokenizer, self.MODULES if modules is None else modules),
                {**self.SETTINGS, **settings},
                transformer,
            )
            write_dense(tmp_path / "pylate" / "1_Dense", {"linear.weight": weight}, use_residual=False)
            return encoder, tokenizer, weight

        return make

    @torch.no_grad()
    def expected(self, encoder, tokenizer, weight, texts, marker, length, expands, skipped, attends=False):
        """Text by text, as PyLate says: a marker behind `<s>`, masks up to the length, some tokens skipped."""
        rows = []
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=length - 1)["input_ids"]
            ids.insert(1, tokenizer.convert_tokens_to_ids(marker))
            filled = ids + [tokenizer.mask_token_id] * (length - len(ids) if expands else 0)
            mask = [[1] * len(ids) + [int(attends)] * (len(filled) - len(ids))]
            states = encoder(torch.tensor([filled]), torch.tensor(mask)).last_hidden_state[0].double()
            states = states @ weight.double().T
            kept = torch.tensor([each not in skipped for each in filled])
            rows.append((states / states.norm(dim=-1, keepdim=True))[kept].numpy())
        return rows

    def test_embeddings(self, make, embed, tmp_path):
        parts = make()
        assert convert_checkpoint(tmp_path / "pylate", tmp_path / "ours").format == "pylate"
        model, processor = load_retriever(tmp_path / "ours")
        assert processor.tokenizer.pad_token_id == 1 and model.config.query_expansion == "mask"
        skipped = set(parts[1].convert_tokens_to_ids(self.SETTINGS["skiplist_words"]))
        assert parts[1].unk_token_id in skipped and len(skipped) == 3
        expected = self.expected(*parts, QUERIES, "[Q] ", 12, True, set())
        assert close(embed(model, processor, QUERIES, "queries"), expected)
        expected = self.expected(*parts, DOCUMENTS, "[D] ", 20, False, skipped)
        assert close(embed(model, processor, DOCUMENTS, "documents"), expected)

    @pytest.mark.parametrize("expands", [True, False])
    @pytest.mark.parametrize("attends", [True, False])
    def test_which_tokens_of_queries_and_documents_count(self, make, embed, tmp_path, expands, attends):
        """
        Masks of the expansion have vectors of their own, and others look at them only where the release says so; the
        skip list is of documents alone: a query keeps its punctuation.
        """
        words = ["?", "flow", "▁the"]
        parts = make(do_query_expansion=expands, attend_to_expansion_tokens=attends, skiplist_words=words)
        convert_checkpoint(tmp_path / "pylate", tmp_path / "ours")
        model, processor = load_retriever(tmp_path / "ours")
        assert processor.attend_to_expansion == (expands and attends)
        skipped = set(parts[1].convert_tokens_to_ids(words))
        in_queries = {token_id for text in QUERIES for token_id in parts[1](text)["input_ids"]}
        assert skipped & in_queries
        expected = self.expected(*parts, QUERIES, "[Q] ", 12, expands, set(), attends)
        assert [len(rows) for rows in expected] != [12] * 3 or expands
        assert close(embed(model, processor, QUERIES, "queries"), expected)
        other = self.expected(*parts, QUERIES, "[Q] ", 12, expands, set(), not attends)
        assert close(other, expected) == (not expands)  # what is attended to makes a difference
        texts = [*DOCUMENTS, QUERIES[0]]
        expected = self.expected(*parts, texts, "[D] ", 20, False, skipped)
        assert close(embed(model, processor, texts, "documents"), expected)

    def test_a_tokenizer_saved_with_the_length_of_queries(self, make, tmp_path):
        make()
        path = tmp_path / "pylate" / "tokenizer_config.json"
        write(path, {**json.loads(path.read_text()), "model_max_length": 11})
        convert_checkpoint(tmp_path / "pylate", tmp_path / "ours")
        _, processor = load_retriever(tmp_path / "ours")
        assert processor.process_documents(["sea " * 30])["input_ids"].shape == (1, 20)

    def test_defaults(self, make, tmp_path):
        make(**dict.fromkeys(self.SETTINGS))
        settings = json.loads((tmp_path / "pylate" / "config_sentence_transformers.json").read_text())
        write(tmp_path / "pylate" / "config_sentence_transformers.json", {})
        processor = convert_checkpoint(tmp_path / "pylate", tmp_path / "ours").processor
        assert settings and (processor.query_length, processor.document_length) == (32, 180)
        assert processor.tokenizer.convert_ids_to_tokens(processor.query_marker_id) == "[Q] "
        assert not processor.attend_to_expansion and processor.query_expansion == "mask"
        assert set(processor.skip_ids) == set(processor.tokenizer.convert_tokens_to_ids(list(string.punctuation)))
        assert len(processor.skip_ids) > 3

    def test_an_empty_skip_list_is_one(self, make, tmp_path):
        make(skiplist_words=[])
        processor = convert_checkpoint(tmp_path / "pylate", tmp_path / "ours").processor
        assert list(processor.skip_ids) == [] and not processor.skip_punctuation

    def test_named_prompts_are_reported(self, make, tmp_path):
        make(prompts={"query": "Who", "all": "The "}, default_prompt_name="all")
        _, _, processor, notes = convert_checkpoint(tmp_path / "pylate", tmp_path / "ours")
        assert (processor.query_prompt, processor.document_prompt) == ("The ", "The ")
        assert len(notes) == 1 and notes[0].startswith("The prompts ['query'] are left out")

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"modules": []}, "no `Dense` module"),
            ({"modules": [("pylate.models.Strange.Strange", "1_Dense")]}, r"got \['Transformer', 'Strange'\]"),
            ({"query_prefix": "[X] "}, r"has the marker '\[X\] '"),
            ({"query_prefix": ""}, r"has the markers \('', '\[D\] '\)"),
            ({"transformer": {"do_lower_case": True}}, "do_lower_case=True"),
            ({"transformer": {"transformer_task": "fill-mask"}}, "transformer_task='fill-mask'"),
        ],
    )
    def test_what_is_refused(self, make, tmp_path, change, message):
        make(**change)
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(tmp_path / "pylate", tmp_path / "ours")
        assert not (tmp_path / "ours").exists()

    def test_a_missing_weight(self, make, tmp_path):
        make()
        (tmp_path / "pylate" / "1_Dense" / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="1_Dense` has no weights"):
            convert_checkpoint(tmp_path / "pylate", tmp_path / "ours")

    def test_a_tokenizer_for_decoders(self, make, tmp_path):
        make()
        path = tmp_path / "pylate" / "tokenizer_config.json"
        write(path, {**json.loads(path.read_text()), "padding_side": "left"})
        with pytest.raises(ValueError, match="has padding_side='left'"):
            convert_checkpoint(tmp_path / "pylate", tmp_path / "ours")


class TestSentenceTransformers:
    @pytest.fixture
    def make(self, make_bare_encoder, tiny_bert_tokenizer, tmp_path):
        """Makes a folder, and gives its encoder and tokenizer."""

        def make(modules, pooling, settings=None, transformer=None, encoder="BertModel"):
            write(tmp_path / "st" / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pooling})
            encoder = make_bare_encoder(encoder)
            modules = [("sentence_transformers.models.Pooling", "1_Pooling"), *modules]
            write_folder(tmp_path / "st", encoder, tiny_bert_tokenizer, modules, settings or {}, transformer)
            return encoder, tiny_bert_tokenizer

        return make

    def test_mean_and_norm(self, make, embed, tmp_path):
        parts = make([("x.Dropout", "a"), ("x.Normalize", "b")], {"pooling_mode_mean_tokens": True})
        assert convert_checkpoint(tmp_path / "st", tmp_path / "ours").format == "sentence-transformers"
        model, processor = load_retriever(tmp_path / "ours")
        for texts, kind in ((QUERIES, "queries"), (DOCUMENTS, "documents")):
            states, mask = states_of(*parts, texts, 14)
            pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            assert close(embed(model, processor, texts, kind), (pooled / pooled.norm(dim=1, keepdim=True)).numpy())

    @pytest.mark.parametrize("with_norm", [True, False])
    def test_first_token_projected(self, make, embed, tmp_path, with_norm):
        torch.manual_seed(1)
        weights = {"linear.weight": torch.randn(6, 32) / 5, "linear.bias": torch.randn(6)}
        write_dense(tmp_path / "st" / "2_Dense", weights, "Tanh")
        norm = {"norm.weight": torch.randn(6), "norm.bias": torch.randn(6)}
        write(tmp_path / "st" / "3_LayerNorm" / "config.json", {"dimension": 6})
        save_file(norm, tmp_path / "st" / "3_LayerNorm" / "model.safetensors")
        modules = [("x.Dense", "2_Dense"), ("x.LayerNorm", "3_LayerNorm")][: 1 + with_norm]
        settings = {"prompts": {"query": "Who ", "passage": "The ", "corpus": "no"}, "similarity_fn_name": "cosine"}
        parts = make(modules, {"pooling_mode": "cls"}, settings)
        notes = convert_checkpoint(tmp_path / "st", tmp_path / "ours").notes
        assert len(notes) == 1 and notes[0].startswith("The model compares by 'cosine'")
        model, processor = load_retriever(tmp_path / "ours")
        for texts, kind, prompt in ((QUERIES, "queries", "Who "), (DOCUMENTS, "documents", "The ")):
            states, _ = states_of(*parts, [prompt + text for text in texts], 14)
            vectors = states[:, 0] @ weights["linear.weight"].double().T + weights["linear.bias"].double()
            vectors = torch.tanh(vectors)
            if with_norm:
                centred = vectors - vectors.mean(1, keepdim=True)
                vectors = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
                vectors = vectors * norm["norm.weight"].double() + norm["norm.bias"].double()
            assert close(embed(model, processor, texts, kind), vectors.numpy())

    def test_lengths(self, make, tmp_path):
        make([], {"pooling_mode": "mean"}, transformer={"query_length": 9}, encoder="XLMRobertaModel")
        processor = convert_checkpoint(tmp_path / "st", tmp_path / "a").processor
        assert (processor.query_length, processor.document_length) == (9, 14)
        make([], {"pooling_mode": "mean"}, transformer={"max_seq_length": 300}, encoder="XLMRobertaModel")
        processor = convert_checkpoint(tmp_path / "st", tmp_path / "b", query_length=11).processor
        assert (processor.query_length, processor.document_length) == (11, 256)  # what the encoder has places for
        make([], {"pooling_mode": "mean"}, transformer={"max_seq_length": None}, encoder="XLMRobertaModel")
        assert convert_checkpoint(tmp_path / "st", tmp_path / "c").processor.document_length == 256

    @pytest.mark.parametrize(
        "modules, pooling, settings, message",
        [
            ([], {"pooling_mode": "max"}, {}, r"pools by \['max'\]"),
            ([], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, {}, r"\['cls', 'mean'\]"),
            (
                [("x.Normalize", "a"), ("x.Dense", "b")],
                {},
                {},
                r"modules \['Transformer', 'Pooling', 'Normalize', 'Dense'\]",
            ),
            ([("x.LayerNorm", "a")], {}, {}, "`LayerNorm` without a `Dense`"),
            ([("x.CNN", "a")], {}, {}, r"has the modules \['Transformer', 'Pooling', 'CNN'\]"),
            ([], {"include_prompt": False}, {"prompts": {"query": "a "}}, "leaves prompts out"),
            ([], {}, {"model_type": "SparseEncoder"}, "has a `SparseEncoder`"),
        ],
    )
    def test_what_is_refused(self, make, tmp_path, modules, pooling, settings, message):
        make(modules, pooling, settings)
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(tmp_path / "st", tmp_path / "ours")

    def test_encoders_that_are_none(self, make, tmp_path):
        make([], {})
        write(tmp_path / "st" / "adapter_config.json", {})
        with pytest.raises(ValueError, match="adapter of peft"):
            convert_checkpoint(tmp_path / "st", tmp_path / "ours")
        (tmp_path / "st" / "adapter_config.json").unlink()
        write(tmp_path / "st" / "config.json", {"model_type": "t5", "is_encoder_decoder": True})
        with pytest.raises(ValueError, match="type 't5', an encoder-decoder"):
            convert_checkpoint(tmp_path / "st", tmp_path / "ours")

    def test_an_incomplete_encoder(self, make, tmp_path):
        encoder, _ = make([], {})
        weights = encoder.state_dict()
        del weights["encoder.layer.1.output.dense.bias"]
        save_file(weights, tmp_path / "st" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks 1 weights of its encoder, such as \['encoder.layer.1.output"):
            convert_checkpoint(tmp_path / "st", tmp_path / "ours")
