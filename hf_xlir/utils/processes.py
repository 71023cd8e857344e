"""The processes of one launch."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from accelerate import PartialState


LONGEST_WAIT = timedelta(days=30)  # torch waits ten minutes by default, and embedding takes days


@contextmanager
def process_group():
    """
    End the process group that is started inside, also after an error. Otherwise a process of `accelerate launch` can
    abort after its work is done. Without a group nothing happens. Also a decorator:

    ```python
    @process_group()
    def main(): ...
    ```
    """
    outer = dist.is_available() and dist.is_initialized()
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized() and not outer:
            PartialState().destroy_process_group()


class Processes:
    """The processes of `accelerate launch` or `torchrun`, or only this one. `device` is where the model is."""

    def __init__(self, device):
        if not dist.is_available():
            self.rank, self.count = 0, 1
            return
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            PartialState(cpu=device.type == "cpu")
        together = dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1

    @contextmanager
    def meeting(self):
        """Gives a barrier: a function that returns once all processes have called it."""
        if self.count == 1:
            yield lambda: None
            return
        group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        try:
            yield lambda: dist.barrier(group=group)
        finally:
            dist.destroy_process_group(group)

    def share(self, blocks):
        """This process's share of a range of blocks: contiguous, in the order of ranks, as equal as possible."""
        return blocks[len(blocks) * self.rank // self.count : len(blocks) * (self.rank + 1) // self.count]


__all__ = ["Processes", "process_group"]
