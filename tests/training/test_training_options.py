"""What makes training faster or smaller, proven to be switched on and to change nothing else."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from two_processes import CHECKPOINTING, logged_losses, make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import RetrieverTrainer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def run(tokenizer, tmp_path):
    """Train a ColBERT with dropout for three steps; returns the trainer, with its model's forward passes noted."""

    def run(prepare=lambda model: model, teacher=False, **arguments):
        model, processor = make_retriever("colbert", tokenizer, dropout=0.1)
        teacher = make_retriever("colbert", tokenizer, seed=1)[0] if teacher else None
        dtypes = []
        model.encoder.encoder.layer[0].output.dense.register_forward_hook(lambda *call: dtypes.append(call[2].dtype))
        arguments = make_arguments(tmp_path, **{"seed": 3, "objective": "in_batch_nce", **arguments})
        trainer = RetrieverTrainer(prepare(model), arguments, processor, teacher=teacher, train_dataset=make_rows())
        trainer.train()
        trainer.dtypes = dtypes
        return trainer

    return run


def assert_same_weights(trainer, expected, atol=1e-6):
    weights = expected.model.state_dict()
    for name, found in trainer.model.state_dict().items():
        torch.testing.assert_close(found, weights[name], rtol=0, atol=atol)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_bf16(run, chunk_size):
    full = run(gradient_cache_chunk_size=chunk_size)
    half = run(gradient_cache_chunk_size=chunk_size, bf16=True)
    assert set(full.dtypes) == {torch.float32} and set(half.dtypes) == {torch.bfloat16}
    assert {weights.dtype for weights in half.model.parameters()} == {torch.float32}
    assert logged_losses(half) == pytest.approx(logged_losses(full), rel=0.03)
    assert logged_losses(half) != logged_losses(full)


def test_bf16_of_the_teacher(run):
    full, half = (run(teacher=True, objective="score_distillation", bf16=bf16) for bf16 in (False, True))
    dtypes = []
    half.teacher.encoder.encoder.layer[0].output.dense.register_forward_hook(
        lambda *call: dtypes.append(call[2].dtype)
    )
    outputs = half._teach(half.data_collator(list(make_rows(2))))
    assert dtypes == [torch.bfloat16] * 2
    assert {output.embeddings.dtype for output in outputs.values()} == {torch.float32}
    assert logged_losses(half) == pytest.approx(logged_losses(full), rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 training needs a GPU")
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_fp16(run, chunk_size):
    full, half = (
        run(gradient_cache_chunk_size=chunk_size, fp16=fp16, use_cpu=False, max_grad_norm=1.0)
        for fp16 in (False, True)
    )
    assert set(half.dtypes) == {torch.float16} and half.accelerator.scaler is not None
    assert logged_losses(half) == pytest.approx(logged_losses(full), rel=0.03)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_activation_checkpointing(run, chunk_size):
    plain, checkpointed = (run(gradient_cache_chunk_size=chunk_size, **{CHECKPOINTING: on}) for on in (False, True))
    # every pass with a gradient runs the layer once more
    chunks = 1 + 1 if chunk_size is None else 2 + 5
    without_gradient = 0 if chunk_size is None else chunks
    assert len(plain.dtypes) == 3 * (without_gradient + chunks)
    assert len(checkpointed.dtypes) == 3 * (without_gradient + 2 * chunks)
    assert_same_weights(checkpointed, plain)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 100])
def test_torch_compile(run, monkeypatch, chunk_size):
    expected = run()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # the arguments set it, for the rest of the process
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # without a compiler's code, but through the same tracing of forward and backward pass
    compiled = run(torch_compile=True, torch_compile_backend="aot_eager", gradient_cache_chunk_size=chunk_size)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert_same_weights(compiled, expected)


@pytest.mark.parametrize("chunk_size", [None, 100])
def test_lora(run, tmp_path, chunk_size):
    def adapt(model):
        torch.manual_seed(0)
        return get_peft_model(model, LoraConfig(target_modules=["query", "value"], modules_to_save=["linear"]))

    start, plain = (run(adapt, learning_rate=rate).model.state_dict() for rate in (0.0, 0.5))
    arguments = {"gradient_cache_chunk_size": chunk_size, "save_strategy": "steps", "save_steps": 3}
    tuned = run(adapt, learning_rate=0.5, **arguments).model.state_dict()
    changed = {name for name, weights in tuned.items() if not torch.equal(weights, start[name])}
    assert any("lora_B" in name for name in changed) and any("linear.modules_to_save" in name for name in changed)
    assert all("lora_" in name or "modules_to_save" in name for name in changed)
    for name, weights in tuned.items():
        torch.testing.assert_close(weights, plain[name], rtol=0, atol=1e-6)
    assert (tmp_path / "checkpoint-3" / "adapter_model.safetensors").exists()
