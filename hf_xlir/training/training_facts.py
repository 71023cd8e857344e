"""What a model card says of a training: its setup, its hardware and duration over all runs, its evaluation."""

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers.integrations import CodeCarbonCallback

from .checkpoints import CheckpointedCallback


RECORD = "training_record.json"
PACKAGES = ("torch", "transformers", "datasets", "accelerate")


class TrainingRecord(CheckpointedCallback):
    """
    Records the runs that a training consists of. A checkpoint carries the runs before it.

    `runs` are dictionaries of `first_step`, `last_step`, `seconds` (evaluation and saving included), `processes` and
    `hardware`, for runs of at least one step.
    """

    def __init__(self):
        self._finished, self._run = [], None

    @property
    def runs(self):
        """All runs up to now."""
        if self._run is None or self._run["last_step"] == self._run["first_step"]:
            return self._finished
        return [*self._finished, {**self._run, "seconds": round(time.perf_counter() - self._start, 3)}]

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin a run."""
        self._start = time.perf_counter()
        self._run = {
            "first_step": state.global_step,
            "last_step": state.global_step,
            "processes": args.world_size,
            "hardware": hardware(args.device),
        }

    def on_step_end(self, args, state, control, **kwargs):
        """Count the step."""
        self._run["last_step"] = state.global_step

    def on_train_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        self._finished, self._run = self.runs, None

    def save_state(self, folder):
        """Write the runs up to now."""
        (folder / RECORD).write_text(json.dumps(self.runs, indent=2), encoding="utf-8")

    def load_state(self, folder):
        """Read the runs before a checkpoint. Checkpoints of another trainer have none."""
        self._finished, self._run = [], None
        if folder is not None and Path(folder, RECORD).exists():
            self._finished = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))


def training_facts(trainer):
    """The setup of a training as rows of the card's table, `{name: text}`. Empty before the first step."""
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
        "Batch": f"{per_step} rows per step: {args.train_batch_size} per process x {args.world_size} process(es) x "
        f"{args.gradient_accumulation_steps} accumulated",
        "Learning rate": f"{args.learning_rate:g}, {schedule}, warm-up of {warmup}",
        "Optimizer": f"{getattr(args.optim, 'value', args.optim)}, weight decay {args.weight_decay:g}",
        "Precision": f"{precision}, autocast" if args.bf16 or args.fp16 else precision,
        "Seed": str(args.seed),
        **_hardware_and_duration(_record(trainer).runs),
        "Energy": _energy(trainer),
        "Versions": ", ".join([f"hf_xlir {own}", *versions, f"Python {platform.python_version()}"]),
    }


def measured_emissions(trainer):
    """The Hub's `co2_eq_emissions`, `None` if codecarbon did not measure them."""
    data = _emissions_data(trainer)
    if data is None:
        return None
    return {
        "emissions": 1000 * data.emissions,  # kilograms to grams
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "hardware_used": ", ".join(dict.fromkeys(run["hardware"] for run in _record(trainer).runs)),
    }


def evaluation_facts(trainer):
    """
    The metrics of the model that a Trainer has now, as a row of the card's table: those of the last evaluation or, if
    the best checkpoint was loaded, of that checkpoint's. Empty without an evaluation.
    """
    state, prefix = trainer.state, "eval_"
    steps = [entry["step"] for entry in state.log_history if any(name.startswith(prefix) for name in entry)]
    if not steps:
        return {}
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
            measures.setdefault(measure, []).append(f"{language} {value:.4g}")
        else:
            measures.setdefault(name, []).insert(0, f"{value:.4g}")  # over all languages
    shown = "; ".join(f"{name} {', '.join(values)}" for name, values in measures.items())
    return {f"Evaluation data of the training, at step {step:,}": shown}


def name_of(model):
    """Where a model was loaded from, empty if it was made here; and whether that is a repository on the Hub."""
    name = model.config._name_or_path
    return name, bool(name) and not Path(name).exists() and not Path(name).is_absolute()


def hardware(device):
    """A device in words: the name of the GPU, or of the CPU with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{_cpu_name()}, {torch.get_num_threads()} thread(s)"


def _cpu_name():
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _record(trainer):
    return next(each for each in trainer.callback_handler.callbacks if isinstance(each, TrainingRecord))


def _hardware_and_duration(runs):
    if not runs:
        return {"Hardware": "not recorded", "Duration": "not recorded"}
    machines = dict.fromkeys(f"{run['hardware']}, {run['processes']} process(es)" for run in runs)
    minutes, seconds = divmod(round(sum(run["seconds"] for run in runs)), 60)
    hours, minutes = divmod(minutes, 60)
    duration = f"{hours} h {minutes:02} min {seconds:02} s" if hours else f"{minutes} min {seconds:02} s"
    duration += ", evaluation and saving included"
    if len(runs) > 1:
        duration += f", in {len(runs)} runs"
    if runs[0]["first_step"]:
        duration += f", from step {runs[0]['first_step']:,} on; earlier steps were not timed"
    return {"Hardware": "; ".join(machines), "Duration": duration}


def _energy(trainer):
    data = _emissions_data(trainer)
    if data is None:
        return "not measured"
    return f"{data.energy_consumed:.4g} kWh, {data.emissions:.4g} kg CO2 eq. (codecarbon's estimate for the last run)"


def _emissions_data(trainer):
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, CodeCarbonCallback) and each.tracker is not None:
            return getattr(each.tracker, "final_emissions_data", None)  # exists once the tracker has stopped
    return None


__all__ = ["TrainingRecord", "evaluation_facts", "hardware", "measured_emissions", "name_of", "training_facts"]
