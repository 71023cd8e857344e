"""What reaches the Trainer's reporters beside the loss."""

import pytest
import torch
from transformers import TrainerCallback
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import RetrieverTrainer
from hf_xlir.training import trainer as trainer_module
from hf_xlir.training.trainer import TrainingLog


class Reporter(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def train(tokenizer, tmp_path):
    """Train and return what was reported in training."""

    def train(family="colbert", teacher=True, **arguments):
        model, processor = make_retriever(family, tokenizer)
        teacher = make_retriever(family, tokenizer, seed=1)[0] if teacher else None
        trainer = RetrieverTrainer(
            model,
            make_arguments(tmp_path, **arguments),
            processor,
            teacher=teacher,
            train_dataset=make_rows(),
            eval_dataset=make_rows(4),
        )
        reporter = Reporter()
        trainer.add_callback(reporter)
        trainer.train()
        return [logs for logs in reporter.logs if "loss" in logs]

    return train


@pytest.mark.parametrize(
    ("family", "arguments", "names"),
    [
        ("colbert", {"objective": "in_batch_nce"}, {"margin"}),
        ("colbert", {"objective": "score_distillation", "distill_in_batch": True}, {"margin"}),
        ("biencoder", {"objective": "margin_mse"}, {"margin"}),
        ("colbert", {"objective": "listwise", "in_batch_weight": 0.5}, {"margin", "loss_listwise", "loss_in_batch"}),
        ("colbert", {"objective": "token_distillation"}, {"loss_queries", "loss_documents"}),
        ("colbert", {"objective": "token_distillation", "query_weight": 1.0}, set()),
        ("biencoder", {"objective": "embedding_distillation"}, set()),
        (
            "biencoder",
            {"objective": "embedding_distillation", "contrast_scale": 20.0},
            {"margin", "loss_regression", "loss_contrast"},
        ),
    ],
)
def test_parts_add_up_to_the_loss(train, family, arguments, names):
    always = {"loss", "grad_norm", "learning_rate", "samples_per_second", "epoch"}
    for options in ({}, {"gradient_accumulation_steps": 2}, {"gradient_cache_chunk_size": 3}):
        logs = train(family, max_steps=2, per_device_train_batch_size=4, **arguments, **options)
        assert len(logs) == 2
        for entry in logs:
            assert set(entry) == always | names
            parts = [value for name, value in entry.items() if name.startswith("loss_")]
            if parts:
                assert sum(parts) == pytest.approx(entry["loss"], abs=1e-5)
                assert min(parts) > 0


def test_means_since_the_last_time(train):
    arguments = {"objective": "token_distillation", "max_steps": 4, "per_device_train_batch_size": 4}
    each, every_second = train(**arguments), train(logging_steps=2, **arguments)
    assert len(each) == 4 and len(every_second) == 2
    for i, entry in enumerate(every_second):
        for name in ("loss", "loss_queries", "loss_documents"):
            assert entry[name] == pytest.approx((each[2 * i][name] + each[2 * i + 1][name]) / 2, abs=1e-6)


def test_evaluation_adds_nothing(train):
    arguments = {"objective": "in_batch_nce", "max_steps": 4, "logging_steps": 2}
    evaluated = train(eval_strategy="steps", eval_steps=1, **arguments)
    assert [logs["margin"] for logs in evaluated] == [logs["margin"] for logs in train(**arguments)]


def test_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: now[0])
    log = TrainingLog()
    assert log.pop() == {}

    def event(name, time):
        now[0] = time
        getattr(log, name)(None, None, None)

    event("on_train_begin", 100.0)
    log.add({"margin": torch.tensor(1.0)}, 8)
    event("on_step_end", 102.0)
    event("on_evaluate", 150.0)
    log.add({"margin": torch.tensor(4.0)}, 8)
    event("on_step_end", 151.0)
    event("on_save", 180.0)
    log.add({"margin": torch.tensor(4.0)}, 4)
    event("on_step_end", 181.0)
    assert log.pop() == {"samples_per_second": 5.0, "margin": 3.0}  # 20 rows in 2 + 1 + 1 seconds
    assert log.pop() == {}
    log.add({"margin": torch.tensor(2.0)}, 8)
    event("on_step_end", 183.0)
    assert log.pop() == {"samples_per_second": 4.0, "margin": 2.0}
