"""How long a training took and on what, interruptions included."""

import json
import platform
import time
from pathlib import Path

import torch

from .checkpoints import CheckpointedCallback


RECORD = "training_record.json"


class TrainingRecord(CheckpointedCallback):
    """
    Keeps the runs that a training consists of: its checkpoints carry those before them.

    `runs` are dictionaries of `first_step`, `last_step`, `seconds` (evaluation and saving included), `processes` and
    `hardware`, of those that took a step. Steps that no run has were not recorded, such as those of another trainer.
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
        """Read the runs before a checkpoint; another trainer's has none."""
        self._finished, self._run = [], None
        if folder is not None and Path(folder, RECORD).exists():
            self._finished = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))


def hardware(device):
    """What a device is: the name of a GPU, or of the CPU with the threads that torch uses."""
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


__all__ = ["TrainingRecord", "hardware"]
