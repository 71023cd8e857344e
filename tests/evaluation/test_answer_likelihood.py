"""Answers' likelihoods against plain T5, one passage at a time."""

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration
from hf_xlir.evaluation import answer_log_likelihoods


SIZES = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
LABELS = torch.tensor([[7, 9, 1, -100], [5, 1, -100, -100]])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same weights as a reader and as plain T5."""
    torch.manual_seed(0)
    plain = T5ForConditionalGeneration(T5Config(**SIZES, decoder_start_token_id=0)).double().eval()
    for parameter in plain.parameters():
        parameter.data.mul_(2)  # far from equal likelihoods
    reader = FiDT5ForConditionalGeneration(FiDT5Config(**SIZES, decoder_start_token_id=0)).double().eval()
    reader.load_state_dict(plain.state_dict())
    return reader, plain


def inputs():
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(2, 50, (2, 3, 6), generator=generator)
    lengths = torch.tensor([[6, 2, 0], [4, 6, 1]])  # one passage is absent
    return input_ids, (torch.arange(6) < lengths[:, :, None]).long()


@pytest.mark.parametrize("passages_per_step", [1, 2, 16])
def test_equal_plain_t5_passage_by_passage(models, passages_per_step):
    (reader, plain), (input_ids, mask) = models, inputs()
    found = answer_log_likelihoods(reader, input_ids, mask, LABELS, passages_per_step)
    for question in range(2):
        for passage in range(3):
            ids = input_ids[question, passage][mask[question, passage].bool()]
            if not len(ids):
                assert found[question, passage] == -torch.inf
                continue
            answer = LABELS[question][LABELS[question] != -100]
            decoder_ids = torch.cat([torch.zeros(1, dtype=torch.long), answer[:-1]])
            with torch.no_grad():
                logits = plain(input_ids=ids[None], decoder_input_ids=decoder_ids[None]).logits[0]
            expected = sum(logits[i].log_softmax(dim=0)[token] for i, token in enumerate(answer))
            assert found[question, passage].item() == pytest.approx(expected.item(), abs=1e-10)
    assert found[mask.any(dim=2)].std() > 0.01


def test_the_loss_of_one_passage_is_its_mean(models):
    reader, (input_ids, mask) = models[0], inputs()
    found = answer_log_likelihoods(reader, input_ids[:1, :1], mask[:1, :1], LABELS[:1])
    loss = reader(input_ids=input_ids[:1, :1], attention_mask=mask[:1, :1], labels=LABELS[:1]).loss
    assert found.item() == pytest.approx(-3 * loss.item())


def test_half_precision_is_summed_in_float32(models):
    reader, (input_ids, mask) = FiDT5ForConditionalGeneration(models[0].config).bfloat16().eval(), inputs()
    found = answer_log_likelihoods(reader, input_ids, mask, LABELS)
    assert found.dtype == torch.float32 and found[0, 0] < 0


def test_what_does_not_fit(models):
    reader, (input_ids, mask) = models[0], inputs()
    with pytest.raises(ValueError, match=r"rows \[1\] have no token"):
        answer_log_likelihoods(reader, input_ids, mask, torch.tensor([[4, 1], [-100, -100]]))
    for wrong in ((input_ids[0], mask[0], LABELS), (input_ids, mask[:, :2], LABELS), (input_ids, mask, LABELS[:1])):
        with pytest.raises(ValueError, match=r"must have the shape \(batch_size, num_passages, length\)"):
            answer_log_likelihoods(reader, *wrong)
