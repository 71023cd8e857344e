"""Cross-attention without keys and values, against T5's."""

import copy
import inspect

import pytest
import torch
from fid_tiny import BACKBONES, cache_of, make_backbone, make_inputs, make_reader
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import CompileConfig, T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from hf_xlir.models.fid_attention import PassageAttention
from hf_xlir.models.transformers_private import CACHE, is_plain, pop_cache


RAGGED = [[6, 4, 0], [3, 5, 9]]
SIZES = {"d_kv": 16}  # 8 tokens are decoded without keys


def both(mask_of, dtype, target_length=3, batch_size=2, num_tokens=7):
    """Outputs of `PassageAttention` and of T5's on the same random weights and inputs."""
    torch.manual_seed(0)
    config = T5Config(d_model=24, d_kv=16, num_heads=3, is_decoder=True, attn_implementation="sdpa")
    plain = T5Attention(config, layer_idx=0).to(dtype).eval()
    ours = PassageAttention(config, layer_idx=0).to(dtype).eval()
    for parameter in plain.parameters():
        parameter.data.normal_(std=0.3)
    ours.load_state_dict(plain.state_dict())
    hidden = torch.randn(batch_size, target_length, 24, dtype=dtype)
    states = torch.randn(batch_size, num_tokens, 24, dtype=dtype)
    mask = mask_of(torch.arange(num_tokens).expand(batch_size, 1, target_length, -1))
    ours.k.forward = ours.v.forward = None  # must not be asked
    with torch.no_grad():
        return ours(hidden, mask, states)[0], plain(hidden, mask, states)[0]


class TestEquality:
    @pytest.mark.parametrize(
        "mask_of",
        [
            lambda places: None,
            lambda places: places < 5,
            lambda places: torch.where(places < 5, 0.0, torch.finfo(torch.float32).min).double(),
        ],
    )
    def test_one_attention_in_float64(self, mask_of):
        ours, plain = both(mask_of, torch.float64)
        assert torch.allclose(ours, plain, rtol=0, atol=1e-12)
        assert plain.abs().mean() > 0.1

    def test_bfloat16_logits_are_not_rounded(self):
        """With logits of some hundreds, bfloat16 would leave of them whole multiples of one or two."""
        exact, _ = both(lambda places: None, torch.float64, num_tokens=400)
        ours, plain = both(lambda places: None, torch.bfloat16, num_tokens=400)
        assert (ours - exact).abs().mean() < 2 * (plain - exact).abs().mean()

    @pytest.mark.parametrize("name", BACKBONES)
    @pytest.mark.parametrize("beams", [1, 3])
    def test_answers_and_their_scores(self, name, beams, monkeypatch):
        """Answers of 20 tokens: the last tokens are decoded with keys."""
        reader, inputs = make_reader(make_backbone(name, **SIZES)).double(), make_inputs(RAGGED)
        options = {"max_new_tokens": 20, "min_new_tokens": 20, "num_beams": beams, "return_dict_in_generate": True}
        ours = reader.generate(**inputs, **options, output_logits=True, output_reader_scores=True)
        monkeypatch.setattr(PassageAttention, "forward", T5Attention.forward)
        plain = reader.generate(**inputs, **options, output_logits=True, output_reader_scores=True)
        assert torch.equal(ours.sequences, plain.sequences)
        for own, expected in zip(ours.logits, plain.logits, strict=True):
            assert torch.allclose(own, expected, rtol=0, atol=1e-10)
        assert torch.allclose(ours.reader_scores, plain.reader_scores, rtol=0, atol=1e-10)

    def test_a_training_step_has_gradients_of_keys(self):
        reader, inputs = make_reader(make_backbone(**SIZES)), make_inputs(RAGGED)
        reader(**inputs, labels=torch.tensor([[5, 1], [7, 1]])).loss.backward()
        attention = reader.decoder.block[0].layer[1].EncDecAttention
        assert attention.k.weight.grad.abs().sum() > 0 and attention.v.weight.grad.abs().sum() > 0


class TestWhenKeysAreMade:
    @staticmethod
    def calls(reader, monkeypatch, **options):
        """At which decoding steps the first layer projects the passages."""
        attention, seen, step = reader.decoder.block[0].layer[1].EncDecAttention, [], {"now": 0}
        forward = attention.v.forward
        monkeypatch.setattr(attention.v, "forward", lambda states: seen.append(step["now"]) or forward(states))
        handle = reader.decoder.register_forward_hook(lambda *args: step.update(now=step["now"] + 1))
        reader.generate(**make_inputs(RAGGED), **options)
        handle.remove()
        return seen

    @pytest.mark.parametrize("length, expected", [(8, []), (9, [8]), (14, [8])])
    def test_once_when_the_answer_gets_long(self, length, expected, monkeypatch):
        reader = make_reader(make_backbone(**SIZES))
        assert self.calls(reader, monkeypatch, max_new_tokens=length, min_new_tokens=length) == expected

    def test_at_once_for_static_caches(self, monkeypatch):
        reader = make_reader(make_backbone(**SIZES))
        assert self.calls(reader, monkeypatch, max_new_tokens=4, cache_implementation="static") == [0]

    def test_compiled_steps_write_the_same(self):
        """The eager backend only traces. Graphs must not depend on steps that are decoded without keys."""
        reader, inputs = make_reader(make_backbone(**SIZES)), make_inputs(RAGGED)
        compiling = CompileConfig(backend="eager", mode=None)
        compiling._compile_all_devices = True  # else a CPU's are not
        options = {"max_new_tokens": 12, "min_new_tokens": 12}
        compiled = reader.generate(**inputs, **options, cache_implementation="static", compile_config=compiling)
        assert hasattr(reader, "_compiled_call")
        assert torch.equal(compiled, reader.generate(**inputs, **options))

    def test_at_once_for_eager_attention(self, monkeypatch):
        reader = make_reader(make_backbone(**SIZES))
        reader.set_attn_implementation("eager")
        assert self.calls(reader, monkeypatch, max_new_tokens=4) == [0]

    def test_no_passages_are_kept(self):
        reader = make_reader(make_backbone(**SIZES))
        with torch.no_grad():
            cache = cache_of(reader(**make_inputs(RAGGED), labels=torch.tensor([[5, 1], [7, 1]]), use_cache=True))
        assert cache.cross_attention_cache.get_seq_length() == 0
        assert cache.self_attention_cache.get_seq_length() == 2


