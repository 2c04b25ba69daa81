"""Operators that move elements, join and cut tensors, and make new ones."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .operators import Operator, of_images, of_product

OPERATORS: dict[str, Operator] = {
    name: of_product(function)
    for name, function in {
        "cat": lambda y: torch.cat([y, y * 2], 1),
        "cat (with nothing)": lambda y: torch.cat([y[:, :0], y], 1),
        "stack": lambda y: torch.stack([y, y * 2], 1),
        "hstack": lambda y: torch.hstack([y, y * 2]),
        "vstack": lambda y: torch.vstack([y, y * 2]),
        "dstack": lambda y: torch.dstack([y, y * 2]),
        "column_stack": lambda y: torch.column_stack([y[0], y[1]]),
        "block_diag": lambda y: torch.block_diag(y[0], y[1]),
        "split": lambda y: torch.split(y, 3, -1)[2],
        "split (sizes)": lambda y: torch.split(y, [1, 3, 4], -1)[1],
        "split (of a length)": lambda y: torch.split(y, 2, 1)[0],
        "chunk": lambda y: y.chunk(2, -1)[1],
        "chunk (uneven)": lambda y: y.chunk(3, -1)[2],
        "unbind": lambda y: y.unbind(-1)[3],
        "unbind (of a length)": lambda y: y.unbind(1)[0],
        "tensor_split": lambda y: torch.tensor_split(y, 3, -1)[1],
        "tensor_split (of a length)": lambda y: torch.cat(torch.tensor_split(y, 2, 1)[::-1], 1),
        "tensor_split (places)": lambda y: torch.tensor_split(y, (1, -2), -1)[1],
        "tensor_split (places in a length)": lambda y: torch.tensor_split(y, (1, 2), 1)[2],
        "hsplit": lambda y: torch.hsplit(y[0].T, 2)[0] if y.shape[1] % 2 == 0 else y,
        "flip": lambda y: y.flip(1),
        "flip (axes)": lambda y: y.flip(0, 2),
        "fliplr": torch.fliplr,
        "roll": lambda y: y.roll(1, 1),
        "roll (back)": lambda y: y.roll(-2, 1),
        "roll (axes)": lambda y: y.roll((1, 2), (1, 2)),
        "roll (all)": lambda y: y.roll(3),
        "roll (beyond the size)": lambda y: y.roll((4, -11), (1, 2)),
        "rot90": lambda y: y.rot90(1, (1, 2)),
        "repeat": lambda y: y.repeat(1, 2, 1),
        "repeat_interleave": lambda y: y.repeat_interleave(2, 1),
        "repeat_interleave (numbers)": lambda y: y.repeat_interleave(torch.tensor([1, 2] * 4), -1),
        "repeat_interleave (computed numbers)": lambda y: y.repeat_interleave(
            (y.detach()[0, 0] > 0).long() + 1, -1
        ),
        "repeat_interleave (of all, some never)": lambda y: y.repeat_interleave(
            (y.detach().flatten() > 0).long()
        ),
        "tile": lambda y: y.tile(2),
        "expand": lambda y: y[:, None].expand(-1, 4, -1, -1),
        "expand_as": lambda y: y[:, :1].expand_as(y),
        "broadcast_to": lambda y: y[:, :1].broadcast_to(y.shape),
        "broadcast_tensors": lambda y: torch.broadcast_tensors(y[:, :1], y)[0],
        "permute": lambda y: y.permute(2, 0, 1),
        "movedim": lambda y: y.movedim(0, -1),
        "transpose": lambda y: y.transpose(0, 1),
        "swapaxes": lambda y: y.swapaxes(0, 1),
        "T": lambda y: y[0].T,
        "mT": lambda y: y.mT,
        "adjoint": lambda y: y.adjoint(),
        "flatten": lambda y: y.flatten(1)[:, :20],
        "ravel": lambda y: y.ravel(),
        "unflatten": lambda y: y.unflatten(-1, (2, 4)),
        "squeeze": lambda y: y[:, :1].squeeze(1),
        "squeeze (every axis)": lambda y: y[:, :1, None].squeeze(),
        "unsqueeze": lambda y: y.unsqueeze(-2),
        "view": lambda y: y.view(y.shape[0], -1, 4),
        "view_as": lambda y: y.view_as(y * 2),
        "reshape": lambda y: y.reshape(-1, 2, 4),
        "reshape (merged)": lambda y: y.reshape(y.shape[0] * y.shape[1], 8),
        "contiguous": lambda y: y.transpose(1, 2).contiguous().view(y.shape[0], -1),
        "narrow": lambda y: y.narrow(1, 1, 2),
        "select": lambda y: y.select(1, -1),
        "x[:, ::2]": lambda y: y[:, ::2],
        "x[..., -3:-1]": lambda y: y[..., -3:-1],
        "x[:, :-1]": lambda y: y[:, :-1],
        "x[None, ..., 0]": lambda y: y[None, ..., 0],
        "x[:, :, None] + x[:, None]": lambda y: y[:, :, None] + y[:, None],
        "as_strided": lambda y: y.contiguous().as_strided((2, 3), (8, 1)),
        "Tensor.unfold": lambda y: y.unfold(-1, 3, 2),
        "meshgrid": lambda y: torch.meshgrid(y[0, 0], y[0, 1], indexing="ij")[0],
        "meshgrid (xy)": lambda y: torch.meshgrid(y[0, 0], y[0, 1], indexing="xy")[1],
        "cartesian_prod": lambda y: torch.cartesian_prod(y[0, 0], y[0, 1]),
        "combinations": lambda y: torch.combinations(y[0, 0]),
        "atleast_3d": lambda y: torch.atleast_3d(y[0]),
        "arange": lambda y: y * torch.arange(y.shape[1])[None, :, None],
        "arange (step)": lambda y: y * torch.arange(0, 8, 2).repeat(2),
        "arange (float)": lambda y: y * torch.arange(0.0, 1.0, 0.125),
        "linspace": lambda y: y * torch.linspace(0, 1, 8),
        "linspace (of a length)": lambda y: y * torch.linspace(0, 1, y.shape[1])[:, None],
        "eye": lambda y: y @ torch.eye(8)[:, :3],
        "full": lambda y: y * torch.full((y.shape[0], 1, 8), 0.3),
        "full_like": lambda y: y * torch.full_like(y, 0.3),
        "new_tensor": lambda y: y * y.new_tensor([0.3]),
        "new_zeros": lambda y: torch.cat([y.new_zeros(y.shape[0], 1, 8), y], 1),
        "numel": lambda y: y / y.numel(),
        "size as a number": lambda y: y * (y.shape[1] / 7),
        "size in sqrt": lambda y: y / y.size(1) ** 0.5,
        "pad": lambda y: F.pad(y, (1, 2)),
        "pad (two axes)": lambda y: F.pad(y, (1, 2, 0, 1)),
        "pad (cut)": lambda y: F.pad(y, (-1, 2)),
        "pad (value)": lambda y: F.pad(y, (1, 2), value=3.0),
        "pad (of a length)": lambda y: F.pad(y, (0, 0, 0, 9 - y.shape[1])),
        "pad (reflect)": lambda y: F.pad(y, (1, 2), mode="reflect"),
        "pad (replicate)": lambda y: F.pad(y, (1, 2), mode="replicate"),
        "pad (circular)": lambda y: F.pad(y, (1, 2), mode="circular"),
    }.items()
} | {
    name: of_images(function)
    for name, function in {
        "part of a product": lambda x: x.unbind(-1)[1],
        "small part of a product": lambda x: x.split([1, 3], 1)[0],
        "half of a norm": lambda x: F.layer_norm(x.transpose(1, 3), (4,)).chunk(2, -1)[0],
        "part chosen by another": lambda x: (
            x.chunk(2, 1)[0] * x.chunk(2, 1)[1].argmax(1, keepdim=True)
        ),
        "part beside a detached one": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].detach(),
        "parts, all used": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
        "pad 2-D (reflect)": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
        "pad 2-D (replicate)": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
        "pad 2-D (circular)": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
        "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
        "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
        "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
        "windows": lambda x: x.view(x.shape[0], 4, x.shape[2] // 2, 2, x.shape[3] // 2, 2).permute(
            0, 2, 4, 3, 5, 1
        ),
        "functional.unfold": lambda x: F.unfold(x, 2),
        "functional.unfold (padding)": lambda x: F.unfold(x, 3, padding=1, stride=2),
        "functional.fold": lambda x: F.fold(F.unfold(x, 2), x.shape[2:], 2),
    }.items()
}
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "dstack",
            "column_stack",
            "block_diag",
            "fliplr",
            "rot90",
            "mT",
            "adjoint",
            "ravel",
            "cartesian_prod",
            "combinations",
            "channel_shuffle",
            "functional.fold",
        ),
        "no ONNX form for the operator",
    ),
    **dict.fromkeys(
        ("tile",),
        "cannot infer the shapes of the operator Expand",
    ),
    **dict.fromkeys(
        ("linspace (of a length)",), "the exporter cannot export the operator linspace: a numb"
    ),
    **dict.fromkeys(
        (
            "pad (reflect)",
            "pad (replicate)",
            "pad 2-D (reflect)",
            "pad 2-D (replicate)",
        ),
        "onnxruntime",
    ),
    **dict.fromkeys(("pixel_shuffle",), "no gradient for the operator"),
}
