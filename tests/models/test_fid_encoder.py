"""The encoder of passages: chunks of similar length and packed passages give the same results with less computed."""

import pytest
import torch
from fid_tiny import (
    BACKBONES,
    cache_of,
    checkpoint_activations,
    make_backbone,
    make_inputs,
    make_reader,
    read_separately,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.fsdp import FSDPModule

from hf_xlir.models import fid_encoder
from hf_xlir.models.fid_encoder import chunks_by_length, pack_tokens, unpack_tokens


torch.set_num_threads(1)

RAGGED = [[7, 3, 0, 8], [4, 9, 2, 0]]
LABELS = torch.tensor([[5, 6, 7, 1], [8, 9, 1, -100]])
CHUNKS = pytest.mark.parametrize("tokens", [1, 16])
# Which tokens are real: masks of a batch, with gaps and absent passages, but of no question all of them
MASKS = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(
            st.lists(st.sampled_from([0, 1]), min_size=shape[2], max_size=shape[2]),
            min_size=shape[1],
            max_size=shape[1],
        ).filter(lambda passages: any(map(any, passages))),
        min_size=shape[0],
        max_size=shape[0],
    )
)


@pytest.fixture
def small_chunks(monkeypatch):
    return lambda tokens: monkeypatch.setitem(fid_encoder.TOKENS_PER_CHUNK, "cpu", tokens)


def largest(difference):
    return difference.abs().max().item()


def shapes_of(module):
    """A list that grows by the shape of each input of a module."""
    shapes = []
    module.register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape[:2])))
    return shapes


