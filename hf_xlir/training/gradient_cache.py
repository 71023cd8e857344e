"""Gradient cache: batches whose activations do not fit into memory are encoded in chunks."""

from contextlib import nullcontext

import torch
from torch.utils.checkpoint import get_device_states, set_device_states

from ..models.modeling_retriever import RetrieverOutput


@torch.no_grad()
def encode_in_chunks(model, texts, chunk_size):
    """The output of a model for texts, without a gradient, `chunk_size` texts at a time (`None`: all at once)."""
    return _joined([model(**chunk) for chunk in _chunks(texts, chunk_size)])


def cached_backward(model, texts, chunk_size, loss_function, backward, no_sync=nullcontext):
    """
    Gradients of a loss over a whole batch, with the activations of one chunk in memory at a time (GradCache,
    https://huggingface.co/papers/2101.06983).

    First all texts are encoded without a gradient. The loss and its gradient with respect to the embeddings need no
    activations. Then each chunk is encoded again from the same random state, so that dropout drops the same units, and
    the gradient of its embeddings is propagated into the model. Up to the rounding of sums, the result equals encoding
    each chunk once and keeping all activations.

    Args:
        model (`torch.nn.Module`):
            The model in training mode, wrapped for distributed training or not.
        texts (`dict[str, dict]`):
            Inputs of the model by kind, such as `queries` and `documents`. Each is split along the first axis.
        chunk_size (`int`):
            Number of texts per chunk.
        loss_function (`Callable`):
            Takes the outputs by kind, `dict[str, RetrieverOutput]`, and returns a scalar. It may gather embeddings
            from all processes if all of them call this function.
        backward (`Callable`):
            Calls `backward` on a scalar, scaled by a `GradScaler` if one is in use, like `Accelerator.backward`.
        no_sync (`Callable`, *optional*):
            Makes a context in which gradients are not averaged over processes. They are averaged once, with the last
            chunk of each kind, so processes may have different numbers of chunks.

    Returns:
        `torch.FloatTensor`: The loss, without a gradient.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.models.modeling_retriever import RetrieverOutput
    >>> from hf_xlir.training.gradient_cache import cached_backward

    >>> linear = torch.nn.Linear(2, 1, bias=False)
    >>> texts = {"queries": {"input": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}}
    >>> loss = cached_backward(
    ...     model=lambda input: RetrieverOutput(linear(input)),
    ...     texts=texts,
    ...     chunk_size=2,
    ...     loss_function=lambda outputs: outputs["queries"].embeddings.sum(),
    ...     backward=torch.Tensor.backward,
    ... )
    >>> linear.weight.grad
    tensor([[ 9., 12.]])

    ```
    """
    chunks = {kind: _chunks(of_kind, chunk_size) for kind, of_kind in texts.items()}
    states, outputs = {}, {}
    with torch.no_grad(), no_sync():
        for kind, of_kind in chunks.items():
            states[kind], encoded = [], []
            for chunk in of_kind:
                states[kind].append(_random_state(chunk))
                encoded.append(model(**chunk))
            outputs[kind] = _joined(encoded)
    for output in outputs.values():
        output.embeddings.requires_grad_()
    loss = loss_function(outputs)
    loss.backward()

    steps, last_steps = [], []
    for kind, of_kind in chunks.items():
        gradients = outputs[kind].embeddings.grad.split(chunk_size)
        *others, last = zip(of_kind, states[kind], gradients, strict=True)
        steps += others
        last_steps.append(last)
    with no_sync():
        for step in steps:
            surrogate = _surrogate(model, *step)
            if surrogate.requires_grad:  # a frozen tower's does not
                backward(surrogate)
    # In one call, since DistributedDataParallel waits for every parameter, and each kind may have its own tower. The
    # same chunk comes last in both passes, which leaves the random state as if each chunk had been encoded once
    backward(sum(_surrogate(model, *step) for step in last_steps))
    return loss.detach()


def _surrogate(model, chunk, state, gradient):
    """A scalar whose gradient with respect to the chunk's embeddings is that of the loss."""
    _restore(state)
    return (model(**chunk).embeddings * gradient).sum()


def _random_state(chunk):
    """The state of the random generators on the CPU and on the chunk's devices."""
    devices, of_devices = get_device_states(*(value for value in chunk.values() if torch.is_tensor(value)))
    return torch.get_rng_state(), devices, of_devices


def _restore(state):
    torch.set_rng_state(state[0])
    set_device_states(*state[1:])


def _chunks(texts, chunk_size):
    """The texts in chunks. Values that are not tensors, such as the kind of text, are the same in each chunk."""
    number = next(len(value) for value in texts.values() if torch.is_tensor(value))
    size = chunk_size or number
    return [
        {name: value[start : start + size] if torch.is_tensor(value) else value for name, value in texts.items()}
        for start in range(0, number, size)
    ]


def _joined(outputs):
    mask = None if outputs[0].embedding_mask is None else torch.cat([output.embedding_mask for output in outputs])
    return RetrieverOutput(torch.cat([output.embeddings for output in outputs]), mask)


__all__ = ["cached_backward", "encode_in_chunks"]
