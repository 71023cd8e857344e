"""Checks of shapes and types that the losses share."""

import torch


def floating(tensor, name, axes=None):
    """Checks axes and type; half precision goes up to float32, since a log-softmax in bfloat16 keeps 3 digits."""
    if not tensor.is_floating_point():
        raise ValueError(f"`{name}` must be a floating-point tensor, got {tensor.dtype}.")
    if axes is not None and (tensor.ndim != len(axes) or 0 in tensor.shape):
        raise ValueError(f"`{name}` must have shape ({', '.join(axes)}), none of them 0, got {tuple(tensor.shape)}.")
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_same_shape(first, first_name, second, second_name):
    """Raises a `ValueError` that names both tensors unless their shapes agree."""
    if first.shape != second.shape:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )


def check_mask(mask, name, shape):
    """Raises a `ValueError` unless `mask` is a boolean tensor of that shape."""
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"`{name}` must be a boolean tensor of shape {tuple(shape)}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )
