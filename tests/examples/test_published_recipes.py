"""Every recipe against the numbers of its paper, written down a second time; and the launch configurations."""

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from transformers import get_scheduler

from hf_xlir import RetrieverTrainingArguments
from hf_xlir.training import OBJECTIVES
from support.recipes import parse_recipe
from support.runs import EvaluationArguments


EXAMPLES = Path(__file__).parents[2] / "examples"

DRDECR = {
    "document_length": 180,
    "global_batch_size": 192,
    "gradient_accumulation_steps": 6,
    "per_device_train_batch_size": 32,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 2.0,
    "seed": 12345,
    "train_sampling_strategy": "sequential",
    "weight_decay": 0.0,
}
FID = {
    "text_maxlength": 250,
    "answer_maxlength": 50,
    "n_context": 100,
    "optim": "adamw_torch",
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 1000,
    "max_steps": 15_000,
    "global_batch_size": 64,
    "per_device_train_batch_size": 1,
    "max_grad_norm": 1.0,
    "weight_decay": 0.01,
    "gradient_checkpointing": True,
    "predict_with_generate": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "exact_match",
    "greater_is_better": True,
}
EXPECTED = {
    "drdecr_nq": {
        **DRDECR,
        "model_name_or_path": "FacebookAI/xlm-roberta-large",
        "objective": "listwise",
        "in_batch_weight": 0.0,
        "learning_rate": 1.5e-6,
        "max_steps": 91_287,
        "output_dir": "outputs/drdecr/nq",
    },
    "drdecr_xor": {
        **DRDECR,
        "model_name_or_path": "outputs/drdecr/nq",
        "objective": "listwise",
        "learning_rate": 6e-6,
        "max_steps": 74_704,
        "output_dir": "outputs/drdecr/xor",
    },
    "drdecr_kd_parallel": {
        **DRDECR,
        "model_name_or_path": "outputs/drdecr/xor",
        "teacher_name_or_path": "outputs/drdecr/nq",
        "teacher_document_length": 180,
        "objective": "token_distillation",
        "distance": "mse",
        "query_weight": 0.5,
        "learning_rate": 4.8e-5,
        "max_steps": 84_897,
        "output_dir": "outputs/drdecr/kd_parallel",
    },
    "drdecr_kd_xor": {
        **DRDECR,
        "model_name_or_path": "outputs/drdecr/kd_parallel",
        "teacher_name_or_path": "outputs/drdecr/nq",
        "teacher_document_length": 180,
        "objective": "score_distillation",
        "distill_in_batch": False,
        "temperature": 2.0,
        "learning_rate": 6e-6,
        "max_steps": 87_618,
        "output_dir": "outputs/drdecr/kd_xor",
    },
    "dpr_nq": {
        "model_name_or_path": "google-bert/bert-base-uncased",
        "share_encoders": False,
        "embedding_dim": None,
        "pooling": "cls",
        "query_length": 256,
        "document_length": 256,
        "train_format": "dpr",
        "num_negatives": 1,
        "objective": "in_batch_nce",
        "learning_rate": 2e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 1237,
        "num_train_epochs": 40,
        "max_steps": -1,
        "global_batch_size": 128,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 2.0,
        "weight_decay": 0.0,
        "seed": 12345,
    },
    "fid_kd_retriever": {
        "model_name_or_path": "google-bert/bert-base-uncased",
        "share_encoders": True,
        "embedding_dim": 768,
        "pooling": "mean",
        "query_length": 40,
        "document_length": 200,
        "train_format": "reader",
        "num_passages": 100,
        "objective": "reader_distillation",
        "learning_rate": 1e-4,
        "warmup_steps": 1000,
        "max_steps": 20_000,
        "global_batch_size": 64,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
    },
    "fid_reader_base": {**FID, "model_name_or_path": "google-t5/t5-base", "output_dir": "outputs/fid_reader_base"},
    "fid_reader_large": {**FID, "model_name_or_path": "google-t5/t5-large", "output_dir": "outputs/fid_reader_large"},
}


@pytest.fixture
def parse(load_script, script_of):
    """All arguments of a recipe by name."""

    def run(name):
        recipe = EXAMPLES / "recipes" / f"{name}.yaml"
        script = load_script(script_of(recipe))
        own = [script.ModelArguments, script.DataArguments]
        own += [script.TeacherArguments] if hasattr(script, "TeacherArguments") else []
        if hasattr(script, "ReaderTrainingArguments"):
            types = (*own, script.ReaderTrainingArguments)
        else:
            types = (*own, EvaluationArguments, RetrieverTrainingArguments)
        parsed = parse_recipe(*types, argv=[str(recipe), "--use_cpu"])
        arguments = {name: value for of_type in parsed for name, value in vars(of_type).items()}
        if "objective" in arguments:  # a setting that is not given has the objective's default
            defaults = vars(OBJECTIVES[arguments["objective"]].Settings())
            arguments |= {name: value for name, value in defaults.items() if arguments[name] is None}
        return arguments

    return run


@pytest.mark.parametrize("name", EXPECTED)
def test_the_numbers_of_the_papers(parse, name):
    arguments = parse(name)
    assert {each: arguments[each] for each in EXPECTED[name]} == EXPECTED[name]
    assert arguments["save_total_limit"] == 2 and not arguments["smoke"]  # of 91,287 steps are 45 checkpoints


def test_every_recipe_is_here():
    assert {path.stem for path in (EXAMPLES / "recipes").iterdir()} == set(EXPECTED)


def test_the_learning_rate_of_the_reader_s_pupil(parse):
    """It falls towards 0 at step 30,000, where training does not get."""
    arguments = parse("fid_kd_retriever")
    schedule = get_scheduler(
        arguments["lr_scheduler_type"],
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=arguments["learning_rate"]),
        num_warmup_steps=arguments["warmup_steps"],
        num_training_steps=arguments["max_steps"],
        scheduler_specific_kwargs=arguments["lr_scheduler_kwargs"],
    )
    for step in (0, 500, 1000, 7000, 20_000):
        expected = 1e-4 * (step / 1000 if step < 1000 else (30_000 - step) / 29_000)
        assert schedule.lr_lambdas[0](step) * 1e-4 == pytest.approx(expected, rel=1e-6)


CONFIGS = {
    "cpu": (DistributedType.NO, 1, True, "no"),
    "cpu_two_processes": (DistributedType.MULTI_GPU, 2, True, "no"),
    "gpu": (DistributedType.NO, 1, False, "bf16"),
    "multi_gpu": (DistributedType.MULTI_GPU, 8, False, "bf16"),
    "fsdp": (DistributedType.FSDP, 8, False, "bf16"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_launch_configurations(name):
    config = load_config_from_file(str(EXAMPLES / "accelerate_configs" / f"{name}.yaml"))
    found = (config.distributed_type, config.num_processes, config.use_cpu, config.mixed_precision)
    assert found == CONFIGS[name]
    assert bool(config.fsdp_config) == (name == "fsdp")


def test_every_launch_configuration_is_here():
    assert {path.stem for path in (EXAMPLES / "accelerate_configs").iterdir()} == set(CONFIGS)
