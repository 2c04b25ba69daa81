"""Products of matrices, linear algebra, transforms and attention."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .expressions import numbers
from .operators import Operator, of_product, of_weight

BATCHES = (numbers(2, 3, 8), numbers(3, 5, 8))


def heads(y: torch.Tensor, number: int = 2) -> torch.Tensor:
    return y.view(y.shape[0], y.shape[1], number, -1).transpose(1, 2)


def square(y: torch.Tensor) -> torch.Tensor:
    return y.transpose(1, 2) @ y + 9 * torch.eye(8)


OPERATORS: dict[str, Operator] = {
    name: of_product(function)
    for name, function in {
        "bmm": lambda y: torch.bmm(y, y.transpose(1, 2)),
        "baddbmm": lambda y: torch.baddbmm(
            y @ y.transpose(1, 2), y, y.transpose(1, 2), beta=0.5, alpha=2.0
        ),
        "baddbmm (beta 0)": lambda y: torch.baddbmm(
            y.new_zeros(1), y, y.transpose(1, 2), beta=0.0, alpha=2.0
        ),
        "addbmm": lambda y: torch.addbmm(y[0] @ y[0].T, y, y.transpose(1, 2)),
        "mm": lambda y: torch.mm(y[0], y[1].T),
        "mv": lambda y: torch.mv(y[0], y[0, 0]),
        "addmm": lambda y: torch.addmm(y[0], y[0], torch.eye(8)),
        "addmm (alpha, beta)": lambda y: torch.addmm(y[0], y[0], torch.eye(8), alpha=2, beta=3),
        "addmv": lambda y: torch.addmv(y[0, :, 0], y[0], y[0, 0]),
        "addr": lambda y: torch.addr(y[0], y[0, :, 0], y[0, 0]),
        "dot": lambda y: torch.dot(y[0, 0], y[0, 1]) * y,
        "inner": lambda y: torch.inner(y[0], y[1]),
        "outer": lambda y: torch.outer(y[0, 0], y[0, 1]),
        "kron": lambda y: torch.kron(y[0], y[0, :1]),
        "matmul (broadcast)": lambda y: y[:, None] @ y[:, None].transpose(-1, -2),
        "matmul (vector)": lambda y: y @ y[0, 0],
        "matmul (vector first)": lambda y: y[0, :, 0] @ y,
        "chain_matmul": lambda y: torch.linalg.multi_dot([y[0], y[0].T, y[0]]),
        "matrix_power": lambda y: torch.matrix_power(y @ y.transpose(1, 2), 2),
        "einsum bij,bkj->bik": lambda y: torch.einsum("bij,bkj->bik", y, y),
        "einsum bij,jk->bk": lambda y: torch.einsum("bij,jk->bk", y, torch.ones(8, 4)),
        "einsum ...i,...i->...": lambda y: torch.einsum("...i,...i->...", y, y),
        "einsum bhqd,bhkd->bhqk": lambda y: torch.einsum("bhqd,bhkd->bhqk", heads(y), heads(y)),
        "einsum bii->bi": lambda y: torch.einsum("bii->bi", y @ y.transpose(1, 2)),
        "einsum ij->": lambda y: torch.einsum("ij->", y[0]) * y,
        "einsum i,j->ij": lambda y: torch.einsum("i,j->ij", y[0, 0], y[0, 1]),
        "einsum of three": lambda y: torch.einsum("bi,bj,bk->ijk", y[:, 0], y[:, 1], y[:, 2]),
        "tensordot": lambda y: torch.tensordot(y, torch.ones(8, 3), 1),
        "tensordot (axes)": lambda y: torch.tensordot(y, y, ([0, 1], [0, 1])),
        "cross": lambda y: torch.linalg.cross(y[..., :3], y[..., 3:6]),
        "fft": lambda y: torch.view_as_real(torch.fft.fft(y)),
        "rfft": lambda y: torch.fft.rfft(y).abs(),
        "fft2 (real)": lambda y: torch.fft.fft2(y).real,
        "stft": lambda y: torch.stft(
            y.flatten(1), 8, 4, window=torch.ones(8), return_complex=True
        ).abs(),
        "inverse": lambda y: torch.inverse(square(y)),
        "det": lambda y: torch.det(square(y) / 9)[:, None, None] * y,
        "logdet": lambda y: torch.logdet(square(y)),
        "slogdet": lambda y: torch.linalg.slogdet(square(y))[1],
        "solve": lambda y: torch.linalg.solve(square(y), y.transpose(1, 2)),
        "cholesky": lambda y: torch.linalg.cholesky(square(y)),
        "qr": lambda y: torch.linalg.qr(square(y))[1],
        "svdvals": lambda y: torch.linalg.svdvals(y),
        "eigvalsh": lambda y: torch.linalg.eigvalsh(square(y)),
        "pinv": lambda y: torch.linalg.pinv(square(y)),
        "matrix_exp": lambda y: torch.linalg.matrix_exp(square(y) / 50),
        "triangular_solve": lambda y: torch.linalg.solve_triangular(
            square(y).tril(), y.transpose(1, 2), upper=False
        ),
        "attention": lambda y: F.scaled_dot_product_attention(y, y, y),
        "attention (heads)": lambda y: F.scaled_dot_product_attention(heads(y), heads(y), heads(y)),
        "attention (causal)": lambda y: F.scaled_dot_product_attention(y, y, y, is_causal=True),
        "attention (scale)": lambda y: F.scaled_dot_product_attention(y, y, y, scale=0.3),
        "attention (mask)": lambda y: F.scaled_dot_product_attention(
            y, y, y, attn_mask=(y @ y.transpose(1, 2)) > 0
        ),
        "attention (added mask)": lambda y: F.scaled_dot_product_attention(
            y, y, y, attn_mask=(y @ y.transpose(1, 2)) / 9
        ),
        "attention (row masked whole)": lambda y: F.scaled_dot_product_attention(
            y, y, y, attn_mask=torch.zeros(1, 1, 1, dtype=torch.bool)
        )
        + y,
        "attention (groups)": lambda y: F.scaled_dot_product_attention(
            torch.stack([y] * 4, 1), torch.stack([y] * 2, 1), torch.stack([y] * 2, 1),
            enable_gqa=True,
        ),
        "multi_head_attention": lambda y: F.multi_head_attention_forward(
            y, y, y, 8, 2, torch.ones(24, 8) / 8, None, None, None, False, 0.0, torch.eye(8), None
        )[0],
    }.items()
} | {
    "linear": of_weight(lambda w, x: F.linear(x, w, w[0]), (8, 8), *BATCHES),
    "linear (no bias)": of_weight(lambda w, x: F.linear(x, w), (8, 8), *BATCHES),
    "bilinear": of_weight(lambda w, x: F.bilinear(x, x, w), (3, 8, 8), *BATCHES),
    "weight norm": of_weight(lambda w, x: x @ (w / w.norm(dim=1, keepdim=True)), (8, 8), *BATCHES),
    "weight.detach": of_weight(lambda w, x: (x @ w) * (x @ w.detach()), (8, 8), *BATCHES),
    "tied weights": of_weight(lambda w, x: x @ w @ w.T, (8, 8), *BATCHES),
}  # fmt: skip
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "addbmm",
            "addmv",
            "addr",
            "inner",
            "chain_matmul",
            "matrix_power",
            "fft",
            "rfft",
            "fft2 (real)",
            "inverse",
            "slogdet",
            "solve",
            "cholesky",
            "qr",
            "svdvals",
            "eigvalsh",
            "pinv",
            "matrix_exp",
            "triangular_solve",
            "bilinear",
        ),
        "no ONNX form for the operator",
    ),
    "mv": "The input tensor cannot be reshaped",
    "dot": "shapes of the graph inconsistent",
    **dict.fromkeys(
        (
            "einsum bii->bi",
            "einsum ij->",
            "einsum of three",
            "outer",
            "tensordot",
            "tensordot (axes)",
            "det",
            "logdet",
        ),
        "no gradient for the operator",
    ),
    **dict.fromkeys(("einsum i,j->ij",), "without a common index"),
    **dict.fromkeys(("stft",), "torch.onnx.errors.SymbolicValueError: STFT does not curr"),
    **dict.fromkeys(
        ("attention (groups)",), "the exporter cannot export the operator scaled_dot_produ"
    ),
}
