"""What a Trainer knows of its training, for a model card."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path

from transformers.integrations import CodeCarbonCallback

from .training_record import TrainingRecord


PACKAGES = ("torch", "transformers", "datasets", "accelerate")


def training_facts(trainer):
    r"""
    The set-up of a training, from its arguments, its state and its [`TrainingRecord`].

    Args:
        trainer (`RetrieverTrainer` or `ReaderTrainer`):
            One that has trained, in whatever number of runs.

    Returns:
        `dict[str, str]`: What, and its value; what was not measured is said to be so. Empty if no step was taken.
    """
    args, state = trainer.args, trainer.state
    if not state.global_step:
        return {}
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    warmup = f"{args.warmup_steps:g}" + (" of all steps" if 0 < args.warmup_steps < 1 else " steps")
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    own = sys.modules[__name__.partition(".")[0]].__version__
    return {
        **trainer.objective_facts(),
        "Steps": f"{state.global_step:,}" + ("" if state.epoch is None else f" ({state.epoch:.3g} epochs)"),
        "Batch": f"{per_step} rows a step: {args.train_batch_size} a process x {args.world_size} process(es) x "
        f"{args.gradient_accumulation_steps} accumulated",
        "Learning rate": f"{args.learning_rate:g}, {schedule}, warm-up of {warmup}",
        "Optimizer": f"{getattr(args.optim, 'value', args.optim)}, weight decay {args.weight_decay:g}",
        "Precision": f"{precision}, autocast" if args.bf16 or args.fp16 else precision,
        "Seed": str(args.seed),
        **_of_record(_record(trainer)),
        "Energy": _energy(trainer),
        "Versions": ", ".join([f"hf_xlir {own}", *versions, f"Python {platform.python_version()}"]),
    }


def measured_emissions(trainer):
    """What the Hub calls `co2_eq_emissions`, `None` where nobody measured it."""
    data = _emissions_data(trainer)
    if data is None:
        return None
    hardware = ", ".join(dict.fromkeys(run["hardware"] for run in _record(trainer).runs))
    return {
        "emissions": 1000 * data.emissions,  # kilograms
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "hardware_used": hardware,
    }


def last_evaluation(trainer):
    r"""
    The metrics of the model that a Trainer has now: of its last evaluation or, where it loaded its best checkpoint, of
    that one's.

    Returns:
        `tuple[int, dict[str, dict[str, float]]]`: The step, and by measure and language the values; `"all"` where a
        metric is of no single language. `None` if there was no evaluation.
    """
    state, prefix = trainer.state, "eval_"
    steps = [entry["step"] for entry in state.log_history if any(name.startswith(prefix) for name in entry)]
    if not steps:
        return None
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    step = best if best in steps else steps[-1]
    values = {}
    for entry in state.log_history:
        if entry["step"] == step:
            values |= {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}
    values = {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not name.endswith(("runtime", "_per_second", "model_preparation_time"))
    }
    measures = {}
    for name, value in values.items():
        language, _, measure = name.partition("_")
        if len(language) in (2, 3) and measure in values:
            measures.setdefault(measure, {})[language] = value
        else:
            measures.setdefault(name, {})["all"] = value
    return step, measures


def name_of(model):
    r"""
    Where a model was loaded from.

    Returns:
        `tuple[str, bool]`: The name, empty for a model that was made here; and whether it is a repository of the Hub
        rather than a folder.
    """
    name = model.config._name_or_path
    return name, bool(name) and not Path(name).exists() and not Path(name).is_absolute()


def _record(trainer):
    return next(each for each in trainer.callback_handler.callbacks if isinstance(each, TrainingRecord))


def _of_record(record):
    runs = record.runs
    if not runs:
        return {"Hardware": "not recorded", "Duration": "not recorded"}
    machines = dict.fromkeys(f"{run['hardware']}, {run['processes']} process(es)" for run in runs)
    duration = _readable(sum(run["seconds"] for run in runs)) + ", evaluation and saving included"
    if len(runs) > 1:
        duration += f", in {len(runs)} runs"
    if runs[0]["first_step"]:
        duration += f", from step {runs[0]['first_step']:,} on; those before were not timed"
    return {"Hardware": "; ".join(machines), "Duration": duration}


def _readable(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min {seconds:02} s" if hours else f"{minutes} min {seconds:02} s"


def _energy(trainer):
    data = _emissions_data(trainer)
    if data is None:
        return "not measured"
    return f"{data.energy_consumed:.4g} kWh, {data.emissions:.4g} kg CO2 eq. by codecarbon's estimate, of the last run"


def _emissions_data(trainer):
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, CodeCarbonCallback) and each.tracker is not None:
            return getattr(each.tracker, "final_emissions_data", None)  # there once the tracker has stopped
    return None


__all__ = ["last_evaluation", "measured_emissions", "name_of", "training_facts"]
