import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration
from support.mimetic_init import mimetic_init_


SIZES = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "num_heads": 2, "d_ff": 32, "num_layers": 2}


@pytest.fixture(params=[(T5Config, T5ForConditionalGeneration), (FiDT5Config, FiDT5ForConditionalGeneration)])
def model(request):
    torch.manual_seed(0)
    config_class, model_class = request.param
    return model_class(config_class(**SIZES, num_decoder_layers=1))


def attentions(model):
    for block in (*model.encoder.block, *model.decoder.block):
        yield block.layer[0].SelfAttention, 0.7
    for block in model.decoder.block:
        yield block.layer[1].EncDecAttention, 2.0


def test_equal_tokens_attend_to_each_other_and_are_copied(model):
    assert mimetic_init_(model) is model
    found = list(attentions(model))
    assert len(found) == 4
    for attention, value_scale in found:
        q, k, v, o = (linear.weight.double() for linear in (attention.q, attention.k, attention.v, attention.o))
        # q and k: the same orthogonal rows, scaled by 1/2 each
        torch.testing.assert_close(q @ k.T, 0.25 * torch.eye(8).double(), atol=0.1, rtol=0)
        # o v is the identity on the heads' 8 dimensions and 0 on the other 8, times the scale twice
        eigenvalues = torch.linalg.eigvalsh((o @ v + (o @ v).T) / 2)
        expected = torch.tensor([0.0] * 8 + [value_scale**2] * 8).double()
        torch.testing.assert_close(eigenvalues, expected, atol=0.25 * value_scale, rtol=0)
        assert not torch.equal(q, k)  # the noise that breaks the symmetry


def test_embeddings_are_made_smaller(model):
    before = model.get_input_embeddings().weight.clone()
    mimetic_init_(model, embedding_scale=0.5)
    torch.testing.assert_close(model.get_input_embeddings().weight, 0.5 * before)


def test_embeddings_of_another_model(model):
    wide = torch.randn(50, 40, dtype=torch.float64) * torch.linspace(0.1, 3, 40).double() + 5
    mimetic_init_(model, wide.float())
    ours = model.get_input_embeddings().weight.detach().double().numpy()
    assert ours.std() == pytest.approx(0.25, rel=1e-2)
    assert ours.mean(axis=0) == pytest.approx(np.zeros(16), abs=1e-5)
    # the reference: singular vectors of the centred rows; components agree up to sign
    u, s, _ = np.linalg.svd(wide.numpy() - wide.numpy().mean(axis=0), full_matrices=False)
    expected = (u * s)[:, :16]
    np.testing.assert_allclose(np.abs(ours), np.abs(expected) * 0.25 / expected.std(), atol=1e-3)


@pytest.mark.parametrize("shape", [(49, 40), (50, 15)])
def test_unfit_embeddings(model, shape):
    with pytest.raises(ValueError, match=r"50 rows of at least 16 numbers"):
        mimetic_init_(model, torch.randn(shape))


def test_too_many_heads():
    model = T5ForConditionalGeneration(T5Config(**{**SIZES, "num_heads": 5}))
    with pytest.raises(ValueError, match="width of 16, got 20"):
        mimetic_init_(model)


def test_repeats_with_the_seed(model):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        fresh = type(model)(model.config)
        states.append(mimetic_init_(fresh).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
