"""What a training logs beside the loss."""

import time

import torch
from transformers import TrainerCallback

from .distributed import sum_over_processes, world_size


class TrainingLog(TrainerCallback):
    """
    Sums up what [`RetrieverTrainer`] logs: the loss's terms, the scores' margin, and samples a second.

    Sums stay on the device until the Trainer logs; no step waits for a number. The clock stands still while the
    Trainer evaluates or saves.
    """

    def __init__(self):
        self._clear()

    def add(self, values, num_samples):
        """
        Add a batch.

        Args:
            values (`dict[str, torch.FloatTensor]`):
                Scalars, under the same names in each batch.
            num_samples (`int`):
                Rows of this process.
        """
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._batches += 1
        self._samples += num_samples

    def pop(self):
        """
        The means since the last call, over batches and processes, which all have to call this, and
        `samples_per_second` of all processes.

        Returns:
            `dict[str, float]`: Empty if there was no batch.
        """
        if self._batches == 0:
            return {}
        names = sorted(self._sums)
        logs = {"samples_per_second": round(self._samples * world_size() / max(self._seconds, 1e-9), 3)}
        if names:
            means = torch.stack([self._sums[name] for name in names]) / self._batches
            logs |= zip(names, (sum_over_processes(means) / world_size()).tolist(), strict=True)
        self._clear()
        return logs

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self._clear()
        self._mark = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Count the time since the last step's end, waiting for data included."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now

    def on_evaluate(self, args, state, control, **kwargs):
        """Leave out the time since the last step's end."""
        self._mark = time.perf_counter()

    on_save = on_evaluate

    def _clear(self):
        self._sums, self._batches, self._samples, self._seconds = {}, 0, 0, 0.0


__all__ = ["TrainingLog"]
