"""The processes of one launch."""

from contextlib import contextmanager

import torch.distributed as dist
from accelerate import PartialState


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


__all__ = ["process_group"]
