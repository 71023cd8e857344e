"""Gradients chunk by chunk against those of the whole batch, with everything that training may have switched on."""

from contextlib import nullcontext

import pytest
import torch
from two_processes import CASES, make_arguments, make_retriever, make_rows, make_tokenizer, train

from hf_xlir import RetrieverTrainer
from hf_xlir.data import RetrieverCollator
from hf_xlir.models.modeling_retriever import RetrieverOutput
from hf_xlir.training import InBatchNCE
from hf_xlir.training.gradient_cache import cached_backward, encode_in_chunks


FAMILIES = {"colbert": {}, "biencoder": {"share_encoders": False}}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def make_batch(tokenizer):
    """A model in training mode, in-batch NCE, and a batch of seven rows."""

    def make(family, dropout=0.0, dtype=torch.float64):
        model, processor = make_retriever(family, tokenizer, dropout=dropout, **FAMILIES[family])
        inputs = RetrieverCollator(processor)(list(make_rows(7)))
        objective = InBatchNCE()
        return model.to(dtype).train(), inputs, lambda outputs: objective(outputs, inputs)["in_batch"]

    return make


def texts_of(inputs):
    return {kind: inputs[kind] for kind in ("queries", "documents")}


def gradients_of(model):
    return {name: weights.grad.clone() for name, weights in model.named_parameters()}


def cached(model, inputs, loss_function, chunk_size, backward=torch.Tensor.backward):
    model.zero_grad()
    loss = cached_backward(model, texts_of(inputs), chunk_size, loss_function, backward)
    assert not loss.requires_grad
    return loss, gradients_of(model)


def in_chunks_that_stay(model, inputs, loss_function, chunk_size, backward=torch.Tensor.backward):
    """The same chunks one after another, but with all their activations kept until the end."""
    model.zero_grad()
    outputs = {}
    for kind, texts in texts_of(inputs).items():
        parts = []
        for start in range(0, len(texts["input_ids"]), chunk_size):
            chunk = {name: x[start : start + chunk_size] if torch.is_tensor(x) else x for name, x in texts.items()}
            parts.append(model(**chunk))
        mask = None if parts[0].embedding_mask is None else torch.cat([part.embedding_mask for part in parts])
        outputs[kind] = RetrieverOutput(torch.cat([part.embeddings.float() for part in parts]), mask)
        if model.dtype == torch.float64:
            outputs[kind].embeddings = torch.cat([part.embeddings for part in parts])
    loss = loss_function(outputs)
    backward(loss)
    return loss.detach(), gradients_of(model)