class TestCacheNames:
    @torch.no_grad()
    def test_both_names_and_no_warning(self, recwarn):
        reader, inputs = make_reader(make_backbone(**SIZES)), make_inputs(RAGGED)
        start, then = torch.tensor([[0, 5], [0, 7]]).split(1, dim=1)
        found = []
        for name in ("cache", "past_key_values"):
            first = reader(**inputs, decoder_input_ids=start, use_cache=True)
            found.append(reader(**inputs, decoder_input_ids=then, **{name: cache_of(first)}).logits)
        assert torch.equal(*found)
        reader(**inputs, labels=torch.tensor([[5, 1], [7, 1]]), output_reader_scores=True)
        for options in ({}, {"use_cache": False}, {"num_beams": 2}, {"cache_implementation": "static"}):
            reader.generate(**inputs, max_new_tokens=10, **options)
        assert [each for each in recwarn if "deprecated" in str(each.message)] == []

    def test_attention_takes_either_name(self):
        cache = object()
        for name in ("cache", "past_key_values"):
            assert pop_cache({name: cache, "use_cache": True}) == (cache, {"use_cache": True})
        assert pop_cache({"cache": None}) == (None, {})
        assert CACHE in inspect.signature(T5Attention.forward).parameters


class TestPlainLayers:
    def test_adapters_count(self):
        reader, inputs = make_reader(make_backbone(**SIZES)), make_inputs(RAGGED)
        config = LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v"], r=2, init_lora_weights=False)
        tuned = get_peft_model(copy.deepcopy(reader), config).eval()
        options = {"max_new_tokens": 4, "return_dict_in_generate": True, "output_reader_scores": True}
        options["output_logits"] = True
        before = tuned.generate(**inputs, **options)  # keys of adapters
        merged = tuned.merge_and_unload()
        after = merged.generate(**inputs, **options)  # no keys
        assert torch.equal(before.sequences, after.sequences)
        assert torch.allclose(torch.stack(before.logits), torch.stack(after.logits), rtol=0, atol=1e-4)
        assert torch.allclose(before.reader_scores, after.reader_scores, rtol=0, atol=1e-4)
        assert not torch.allclose(reader.generate(**inputs, **options).reader_scores, after.reader_scores, atol=1e-2)

    @torch.no_grad()
    def test_adapters_of_some_layers_and_steps_by_hand(self):
        """Layers with adapters keep keys of packed tokens; others look at states, which the caller did not pack."""
        reader, inputs = make_reader(make_backbone(**SIZES)).double(), make_inputs(RAGGED)
        layers = r"decoder\.block\.[12]\.layer\.1\.EncDecAttention\.[kv]"
        config = LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=layers, r=2, init_lora_weights=False)
        get_peft_model(reader, config).double().eval()
        tokens = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
        expected = reader(**inputs, decoder_input_ids=tokens).logits
        out = reader(**inputs, decoder_input_ids=tokens[:, :1], use_cache=True)
        cache, found = cache_of(out), [out.logits]
        given = {"encoder_outputs": (out.encoder_last_hidden_state,), "attention_mask": inputs["attention_mask"]}
        for step in range(1, 12):
            found.append(reader(**given, decoder_input_ids=tokens[:, step, None], cache=cache).logits)
        assert torch.allclose(torch.cat(found, dim=1), expected, rtol=0, atol=1e-10)

    def test_what_is_plain(self):
        assert is_plain(nn.Linear(2, 3, bias=False))
        assert not is_plain(nn.Linear(2, 3))  # a bias is not part of the weight
        assert not is_plain(nn.Linear(2, 3, bias=False, device="meta"))  # offloaded
        assert not is_plain(type("Linear8bit", (nn.Linear,), {})(2, 3, bias=False))
        hooked = nn.Linear(2, 3, bias=False)
        handle = hooked.register_forward_hook(lambda module, args, output: output + 1)
        assert not is_plain(hooked)
        handle.remove()
        assert is_plain(hooked)
        hooked._hf_hook = object()  # accelerate's
        assert not is_plain(hooked)
