"""Communication between the processes of a training."""

import torch
import torch.distributed as dist


MAX_AXES = 8


def gather_with_gradient(tensor, pad_value=0):
    """
    Concatenates the tensors of all processes along the first axis, on every process, with their gradient.

    Each process receives the sum over processes of the gradients with respect to its part. If each process computes
    the mean loss of its own queries against the gathered documents, with equally many queries per process, the average
    of DistributedDataParallel is the gradient of one process on the whole batch, without a factor of the world size.

    The first axis may have a different length on each process. Further axes are padded with `pad_value` to the
    longest. All processes must call this with the same dtype and number of axes. Integers and booleans have no
    gradient. Without `torch.distributed`, or with one process, `tensor` is returned.
    """
    if not 1 <= tensor.ndim <= MAX_AXES:
        raise ValueError(f"`tensor` must have 1 to {MAX_AXES} axes, got {tensor.ndim}.")
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
    """The rank of this process; 0 without `torch.distributed`."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size():
    """The number of processes; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor):
    """The sum of a tensor over processes, on every process and without a gradient."""
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


class _AllGather(torch.autograd.Function):
    """Concatenation along the first axis, for equal shapes on all processes."""

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
        # A copy: gloo is wrong for gradients that are not contiguous, and autograd may still need the original
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.num_rows
        return gradient[first : first + ctx.num_rows]


def _shapes_of_all(tensor):
    """The shapes on all processes, `(num_processes, ndim)` on the CPU."""
    room = [0] * (MAX_AXES - tensor.ndim)
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