def assert_same(result, expected, **tolerances):
    (loss, gradients), (expected_loss, expected_gradients) = result, expected
    torch.testing.assert_close(loss, expected_loss, **tolerances)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, **tolerances)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_gradients_of_the_whole_batch(make_batch, family, chunk_size):
    batch = make_batch(family)
    expected = in_chunks_that_stay(*batch, chunk_size=100)
    assert_same(cached(*batch, chunk_size=chunk_size), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_drops_the_same_units_again(make_batch, family, checkpointing):
    model, *batch = make_batch(family, dropout=0.3)
    if checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    runs = []
    for run, seed in ((in_chunks_that_stay, 0), (cached, 0), (cached, 1)):
        torch.manual_seed(seed)
        runs.append((run(model, *batch, chunk_size=3), torch.rand(1).item()))
    (expected, drawn_next), (result, drawn_next_too), (other, _) = runs
    assert_same(result, expected, rtol=0, atol=1e-12)
    assert drawn_next_too == drawn_next  # the generator goes on as if every text had been encoded once
    assert abs(other[0] - expected[0]) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_scaled_losses(make_batch, dtype):
    model, *batch = make_batch("biencoder", dropout=0.3, dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if dtype == torch.float16 else None
    forward, seen = model.forward, set()
    model.encoder.encoder.layer[0].output.dense.register_forward_hook(lambda *call: seen.add(call[2].dtype))

    def in_autocast(**texts):  # as accelerate wraps it: embeddings come back in float32
        with torch.autocast("cpu", dtype=dtype):
            output = forward(**texts)
        return RetrieverOutput(output.embeddings.float())

    model.forward = in_autocast
    runs = []
    for run in (in_chunks_that_stay, cached):
        torch.manual_seed(0)
        backward = torch.Tensor.backward if scaler is None else lambda loss: scaler.scale(loss).backward()
        runs.append(run(model, *batch, chunk_size=3, backward=backward))
    # a sum over chunks in another order, of products in half precision
    scale = max(gradient.abs().max() for gradient in runs[0][1].values()).item()
    assert_same(runs[1], runs[0], rtol=0.02, atol=2e-3 * scale)
    assert (scale > 100) == (scaler is not None)
    assert seen == {dtype}


def test_no_more_than_a_chunk_has_activations(make_batch):
    model, *batch = make_batch("colbert")
    sizes = []
    model.register_forward_hook(
        lambda *call: sizes.append((len(call[2].embeddings), call[2].embeddings.requires_grad))
    )
    cached(model, *batch, chunk_size=4)
    queries, documents = [4, 3], [4, 4, 4, 4, 4, 1]
    without, with_gradient = ([size for size, has in sizes if has == wanted] for wanted in (False, True))
    assert without == queries + documents
    assert sorted(with_gradient) == sorted(queries + documents)
    assert [has for _, has in sizes] == [False] * 8 + [True] * 8


def test_processes_synchronise_once(make_batch):
    model, inputs, loss_function = make_batch("colbert")
    alone, calls = [], []

    class NoSync(nullcontext):
        def __enter__(self):
            alone.append(True)

        def __exit__(self, *error):
            alone.pop()

    def backward(loss):
        calls.append(bool(alone))
        loss.backward()

    cached_backward(model, texts_of(inputs), 4, loss_function, backward, NoSync)
    assert calls == [True] * 6 + [False]  # the last chunk of queries and that of documents together


def test_frozen_parameters(make_batch):
    model, *batch = make_batch("biencoder")
    expected = cached(model, *batch, chunk_size=3)
    model.document_encoder.requires_grad_(False)
    model.document_head.requires_grad_(False)
    model.zero_grad()
    cached_backward(model, texts_of(batch[0]), 3, batch[1], torch.Tensor.backward)
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            torch.testing.assert_close(weights.grad, expected[1][name], rtol=0, atol=1e-12)


def test_encode_in_chunks(make_batch):
    model, inputs, _ = make_batch("colbert")
    outputs = model(**inputs["documents"])
    for chunk_size in (None, 4):
        chunked = encode_in_chunks(model, inputs["documents"], chunk_size)
        assert not chunked.embeddings.requires_grad
        torch.testing.assert_close(chunked.embeddings, outputs.embeddings.detach(), rtol=0, atol=1e-12)
        assert torch.equal(chunked.embedding_mask, outputs.embedding_mask)


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith(", cached")])
def test_training_with_every_objective(tmp_path, case):
    expected = train(case, tmp_path, max_steps=3)
    chunked = train(case, tmp_path, max_steps=3, gradient_cache_chunk_size=3)
    assert chunked["losses"] == pytest.approx(expected["losses"], abs=1e-6)
    for name, weights in expected["weights"].items():
        torch.testing.assert_close(chunked["weights"][name], weights, rtol=0, atol=1e-10)
    for entry, of_whole in zip(chunked["logs"], expected["logs"], strict=True):
        assert entry == pytest.approx(of_whole, abs=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}])
def test_training_with_dropout_in_one_chunk_is_as_without(tokenizer, tmp_path, arguments):
    weights = []
    for chunk_size in (None, 100):
        model, processor = make_retriever("colbert", tokenizer, dropout=0.2)
        RetrieverTrainer(
            model,
            make_arguments(tmp_path, seed=3, gradient_cache_chunk_size=chunk_size, **arguments),
            processor,
            train_dataset=make_rows(),
        ).train()
        weights.append(model.state_dict())
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_cache_chunk_size": 0}, "gradient_cache_chunk_size.*got 0"),
        ({"gradient_cache_chunk_size": 8, "optim": "lomo"}, "does not work with DeepSpeed or LOMO"),
    ],
)
def test_errors(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_arguments(tmp_path, **arguments)
