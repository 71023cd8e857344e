"""Levels of a few bits as bytes, and back: pure tensors."""

import torch


def pack(levels, nbits):
    r"""
    Levels as bytes; [`unpack`] is the reverse.

    A byte holds the same field of dimensions that lie far apart, so that unpacking is a shift and a mask of whole
    rows. Three bits are two bytes' planes: the lower two bits, then the highest.

    Args:
        levels (`torch.Tensor` of shape `(num_tokens, rotated_dim)`):
            Whole numbers, from 0 or, at 8 bits, from -128.
        nbits (`int`):
            Bits a dimension.

    Returns:
        `torch.ByteTensor` of shape `(num_tokens, rotated_dim * nbits / 8)`.
    """
    if nbits == 8:
        return levels.to(torch.int8).view(torch.uint8)
    levels = levels.to(torch.uint8)
    if nbits == 3:
        return torch.cat([_pack_plane(levels & 3, 2), _pack_plane(levels >> 2, 1)], dim=1)
    return _pack_plane(levels, nbits)


def unpack(codes, nbits):
    r"""Levels from bytes, int8 of shape `(num_tokens, rotated_dim)`."""
    if nbits == 8:
        return codes.view(torch.int8)
    if nbits != 3:
        return _unpack_plane(codes, nbits).view(torch.int8)
    lower, upper = codes.split([codes.shape[1] * 2 // 3, codes.shape[1] // 3], dim=1)
    return _unpack_plane(lower, 2).bitwise_or_(_unpack_plane(upper, 1) << 2).view(torch.int8)


def _pack_plane(levels, width):
    fields = levels.chunk(8 // width, dim=1)
    codes = fields[0].clone()
    for position, field in enumerate(fields[1:], 1):
        codes |= field << (width * position)
    return codes


def _unpack_plane(codes, width):
    num_bytes, mask = codes.shape[1], 2**width - 1
    if not (num_bytes % 4 or codes.stride(0) % 4 or codes.storage_offset() % 4):
        # Processors shift words faster than bytes; what a shift brings in from the next byte is masked
        codes, mask = codes.view(torch.int32), mask * 0x01010101
    fields = codes.new_empty(len(codes), 8 // width * codes.shape[1])
    for position, field in enumerate(fields.split(codes.shape[1], dim=1)):
        torch.bitwise_right_shift(codes, width * position, out=field)
    return fields.bitwise_and_(mask).view(torch.uint8)


__all__ = ["pack", "unpack"]