class TestChunks:
    @CHUNKS
    @pytest.mark.parametrize("name", list(BACKBONES))
    def test_logits_scores_and_gradients_are_those_of_passages_apart(self, name, tokens, small_chunks):
        plain = make_backbone(name)
        reader, inputs = make_reader(plain), make_inputs(RAGGED)
        whole = make_reader(plain)
        expected = whole(**inputs, labels=LABELS, output_reader_scores=True, output_hidden_states=True)
        expected.loss.backward()
        small_chunks(tokens)
        out = reader(**inputs, labels=LABELS, output_reader_scores=True, output_hidden_states=True)
        out.loss.backward()
        mask = inputs["attention_mask"].flatten(1).bool()
        for question in range(2):
            states = read_separately(plain, inputs, question)
            logits = plain(encoder_outputs=states, labels=LABELS[question][None]).logits
            assert largest(out.logits[question] - logits[0]) <= 1e-5
            assert largest(out.encoder_last_hidden_state[question, mask[question]] - states[0][0]) <= 1e-5
        present = expected.reader_scores.isfinite()
        assert torch.equal(out.reader_scores.isfinite(), present)
        assert largest((out.reader_scores - expected.reader_scores)[present]) <= 1e-5
        for states, others in zip(out.encoder_hidden_states, expected.encoder_hidden_states, strict=True):
            assert states.shape == (2, 36, 24) and largest((states - others)[mask]) <= 1e-5
        for (key, parameter), other in zip(reader.named_parameters(), whole.parameters(), strict=True):
            assert largest(parameter.grad - other.grad) <= 1e-4 * max(1, largest(other.grad)), key

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_hardly_any_padding_is_encoded(self, checkpointing, small_chunks):
        small_chunks(16)
        reader = make_reader(make_backbone()).train()
        if checkpointing:
            checkpoint_activations(reader)
        shapes = shapes_of(reader.encoder.block[0])
        reader(**make_inputs(RAGGED, length=12), labels=LABELS)
        assert shapes == [(1, 9), (2, 8), (3, 4)]

    def test_one_chunk_where_chunks_would_change_what_is_returned_or_block(self, small_chunks, monkeypatch):
        small_chunks(16)
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        reader.set_attn_implementation("eager")
        shapes = shapes_of(reader.encoder.block[0])
        out = reader(**inputs, labels=LABELS, output_attentions=True)
        assert out.encoder_attentions[0].shape == (6, 4, 9, 9)
        monkeypatch.setattr(fid_encoder, "_is_sharded", lambda encoder: True)
        reader(**inputs, labels=LABELS)
        assert shapes == [(6, 9), (6, 9)]

    def test_gaps_and_left_padding(self, small_chunks):
        plain = make_backbone()
        inputs = make_inputs([[9], [6]])
        inputs["attention_mask"][0, 0, [0, 1, 4]] = 0
        inputs["attention_mask"][1, 0] = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 0])
        expected = plain(**{key: value[:, 0] for key, value in inputs.items()}, labels=LABELS).logits
        small_chunks(1)
        reader = make_reader(plain)
        shapes = shapes_of(reader.encoder.block[0])
        assert largest(reader(**inputs, labels=LABELS).logits - expected) <= 1e-5
        assert shapes == [(1, 9), (1, 7)]  # cut behind the last real token

    def test_sharded_weights_are_noticed(self, monkeypatch):
        encoder = make_reader(make_backbone()).encoder
        world = {"size": 1}
        monkeypatch.setattr(fid_encoder.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(fid_encoder.dist, "get_world_size", lambda: world["size"])
        block = encoder.block[1]
        block.__class__ = type("FSDPBlock", (FSDPModule, type(block)), {})  # what `fully_shard` does
        assert not fid_encoder._is_sharded(encoder)
        world["size"] = 2
        assert fid_encoder._is_sharded(encoder)
        encoder = make_reader(make_backbone()).encoder
        assert not fid_encoder._is_sharded(encoder)
        encoder.block[0].layer[0].SelfAttention.q.weight.ds_id = 0  # what ZeRO-3 does
        assert fid_encoder._is_sharded(encoder)


class TestPacking:
    def test_the_decoder_looks_at_real_tokens_alone(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        shapes = shapes_of(reader.decoder.block[0].layer[1].EncDecAttention.k)
        out = reader(**inputs, labels=LABELS)
        assert out.encoder_last_hidden_state.shape == (2, 36, 24)
        reader.generate(**inputs, max_new_tokens=3)
        reader.generate(**inputs, max_new_tokens=3, num_beams=2, cache_implementation="static")
        reader.generate(
            inputs_embeds=reader.shared(inputs["input_ids"]), attention_mask=inputs["attention_mask"], max_new_tokens=3
        )
        assert shapes == [(2, 18), (2, 18), (4, 18), (2, 18)]

    def test_attentions_show_every_token(self):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        reader.set_attn_implementation("eager")
        expected = reader.generate(**inputs, max_new_tokens=3)
        asked = {"output_attentions": True, "return_dict_in_generate": True, "output_reader_scores": True}
        out = reader.generate(**inputs, max_new_tokens=3, **asked)
        assert torch.equal(out.sequences, expected)
        assert out.cross_attentions[0][0].shape == (2, 4, 1, 36)
        assert largest(out.reader_scores.nan_to_num() - reader.reader_scores(**inputs).nan_to_num()) <= 1e-5
        by_token = out.cross_attentions[0][0][0, :, 0].view(4, 4, 9).sum(-1)  # (head, passage)
        assert largest(by_token[:, 2]) == 0 and largest(by_token.sum(-1) - 1) <= 1e-5

    def test_beams_equal_those_of_states_that_were_not_packed(self):
        reader, inputs = make_reader(make_backbone("mt5")), make_inputs(RAGGED)
        beams = {"num_beams": 4, "max_new_tokens": 6, "output_scores": True, "return_dict_in_generate": True}
        expected = reader.generate(
            encoder_outputs=reader.encoder(**inputs), attention_mask=inputs["attention_mask"], **beams
        )
        out = reader.generate(**inputs, **beams)
        assert torch.equal(out.sequences, expected.sequences)
        assert largest(out.sequences_scores - expected.sequences_scores) <= 1e-5

    @pytest.mark.parametrize("attentions", [False, True])
    def test_steps_by_hand_go_on_from_either_cache(self, attentions):
        reader, inputs = make_reader(make_backbone()), make_inputs(RAGGED)
        reader.set_attn_implementation("eager")
        tokens = torch.tensor([[0, 7, 9], [0, 8, 5]])
        expected = reader(**inputs, decoder_input_ids=tokens).logits
        first = reader(**inputs, decoder_input_ids=tokens[:, :1], use_cache=True, output_attentions=attentions)
        states = (first.encoder_last_hidden_state,)
        second = reader(
            encoder_outputs=states,
            attention_mask=inputs["attention_mask"],
            decoder_input_ids=tokens[:, 1:2],
            past_key_values=cache_of(first),
        )
        third = reader(**inputs, decoder_input_ids=tokens[:, 2:], cache=cache_of(second))
        for position, out in enumerate((first, second, third)):
            assert largest(out.logits[:, 0] - expected[:, position]) <= 1e-5


class TestPackTokens:
    @given(MASKS)
    def test_real_tokens_keep_their_order_and_find_back(self, rows):
        mask = torch.tensor(rows)
        numbers = torch.arange(1.0, mask.numel() + 1).view(len(mask), -1)  # one number per token
        states, packed_mask = pack_tokens(numbers[..., None] * torch.tensor([1.0, -1.0]), mask)
        expected = [row[flat.bool()].tolist() for row, flat in zip(numbers, mask.flatten(1), strict=True)]
        assert states.shape[1] == max(map(len, expected)) or states.shape[1] == mask[0].numel()
        for row, of_row, found in zip(states, packed_mask, expected, strict=True):
            assert row[of_row.bool(), 0].tolist() == found and row[of_row.bool(), 1].neg().tolist() == found
        assert packed_mask.sum(1).tolist() == [len(each) for each in expected]
        assert packed_mask.dtype == mask.dtype

        unpacked = unpack_tokens(states[..., 0], mask)
        assert torch.equal(unpacked, numbers.view(mask.shape) * mask)

    def test_a_batch_without_a_gain_stays_as_it_is(self):
        mask = torch.tensor([[[1, 1], [1, 1]], [[0, 1], [1, 0]]])
        states = torch.randn(2, 4, 3)
        same, flat = pack_tokens(states, mask)
        assert same is states and flat.tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]
        assert unpack_tokens(states[..., 0], mask)[1, 0, 0] == 0

    def test_gradients_reach_real_tokens_alone(self):
        states = torch.randn(1, 4, 2, requires_grad=True)
        pack_tokens(states, torch.tensor([[[1, 0], [0, 1]]]))[0].sum().backward()
        assert states.grad[0, :, 0].tolist() == [1, 0, 0, 1]


class TestChunksByLength:
    @given(st.lists(st.integers(0, 12), max_size=20), st.integers(1, 40))
    def test_each_passage_is_in_one_chunk(self, lengths, tokens_per_chunk):
        chunks = chunks_by_length(lengths, tokens_per_chunk)
        rows = [row for of_chunk, _ in chunks for row in of_chunk]
        assert sorted(rows) == [row for row, length in enumerate(lengths) if length]
        assert [lengths[row] for row in rows] == sorted(filter(None, lengths), reverse=True)
        for of_chunk, longest in chunks:
            assert longest == max(lengths[row] for row in of_chunk)
            assert len(of_chunk) == 1 or len(of_chunk) * longest <= tokens_per_chunk
        # no two neighbours would have fitted into one
        for (first, longest), (second, _) in zip(chunks, chunks[1:], strict=False):
            assert (len(first) + 1) * longest > tokens_per_chunk and second

    @pytest.mark.parametrize(
        "lengths, tokens, expected",
        [
            ([], 5, []),
            ([0, 0], 5, []),
            ([9, 2, 9, 3], 18, [([0, 2], 9), ([3, 1], 3)]),
            ([9, 2, 9, 3], 1, [([0], 9), ([2], 9), ([3], 3), ([1], 2)]),
        ],
    )
    def test_written_out(self, lengths, tokens, expected):
        assert chunks_by_length(lengths, tokens) == expected
