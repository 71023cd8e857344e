"""Gathering embeddings from all processes, with their gradient."""

import torch
import torch.distributed as dist


MOST_AXES = 8


def gather_with_gradient(tensor, pad_value=0):
    r"""
    The tensors of all processes, one after another along the first axis, on every process.

    The gradient is exact: each process receives the sum over processes of the gradients with respect to its part.
    Where every process computes the mean loss of its own queries against the gathered documents, with equally many
    queries on each, or all of them the loss of the whole batch, DistributedDataParallel's average over processes is
    then the gradient that one process would get on the whole batch. No factor of the number of processes is needed.

    Processes may hold different shapes: rows are joined whatever their number, and further axes, such as the length
    of token embeddings, are padded to the longest. Every process must call it, with the same type and number of axes.

    Args:
        tensor (`torch.Tensor` of shape `(num_rows, ...)`):
            This process's part. Integers and booleans are gathered, too, without a gradient.
        pad_value (`float`, *optional*, defaults to 0):
            Fills the end of axes after the first where another process has more.

    Returns:
        `torch.Tensor` of shape `(sum of num_rows, ...)`; `tensor` itself where `torch.distributed` is not initialised
        or there is one process.

    Raises:
        ValueError: If `tensor` is a scalar, or processes disagree in the number of axes.

    Example:
    ```python
    >>> from hf_xlir.training.distributed import gather_with_gradient

    >>> documents = gather_with_gradient(documents)  # doctest: +SKIP
    >>> scores = queries @ documents.T  # own queries, everybody's documents  # doctest: +SKIP

    ```
    """
    if not 1 <= tensor.ndim <= MOST_AXES:
        raise ValueError(f"`tensor` must have 1 to {MOST_AXES} axes, got {tensor.ndim}. Give a scalar an axis first.")
    if world_size() == 1:
        return tensor
    shapes = _shapes_of_all(tensor)  # (num_processes, ndim)
    most = shapes.amax(dim=0)
    padded = _pad(tensor, most.tolist(), pad_value)
    gathered = _AllGather.apply(padded)  # (num_processes * most rows, ...)
    num_rows = shapes[:, 0]
    if (num_rows == most[0]).all():
        return gathered
    kept = torch.arange(int(most[0])) < num_rows[:, None]
    return gathered[kept.flatten().to(gathered.device)]


def process_index():
    """The rank of this process; 0 where `torch.distributed` is not initialised."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size():
    """The number of processes; 1 where `torch.distributed` is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor):
    """
    The sum of the processes' tensors, on every process and without a gradient.

    Args:
        tensor (`torch.Tensor`):
            This process's part, of the same shape and type everywhere. It is not changed.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.distributed import sum_over_processes

    >>> sum_over_processes(torch.tensor([2, 3]))  # one process
    tensor([2, 3])

    ```
    """
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


class _AllGather(torch.autograd.Function):
    """Concatenates along the first axis; every process has the same shape."""

    @staticmethod
    def forward(ctx, tensor):
        ctx.num_rows = len(tensor)
        tensor = tensor.contiguous()
        sent = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
        parts = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, sent)
        return torch.cat(parts).view(tensor.dtype)

    @staticmethod
    def backward(ctx, gradient):
        # gloo is wrong for a gradient that is not contiguous; the sum is in place, and autograd may still need its own
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.num_rows
        return gradient[first : first + ctx.num_rows]


def _shapes_of_all(tensor):
    """Shapes on all processes, `(num_processes, ndim)` on the CPU."""
    room = [0] * (MOST_AXES - tensor.ndim)
    own = torch.tensor([tensor.ndim, *tensor.shape, *room], device=tensor.device)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    gathered = torch.stack(gathered).cpu()
    num_axes = gathered[:, 0].tolist()
    if len(set(num_axes)) > 1:
        raise ValueError(f"`tensor` must have the same number of axes on every process, got {num_axes} by rank.")
    return gathered[:, 1 : 1 + tensor.ndim]


def _pad(tensor, shape, value):
    missing = [target - size for target, size in zip(shape, tensor.shape, strict=True)]
    if not any(missing):
        return tensor
    return torch.nn.functional.pad(tensor, [n for extra in reversed(missing) for n in (0, extra)], value=value)


__all__ = ["gather_with_gradient", "process_index", "sum_over_processes", "world_size"]
