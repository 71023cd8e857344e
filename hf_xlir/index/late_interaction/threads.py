"""Many small pieces of work on the threads that torch may use."""

from concurrent.futures import ThreadPoolExecutor

import torch


def map_in_threads(function, items):
    r"""
    Call a function of tensors for each of some items, as many at a time as torch has threads, each call on one thread:
    of many small operations that is faster than every operation on all threads, which wait for each other each time.

    Args:
        function (`Callable`):
            What to call.
        items (`Sequence`):
            Its arguments, one a call.

    Returns:
        `list`: What it returned, in the order of `items`.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.index.late_interaction.threads import map_in_threads

    >>> map_in_threads(lambda size: float(torch.ones(size).sum()), [1, 2, 3])
    [1.0, 2.0, 3.0]

    ```
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(items) < 2:
        return [function(item) for item in items]
    try:
        # The number of threads belongs to the thread that sets it; but threads begin with the number set last
        with ThreadPoolExecutor(
            min(num_threads, len(items)), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(num_threads)


__all__ = ["map_in_threads"]
