"""The Fusion-in-Decoder reader against plain transformers models, passage by passage."""

import copy
import pickle
import random

import pytest
import torch
from fid_tiny import (
    BACKBONES,
    SIZES,
    cache_of,
    checkpoint_activations,
    make_backbone,
    make_inputs,
    make_reader,
    read_separately,
    write_released,
)
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    MT5ForConditionalGeneration,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5EncoderModel,
)
from transformers.models.t5.modeling_t5 import T5Attention

from hf_xlir.models.configuration_fid_t5 import FiDT5Config
from hf_xlir.models.fid_encoder import TOKENS_PER_CHUNK
from hf_xlir.models.modeling_fid_t5 import FiDT5ForConditionalGeneration, FiDT5Output


torch.set_num_threads(1)

ALL_BACKBONES = pytest.mark.parametrize("name", list(BACKBONES))
RAGGED = [[7, 3, 0], [4, 9, 2]]  # tokens a passage; 0 is an absent one
LABELS = torch.tensor([[5, 6, 7, 1], [8, 9, 1, -100]])


def largest(difference):
    return difference.abs().max().item()


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class TestConfiguration:
    def test_defaults_are_valid_and_saved(self, tmp_path):
        config = FiDT5Config()
        assert (config.backbone_model_type, config.scale_decoder_outputs) == ("t5", True)
        assert config.decoder_start_token_id == config.pad_token_id == 0
        FiDT5Config(backbone_model_type="umt5", decoder_start_token_id=3).save_pretrained(tmp_path)
        loaded = FiDT5Config.from_pretrained(tmp_path)
        assert (loaded.backbone_model_type, loaded.decoder_start_token_id) == ("umt5", 3)

    @pytest.mark.parametrize(
        "fields, scaled",
        [
            ({}, True),
            ({"tie_word_embeddings": False}, False),
            ({"backbone_model_type": "mt5"}, False),
            ({"backbone_model_type": "umt5"}, True),
            ({"backbone_model_type": "mt5", "scale_decoder_outputs": True}, True),
        ],
    )
    def test_scaling_follows_the_backbone_and_survives_saving(self, tmp_path, fields, scaled):
        config = FiDT5Config(**fields)
        config.save_pretrained(tmp_path)
        assert config.scale_decoder_outputs is scaled
        assert FiDT5Config.from_pretrained(tmp_path).scale_decoder_outputs is scaled

    def test_from_backbone_keeps_the_sizes(self):
        config_class = BACKBONES["mt5"][0]
        config = FiDT5Config.from_backbone(config_class(num_layers=5), dropout_rate=0.3)
        assert (config.num_layers, config.num_decoder_layers, config.dropout_rate) == (5, 5, 0.3)
        # fields with other defaults in T5
        assert (config.vocab_size, config.d_ff, config.feed_forward_proj) == (250112, 1024, "gated-gelu")

    def test_mistakes_are_named(self):
        with pytest.raises(ValueError, match="must be one of .*'umt5'.*got 'bert'"):
            FiDT5Config(backbone_model_type="bert")
        with pytest.raises(ValueError, match="no field `num_layer`. Did you mean `num_layers`"):
            FiDT5Config(num_layer=3)
        with pytest.raises(ValueError, match="type 'bert'.*'fid_t5'"):
            FiDT5Config.from_backbone(BertConfig())
        assert FiDT5Config(bos_token_id=5, n_positions=512, num_hidden_layers=3).num_layers == 3


class TestEqualsTheBackbone:
    @ALL_BACKBONES
    def test_one_passage_is_plain(self, name, tmp_path):
        plain = make_backbone(name)
        plain.save_pretrained(tmp_path)
        reader, info = FiDT5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert reader.config._attn_implementation == "sdpa"

        inputs = make_inputs([[9], [4]])
        flat = {key: value[:, 0] for key, value in inputs.items()}
        expected = plain(**flat, labels=LABELS)
        for given in (inputs, flat):
            out = reader(**given, labels=LABELS)
            assert isinstance(out, FiDT5Output)
            assert largest(out.logits - expected.logits) <= 1e-6
            assert abs(out.loss - expected.loss) <= 1e-6

        beams = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 8, "return_dict_in_generate": True}
        expected = plain.generate(**flat, **beams, output_scores=True)
        out = reader.generate(**inputs, **beams, output_scores=True)
        assert out.sequences.tolist() == expected.sequences.tolist()
        assert largest(out.sequences_scores - expected.sequences_scores) <= 1e-6
        assert len(set(out.sequences.flatten().tolist())) > 5  # the tiny model does write something

    @ALL_BACKBONES
    @pytest.mark.parametrize("lengths", [[[5], [8]], RAGGED, [[0, 6, 1], [3, 0, 0]]])
    def test_equals_passages_encoded_apart_and_concatenated(self, name, lengths):
        plain = make_backbone(name)
        reader, inputs = make_reader(plain), make_inputs(lengths)
        out = reader(**inputs, labels=LABELS)
        sequences = reader.generate(**inputs, max_new_tokens=6)
        for question in range(2):
            states = read_separately(plain, inputs, question)
            expected = plain(encoder_outputs=states, labels=LABELS[question][None])
            assert largest(out.logits[question] - expected.logits[0]) <= 1e-5
            mask = inputs["attention_mask"][question].flatten().bool()
            assert largest(out.encoder_last_hidden_state[question, mask] - states[0][0]) <= 1e-5
            written = plain.generate(encoder_outputs=states, max_new_tokens=6)[0].tolist()
            assert sequences[question].tolist()[: len(written)] == written

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
    @pytest.mark.parametrize("name", ["t5", "mt5", "umt5"])
    def test_every_shape_with_any_number_of_passages(self, name, feed_forward, tied):
        plain = make_backbone(name, feed_forward_proj=feed_forward, tie_word_embeddings=tied)
        reader, generator = make_reader(plain), random.Random(f"{name} {feed_forward} {tied}")
        for num_passages in (1, 2, 5, 11):
            lengths = [generator.randrange(13) for _ in range(num_passages - 1)] + [generator.randrange(1, 13)]
            inputs = make_inputs([lengths])
            expected = plain(encoder_outputs=read_separately(plain, inputs, 0), labels=LABELS[:1]).logits
            assert largest(reader(**inputs, labels=LABELS[:1]).logits - expected) <= 1e-5, lengths

    @pytest.mark.parametrize("name", ["t5", "umt5"])
    def test_gradients_equal_those_of_the_backbone(self, name):
        plain = make_backbone(name).double()
        reader, inputs = make_reader(plain), make_inputs(RAGGED)
        reader(**inputs, labels=LABELS).loss.backward()
        loss = 0
        for question, labels in enumerate(LABELS):
            counted = (labels != -100).sum() / (LABELS != -100).sum()
            loss += counted * plain(encoder_outputs=read_separately(plain, inputs, question), labels=labels[None]).loss
        loss.backward()
        expected = gradients(plain)
        for key, gradient in gradients(reader).items():
            # T5's layer norm works in float32 for every dtype
            assert largest(gradient - expected[key]) <= 1e-7 * max(1, largest(expected[key])), key

    def test_attention_implementations_agree(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        expected = reader(**inputs, labels=LABELS).logits
        reader.set_attn_implementation("eager")
        out = reader(**inputs, labels=LABELS, output_attentions=True, output_hidden_states=True)
        assert largest(out.logits - expected) <= 1e-5
        assert out.cross_attentions[0].shape == (2, 4, 4, 27)
        assert largest(out.cross_attentions[0][0, :, :, 18:]) == 0  # the absent passage of question 0
        assert out.encoder_attentions[0].shape == (5, 4, 9, 9)
        assert [states.shape for states in out.encoder_hidden_states] == [(2, 27, 24)] * 4
        assert torch.equal(out.encoder_hidden_states[-1], out.encoder_last_hidden_state)

    def test_embeddings_and_encoder_outputs_instead_of_ids(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        mask, expected = inputs["attention_mask"], reader(**inputs, labels=LABELS).logits
        embedded = reader.shared(inputs["input_ids"])
        states = reader.encoder(**inputs)
        for given in (
            {"inputs_embeds": embedded, "attention_mask": mask},
            {"encoder_outputs": states, "attention_mask": mask},
            {"encoder_outputs": states, "attention_mask": mask.flatten(1)},
            {"input_ids": inputs["input_ids"]},  # what is padding is masked by default
            {"input_ids": inputs["input_ids"], "attention_mask": mask.flatten(1)},
            {"input_ids": inputs["input_ids"], "attention_mask": mask.bool()},
        ):
            assert largest(reader(**given, labels=LABELS).logits - expected) <= 1e-6
        written = reader.generate(**inputs, max_new_tokens=5).tolist()
        assert reader.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=5).tolist() == written
        assert reader.generate(encoder_outputs=states, attention_mask=mask, max_new_tokens=5).tolist() == written
        assert reader.generate(inputs["input_ids"], max_new_tokens=5).tolist() == written


class TestPassages:
    def test_absent_passages_are_not_encoded(self):
        reader, rows = make_reader(make_backbone()), []
        reader.encoder.block[0].register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
        reader(**make_inputs(RAGGED), labels=LABELS)
        reader.generate(**make_inputs([[7, 0, 0], [4, 0, 2]]), max_new_tokens=2, num_beams=3)
        assert rows == [5, 3]

    def test_absent_passages_and_padding_change_nothing(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        expected = reader(**inputs, labels=LABELS, output_reader_scores=True)
        wide = make_inputs([[*of_question, 0, 0] for of_question in RAGGED], length=14)
        wide["input_ids"][wide["attention_mask"] == 0] = 41  # any token
        out = reader(**wide, labels=LABELS, output_reader_scores=True)
        assert largest(out.logits - expected.logits) <= 1e-5
        present = inputs["attention_mask"].any(-1)
        assert largest((out.reader_scores[:, :3] - expected.reader_scores)[present]) <= 1e-5
        assert out.reader_scores[:, 3:].eq(float("-inf")).all()

    def test_a_question_does_not_depend_on_its_batch(self):
        reader, inputs = make_reader(make_backbone("umt5")), make_inputs(RAGGED)
        expected = reader(**inputs, labels=LABELS, output_reader_scores=True)
        alone = {"input_ids": inputs["input_ids"][:1, :2, :7], "attention_mask": inputs["attention_mask"][:1, :2, :7]}
        out = reader(**alone, labels=LABELS[:1], output_reader_scores=True)
        assert largest(out.logits[0] - expected.logits[0]) <= 1e-5
        assert largest(out.reader_scores[0] - expected.reader_scores[0, :2]) <= 1e-5

    def test_passages_count_in_any_order_and_are_all_attended_to(self):
        reader, inputs = make_reader(make_backbone()), make_inputs([[5, 5, 5]])
        expected = reader(**inputs, labels=LABELS[:1], output_reader_scores=True)
        turned = {key: value[:, [2, 0, 1]] for key, value in inputs.items()}
        out = reader(**turned, labels=LABELS[:1], output_reader_scores=True)
        assert largest(out.logits - expected.logits) <= 1e-5
        assert largest(out.reader_scores - expected.reader_scores[:, [2, 0, 1]]) <= 1e-5
        for passage in range(3):
            changed = {key: value.clone() for key, value in inputs.items()}
            changed["input_ids"][0, passage, 2] = (changed["input_ids"][0, passage, 2] + 1) % 60 + 3
            assert largest(reader(**changed, labels=LABELS[:1]).logits - expected.logits) > 1e-3

    def test_bad_inputs_are_named(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].clone()
        mask[1] = 0
        for call in (reader.generate, lambda **given: reader(**given, labels=LABELS), reader.reader_scores):
            with pytest.raises(ValueError, match=r"Questions \[1\] of the batch have no passage"):
                call(input_ids=ids, attention_mask=mask)
        for wrong, shape in ((mask[:, :2], "2, 2, 9"), (mask.transpose(1, 2), "2, 9, 3"), (mask[:, 0], "2, 9")):
            for call in (reader.generate, lambda **given: reader(**given, labels=LABELS)):
                with pytest.raises(
                    ValueError, match=rf"must have the shape \(2, 3, 9\) of the inputs, got \({shape}\)"
                ):
                    call(input_ids=ids, attention_mask=wrong)
        with pytest.raises(ValueError, match=r"must have the shape .*got \(9,\)"):
            reader(input_ids=ids[0, 0], labels=LABELS)
        with pytest.raises(ValueError, match="Give `input_ids` or `inputs_embeds`, got neither"):
            reader(labels=LABELS)
        with pytest.raises(ValueError, match="not used by the model.*'lenght'"):
            reader.generate(**inputs, lenght=3)
        with pytest.raises(ValueError, match="needs a `FiDT5Config`, got a `T5Config`.*from_backbone"):
            FiDT5ForConditionalGeneration(make_backbone().config)


class TestReaderScores:
    @staticmethod
    def by_definition(reader, inputs):
        """Loops over the definition: the average of `q . k` over heads, layers and real tokens, in float64."""
        seen = []
        handles = [
            block.layer[1].EncDecAttention.register_forward_pre_hook(
                lambda module, args, kwargs: seen.append((module, args[0][:, 0], kwargs["key_value_states"])),
                with_kwargs=True,
            )
            for block in reader.decoder.block
        ]
        start = torch.zeros(len(inputs["input_ids"]), 1, dtype=torch.long)
        mask = inputs["attention_mask"]
        states = reader.encoder(**inputs)  # given, they stay as they are: nothing is packed
        reader(encoder_outputs=states, attention_mask=mask, decoder_input_ids=start, use_cache=False)
        for handle in handles:
            handle.remove()
        scores = torch.zeros(mask.shape[:2], dtype=torch.float64)
        for i, j in mask.any(-1).nonzero().tolist():
            terms = []
            for module, query_states, key_states in seen:
                query = module.q(query_states[i]).double()
                real = key_states.view(*mask.shape, -1)[i, j][mask[i, j].bool()]
                keys = real.double() @ module.k.weight.double().T
                for head in range(module.n_heads):
                    part = slice(head * module.key_value_proj_dim, (head + 1) * module.key_value_proj_dim)
                    terms += [sum(a * b for a, b in zip(query[part], key[part], strict=True)) for key in keys]
            scores[i, j] = sum(terms) / len(terms)
        return scores.masked_fill(~mask.any(-1), float("-inf"))

    @ALL_BACKBONES
    @torch.no_grad()
    def test_equal_the_definition(self, name):
        reader, inputs = make_reader(make_backbone(name).double()), make_inputs(RAGGED)
        scores = reader(**inputs, labels=LABELS, output_reader_scores=True).reader_scores
        assert scores.dtype == torch.float64
        assert torch.allclose(scores, self.by_definition(reader, inputs), rtol=0, atol=1e-12)
        assert scores[0].softmax(-1)[2] == 0  # the absent passage
        assert (scores[1] - scores[1].mean()).abs().max() > 1e-2  # passages do differ

    @torch.no_grad()
    def test_equal_eager_attention_without_its_softmax(self):
        """The softmax keeps differences of logits, so it keeps differences of scores."""
        reader, inputs = make_reader(make_backbone()), make_inputs([[7, 3, 5], [4, 9, 2]])
        scores = reader(**inputs, labels=LABELS, output_reader_scores=True).reader_scores
        reader.set_attn_implementation("eager")
        weights = reader(**inputs, labels=LABELS, output_attentions=True).cross_attentions
        logits = torch.stack(weights)[:, :, :, 0].log().view(3, 2, 4, 3, 9)  # (layer, batch, head, passage, token)
        for i, of_question in enumerate([[7, 3, 5], [4, 9, 2]]):
            means = torch.stack([logits[:, i, :, j, :count].mean() for j, count in enumerate(of_question)])
            assert largest((means - means[0]) - (scores[i] - scores[i, 0])) <= 1e-4

    @pytest.mark.parametrize("name", ["t5", "umt5"])
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"num_beams": 3},
            {"use_cache": False},
            {"cache_implementation": "static"},
            {"cache_implementation": "static", "num_beams": 3, "num_return_sequences": 2},
            {"do_sample": True, "num_return_sequences": 3},
            {"decoder_input_ids": torch.tensor([[0, 5], [0, 6]])},
        ],
    )
    def test_come_with_generated_answers(self, name, settings):
        reader, inputs = make_reader(make_backbone(name)), make_inputs(RAGGED)
        expected = reader.reader_scores(**inputs)
        torch.manual_seed(0)
        plainly = reader.generate(**inputs, max_new_tokens=5, **settings)
        torch.manual_seed(0)
        out = reader.generate(
            **inputs, max_new_tokens=5, return_dict_in_generate=True, output_reader_scores=True, **settings
        )
        assert torch.equal(out.sequences, plainly)
        assert out.reader_scores.shape == (2, 3)
        assert torch.allclose(out.reader_scores, expected, rtol=0, atol=1e-5)
        assert torch.equal(pickle.loads(pickle.dumps(out)).reader_scores, out.reader_scores)
        assert reader.config._attn_implementation == "sdpa"

    def test_come_from_encoder_outputs_too(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        states, mask = reader.encoder(**inputs), inputs["attention_mask"]
        expected = reader.reader_scores(**inputs)
        assert torch.allclose(reader.reader_scores(encoder_outputs=states, attention_mask=mask), expected)
        one = reader(encoder_outputs=(states[0][1:],), labels=LABELS[1:], output_reader_scores=True)
        assert one.reader_scores.shape == (1, 1)  # without a mask nothing tells passages apart

    @torch.no_grad()
    @pytest.mark.parametrize("autocast", [False, True])
    def test_low_precision_is_summed_in_float32(self, autocast):
        # One layer: what it is asked does not depend on how an earlier layer's output was rounded
        reader, inputs = make_reader(make_backbone(num_decoder_layers=1)), make_inputs([[60, 50], [40, 57]])
        if not autocast:
            reader.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            scores = reader(**inputs, labels=LABELS, output_reader_scores=True).reader_scores
            expected = self.by_definition(reader, inputs)  # from queries and weights in bfloat16
        assert scores.dtype == torch.float32
        assert torch.allclose(scores.double(), expected, rtol=0, atol=1e-6)

    def test_carry_no_gradient_and_change_none(self):
        inputs, found = make_inputs(RAGGED), []
        for wanted in (False, True):
            reader = make_reader(make_backbone())
            out = reader(**inputs, labels=LABELS, output_reader_scores=wanted)
            out.loss.backward()
            found.append((out, gradients(reader)))
        assert found[0][0].reader_scores is None and not found[1][0].reader_scores.requires_grad
        assert all(torch.equal(gradient, found[1][1][key]) for key, gradient in found[0][1].items())

    def test_hooks_are_gone_after_the_first_step_and_after_errors(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)

        def count():
            attentions = [module for module in reader.decoder.modules() if isinstance(module, T5Attention)]
            return sum(len(each.q._forward_hooks) + len(each.k._forward_hooks) for each in attentions)

        counts = []

        def watch(input_ids, scores):
            counts.append(count())
            return scores

        asked = {"return_dict_in_generate": True, "output_reader_scores": True, "max_new_tokens": 4}
        reader.generate(**inputs, **asked, logits_processor=[watch])
        assert counts == [0] * len(counts) and counts
        with pytest.raises(ValueError, match="not used by the model"):
            reader.generate(**inputs, **asked, lenght=3)
        with pytest.raises(IndexError):
            reader(**inputs, decoder_input_ids=torch.tensor([[999], [0]]), output_reader_scores=True)
        assert count() == 0

    def test_impossible_requests_are_named(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        with pytest.raises(ValueError, match="needs `return_dict_in_generate=True`"):
            reader.generate(**inputs, output_reader_scores=True)
        start = torch.zeros(2, 1, dtype=torch.long)
        cache = cache_of(reader(**inputs, decoder_input_ids=start, use_cache=True))
        with pytest.raises(ValueError, match="first decoded token"):
            reader(**inputs, decoder_input_ids=start, cache=cache, output_reader_scores=True)


class TestGeneration:
    @ALL_BACKBONES
    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_caches_agree(self, name, num_beams):
        reader, inputs = make_reader(make_backbone(name)), make_inputs(RAGGED)
        settings = {"max_new_tokens": 7, "num_beams": num_beams}
        expected = reader.generate(**inputs, **settings, use_cache=False).tolist()
        assert reader.generate(**inputs, **settings).tolist() == expected
        assert reader.generate(**inputs, **settings, cache_implementation="static").tolist() == expected

    @pytest.mark.parametrize("lengths", [[[7, 3, 0]], [[4, 9, 2]]])
    @pytest.mark.parametrize("d_kv", [5, 64])  # answers get too long to be written without keys, or do not
    def test_assisted_by_a_smaller_reader(self, lengths, d_kv):
        reader, inputs = make_reader(make_backbone(d_kv=d_kv)).double(), make_inputs(lengths)
        # As many layers of both kinds: transformers 5.20 cannot take back tokens where decoder layers are fewer
        assistant = make_reader(make_backbone(d_kv=d_kv, num_layers=1, num_decoder_layers=1)).double()
        settings = {"max_new_tokens": 12, "min_new_tokens": 12}
        expected = reader.generate(**inputs, **settings)
        assert torch.equal(reader.generate(**inputs, **settings, assistant_model=assistant), expected)
        assert torch.equal(reader.generate(**inputs, **settings, assistant_model=copy.deepcopy(reader)), expected)
        assert torch.equal(reader.generate(**inputs, **settings, prompt_lookup_num_tokens=2), expected)

    def test_bfloat16(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        expected = reader(**inputs, labels=LABELS).logits
        reader.bfloat16()
        out = reader(**inputs, labels=LABELS)
        assert out.logits.dtype == torch.bfloat16
        assert largest(out.logits - expected) <= 0.1 * largest(expected)
        assert reader.generate(**inputs, max_new_tokens=4, cache_implementation="static").shape[0] == 2


class TestFolders:
    def test_own_folder(self, tmp_path):
        reader, inputs = make_reader(make_backbone("umt5")), make_inputs(RAGGED)
        reader.save_pretrained(tmp_path)
        loaded, info = FiDT5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.equal(loaded(**inputs, labels=LABELS).logits, reader(**inputs, labels=LABELS).logits)
        assert loaded.encoder.embed_tokens.weight is loaded.shared.weight is loaded.lm_head.weight
        assert loaded.config.architectures == ["FiDT5ForConditionalGeneration"]
        half = FiDT5ForConditionalGeneration.from_pretrained(tmp_path, dtype="bfloat16", attn_implementation="eager")
        assert (half.dtype, half.encoder.config._attn_implementation) == (torch.bfloat16, "eager")

    @pytest.mark.parametrize("as_safetensors", [False, True])
    def test_released_reader(self, tmp_path, as_safetensors):
        plain, inputs = make_backbone(), make_inputs(RAGGED)
        source, target, reference = tmp_path / "source", tmp_path / "target", tmp_path / "plain"
        source.mkdir()
        write_released(plain, source, as_safetensors)
        reader, info = FiDT5ForConditionalGeneration.from_pretrained(source, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]  # the extra key is nothing to worry about
        expected = make_reader(plain)(**inputs, labels=LABELS).logits
        assert torch.equal(reader(**inputs, labels=LABELS).logits, expected)

        reader.save_pretrained(target)
        plain.save_pretrained(reference)
        names = load_file(target / "model.safetensors").keys()
        assert names == load_file(reference / "model.safetensors").keys()
        again = FiDT5ForConditionalGeneration.from_pretrained(target)
        assert torch.equal(again(**inputs, labels=LABELS).logits, expected)

    def test_untied_vocabulary_projection(self, tmp_path):
        """The released mT5 and T5 1.1 weights have a projection of their own."""
        make_backbone("mt5").save_pretrained(tmp_path / "first")
        weights = {key: weight.clone() for key, weight in load_file(tmp_path / "first" / "model.safetensors").items()}
        weights["lm_head.weight"] = torch.randn(SIZES["vocab_size"], SIZES["d_model"])
        save_file(weights, tmp_path / "first" / "model.safetensors", metadata={"format": "pt"})
        inputs = make_inputs([[6], [4]])
        plain = MT5ForConditionalGeneration.from_pretrained(tmp_path / "first")
        expected = plain(**{key: value[:, 0] for key, value in inputs.items()}, labels=LABELS).logits
        reader = FiDT5ForConditionalGeneration.from_pretrained(tmp_path / "first")
        assert torch.equal(reader(**inputs, labels=LABELS).logits, expected)
        reader.save_pretrained(tmp_path / "second")
        again = FiDT5ForConditionalGeneration.from_pretrained(tmp_path / "second")
        assert torch.equal(again(**inputs, labels=LABELS).logits, expected)

    def test_a_plain_configuration_may_be_given(self, tmp_path):
        plain = make_backbone()
        plain.save_pretrained(tmp_path)
        reader = FiDT5ForConditionalGeneration.from_pretrained(tmp_path, config=plain.config)
        assert reader.config.model_type == "fid_t5"

    def test_another_family_is_refused_before_its_weights_are_read(self, tmp_path):
        BertConfig().save_pretrained(tmp_path)  # no weights there
        with pytest.raises(ValueError, match="is of type 'bert', but a Fusion-in-Decoder reader"):
            FiDT5ForConditionalGeneration.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ValueError, match="is of type None"):
            FiDT5ForConditionalGeneration.from_pretrained(tmp_path)

    def test_missing_weights_are_refused(self, tmp_path):
        T5EncoderModel(make_backbone().config).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="lacks 41 weights.*decoder.block.0"):
            FiDT5ForConditionalGeneration.from_pretrained(tmp_path)


class TestTraining:
    @pytest.mark.parametrize("name", ["t5", "umt5"])
    @pytest.mark.parametrize("tokens_per_chunk", [9, 1024])
    def test_activation_checkpointing_changes_no_gradient(self, name, tokens_per_chunk, monkeypatch):
        monkeypatch.setitem(TOKENS_PER_CHUNK, "cpu", tokens_per_chunk)
        inputs, found = make_inputs(RAGGED), []
        for checkpointing in (False, True):
            reader = make_reader(make_backbone(name)).double().train()
            assert reader.config.dropout_rate == 0.1
            if checkpointing:
                checkpoint_activations(reader)
            torch.manual_seed(0)
            out = reader(**inputs, labels=LABELS, output_reader_scores=True)
            out.loss.backward()
            found.append(gradients(reader) | {"loss": out.loss, "scores": out.reader_scores.nan_to_num()})
        for key, expected in found[0].items():
            assert largest(found[1][key] - expected) <= 1e-12, key
            assert key == "scores" or largest(expected) > 0

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_lora(self, tmp_path, checkpointing):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        before = reader(**inputs, labels=LABELS).logits
        config = LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"], r=2, init_lora_weights=False)
        tuned = get_peft_model(copy.deepcopy(reader), config).train()
        if checkpointing:
            checkpoint_activations(tuned.base_model.model)
        tuned(**inputs, labels=LABELS).loss.backward()
        trained = {key: parameter for key, parameter in tuned.named_parameters() if parameter.requires_grad}
        # 3 encoder layers with one attention, 3 decoder layers with two; q and v; A and B
        assert len(trained) == 9 * 2 * 2
        assert all(largest(parameter.grad) > 0 for parameter in trained.values())
        assert all("lora" in key for key in trained)

        tuned.eval()
        after = tuned(**inputs, labels=LABELS, output_reader_scores=True)
        written = tuned.generate(**inputs, max_new_tokens=5, num_beams=2)
        assert largest(after.logits - before) > 1e-2
        tuned.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(copy.deepcopy(reader), tmp_path).eval()
        assert torch.equal(loaded(**inputs, labels=LABELS).logits, after.logits)
        merged = loaded.merge_and_unload()
        out = merged(**inputs, labels=LABELS, output_reader_scores=True)
        assert largest(out.logits - after.logits) <= 1e-4
        assert torch.allclose(out.reader_scores, after.reader_scores, rtol=0, atol=1e-4)
        assert torch.equal(merged.generate(**inputs, max_new_tokens=5, num_beams=2), written)
        merged.save_pretrained(tmp_path / "merged")
        names = load_file(tmp_path / "merged" / "model.safetensors").keys()
        assert not any("lora" in name or "base_layer" in name for name in names)

    def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(self, tmp_path):
        """Without `accepts_loss_kwargs = False` the Trainer logs and applies twice the loss."""
        inputs = make_inputs([[5, 3], [4, 6], [6, 1], [2, 6]])
        labels = torch.tensor([[5, 6, 1], [8, 9, 1], [7, 7, 1], [9, 4, 1]])
        rows = [{**{key: value[i] for key, value in inputs.items()}, "labels": labels[i]} for i in range(4)]
        logged = []
        for steps in (1, 2):
            arguments = Seq2SeqTrainingArguments(
                tmp_path / str(steps),
                per_device_train_batch_size=4 // steps,
                gradient_accumulation_steps=steps,
                max_steps=2,
                learning_rate=1e-3,
                max_grad_norm=1e9,
                logging_steps=1,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            )
            reader = make_reader(make_backbone(dropout_rate=0.0))
            trainer = Seq2SeqTrainer(reader, arguments, train_dataset=rows)
            trainer.train()
            steps_taken = [entry for entry in trainer.state.log_history if "loss" in entry]
            logged.append([[float(entry[key]) for key in ("loss", "grad_norm")] for entry in steps_taken])
        assert torch.allclose(torch.tensor(logged[0]), torch.tensor(logged[1]), rtol=1e-3)
        assert logged[0][1][0] < logged[0][0][0]  # it learns
