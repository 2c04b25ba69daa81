"""What breaks when a patch or a symbolic is off. Run as a script, it tries each and tells.

A patch needs an entry in `PATCHES_NEEDED`, a symbolic in `SYMBOLICS_NEEDED`, a gradient in
`GRADIENTS_NEEDED`. Each is tried twice in a process of its own (a fork, so that it costs little):
with everything on it must hold, with that one off it must fail.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from model_needs import DRAWS_NEEDED, MODELS_NEEDED
from models.expressions import Expression, fused, numbers, same_as_pytorch
from operator_needs import OPERATORS_NEEDED
from reading_needs import READING_NEEDED
from torch import nn
from torch.nn import functional

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import patches

HELD = "held"


# --- patches -------------------------------------------------------------------------------------


def trains() -> None:
    same_as_pytorch(lambda w, x: torch.tanh(x @ w), (3, 4), numbers(2, 3))


def trains_an_embedding() -> None:
    same_as_pytorch(lambda w, x: functional.embedding(x, w), (5, 4), torch.tensor([[1, 2, 0]]))


def leaves_torch_alone() -> None:
    before = (torch.manual_seed, torch.cuda.manual_seed)
    patches.start()
    assert (torch.manual_seed, torch.cuda.manual_seed) == before, "torch.manual_seed is another"


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).sum()


def computes_no_gradient_of_frozen_parameters() -> None:
    from acpt_trainer.ort.forward import attach

    model = Frozen()
    forward = attach(model)
    model(numbers(2, 3)).backward()
    assert model.head.weight.grad is not None
    assert model.body.weight.grad is None
    (graph,) = forward.graphs.values()
    manager = graph.module._torch_module._execution_manager(True)
    computed = [output.name for output in manager._onnx_models.optimized_model.graph.output]
    frozen = [name for name in computed if "body" in name]
    assert not frozen, f"gradients of frozen parameters are computed: {frozen}"


def shares_threads() -> None:
    from acpt_trainer.ort.forward import attach

    model = Frozen()
    forward = attach(model)
    model(numbers(2, 3))
    (graph,) = forward.graphs.values()
    options = graph.module._torch_module._execution_manager(True)._get_session_config()[0]
    threads = options.intra_op_num_threads
    assert threads == torch.get_num_threads(), f"the session has {threads} threads"


def stops_where_the_export_fails() -> None:
    from acpt_trainer.ort.forward import attach

    model = Expression(lambda w, x: torch.linalg.svdvals(x @ w).sum(), 3, 3)
    attach(model)
    try:
        model(numbers(3, 3))
    except GraphBuildError:
        return
    raise AssertionError("the step was run in PyTorch")


class Tripled(torch.autograd.Function):
    """On purpose not the derivative of its forward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 3 * grad


def is_exact_or_refuses_custom_functions() -> None:
    try:
        same_as_pytorch(lambda w, x: Tripled.apply(x @ w), (3, 4), numbers(2, 3))
    except GraphBuildError as error:
        if "Tripled" not in str(error):
            raise


def runs_the_model_once() -> None:
    from torch._subclasses.fake_tensor import FakeTensor

    runs = []

    def counted(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        runs.append(not isinstance(x, FakeTensor))
        return x @ w

    same_as_pytorch(counted, (3, 4), numbers(2, 3))
    # Once to trace it, and once by the reference.
    assert sum(runs) == 2, f"the model was run {sum(runs) - 1} times with data"


def takes_an_export_from_the_cache() -> None:
    from acpt_trainer.ort.cache import ExportCache
    from acpt_trainer.ort.forward import attach

    with tempfile.TemporaryDirectory() as folder:
        for expected in ("miss", "hit"):
            model = Frozen()
            forward = attach(model, cache=ExportCache(folder))
            model(numbers(2, 3)).backward()
            (graph,) = forward.graphs.values()
            assert graph.cache_use == expected, f"not a {expected}"


def gives_unused_parts_no_gradient() -> None:
    same_as_pytorch(lambda w, x: (w * x).unbind(-1)[1], (4, 6), numbers(4, 6))


def builds_one_session() -> None:
    patches.start()
    from onnxruntime.training.ortmodule import _training_manager

    agent, built = _training_manager.TrainingAgent, []
    _training_manager.TrainingAgent = lambda *a, **k: built.append(1) or agent(*a, **k)
    trains()
    assert len(built) == 1, f"{len(built)} sessions were built"


def follows_autograd() -> None:
    computes_no_gradient_of_frozen_parameters()

    def product(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weights = x @ w
        return weights * (x @ w)

    same_as_pytorch(product, (3, 4), numbers(2, 3))


def ends_gradients_at_cuts() -> None:
    # Behind the cut there are a norm, which has no gradient, and the infinite slope of a root.
    same_as_pytorch(
        lambda w, x: (x @ w) / (1 + torch.linalg.norm(w, dim=0) + (w[0] * 0).sqrt()).detach(),
        (3, 4),
        numbers(2, 3),
    )


def recomputes_with_the_masks_of_the_forward() -> None:
    """After a forward without its backward, recompute must still know the forward's masks."""
    from acpt_trainer.ort.forward import attach

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.layer = nn.LayerNorm(16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = x + functional.dropout(functional.gelu(self.layer(self.norm(x))), 0.5)
            return self.norm(x).pow(3).sum()

    gradients = []
    for level in (0, 1):
        model = Block()
        forward = attach(model, recompute=level)
        model(numbers(4, 16))
        torch.manual_seed(7)
        model(numbers(4, 16)).backward()
        assert all((g.recompute is not None) == bool(level) for g in forward.graphs.values())
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def refuses_checkpoints_that_would_be_lost() -> None:
    from torch.utils.checkpoint import checkpoint

    try:
        same_as_pytorch(
            lambda w, x: checkpoint(torch.tanh, x @ w, use_reentrant=False), (3, 4), numbers(2, 3)
        )
    except GraphBuildError as error:
        if "torch.utils.checkpoint" not in str(error):
            raise
    else:
        raise AssertionError("the checkpoint was lost without a word")


class Mixed(nn.Module):
    """A frozen encoder in eval mode below a head that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).sum()


def leaves_submodules_in_their_modes() -> None:
    from acpt_trainer.ort.forward import attach

    model = Mixed()
    expected = model(numbers(2, 3))
    attach(model)
    torch.testing.assert_close(model(numbers(2, 3)), expected)
    assert not model.body.training, "a submodule was put into training mode"


def refuses_a_second_backward() -> None:
    from acpt_trainer.ort.forward import attach

    model = Frozen()
    attach(model)
    loss = model(numbers(2, 3))
    loss.backward(retain_graph=True)
    try:
        loss.backward()
    except GraphBuildError:
        return
    raise AssertionError("a second backward pass ran")


def slices_behind_a_bias() -> None:
    same_as_pytorch(lambda w, x: (x @ w + w[0])[..., :2], (4, 6), numbers(2, 3, 4))


@dataclass(frozen=True)
class Need:
    """Holds with every patch on; without the patch it fails, and `symptom` is in the failure."""

    scenario: Callable[[], None]
    symptom: str


PATCHES_NEEDED: dict[str, Need] = {
    "exporter-aliases": Need(trains, "cannot import name 'jit_utils'"),
    "extensions-on-demand": Need(trains, "torch_interop_utils"),
    "contained-import": Need(leaves_torch_alone, "torch.manual_seed is another"),
    "no-nvtx": Need(trains, "NVTX functions not installed"),
    "shared-threads": Need(shares_threads, "the session has 0 threads"),
    "torchscript-exporter": Need(trains, "GraphBuildError"),
    "submodule-modes": Need(leaves_submodules_in_their_modes, "AssertionError"),
    # The step was run in PyTorch: there is no graph to look at.
    "no-fallback": Need(stops_where_the_export_fails, "'NoneType' object has no attribute"),
    "symbolics": Need(trains_an_embedding, "GraphBuildError"),
    "told-outputs": Need(runs_the_model_once, "the model was run 2 times with data"),
    "export-cache": Need(takes_an_export_from_the_cache, "not a hit"),
    "kept-promises": Need(refuses_a_second_backward, "has no attribute 'state'"),
    "split-gradients": Need(gives_unused_parts_no_gradient, "are not close"),
    "no-moved-slices": Need(slices_behind_a_bias, "UpdateSliceOutputShape"),
    "no-memory-probe": Need(builds_one_session, "2 sessions were built"),
    "gradient-flow": Need(follows_autograd, "does not require grad"),
    "gradient-cuts": Need(ends_gradients_at_cuts, "no gradient for the operator Shrink"),
    "shared-stream": Need(trains, "not needed without a GPU"),
    "no-repeated-dropout": Need(recomputes_with_the_masks_of_the_forward, "are not close"),
    "no-lost-checkpoints": Need(refuses_checkpoints_that_would_be_lost, "was lost without a word"),
    "no-inlined-functions": Need(is_exact_or_refuses_custom_functions, "Tensor-likes are not"),
    **{name: Need(*need) for name, need in {**MODELS_NEEDED, **READING_NEEDED}.items()},
}

# --- symbolics -----------------------------------------------------------------------------------

# By the operator's name without its domain.
SYMBOLICS_NEEDED: dict[str, Callable[[], None]] = {}


def needs(
    name: str, shape: Sequence[int] = (4, 6), inputs: Sequence[torch.Tensor] | None = None
) -> Callable[..., Any]:
    """Enters an expression of a weight of this shape that needs the symbolic of this name."""

    def enter(expression: Callable[..., Any]) -> Callable[..., Any]:
        given = [numbers(2, 4)] if inputs is None else inputs
        assert name not in SYMBOLICS_NEEDED, name
        SYMBOLICS_NEEDED[name] = lambda: same_as_pytorch(expression, shape, *given)
        return expression

    return enter


IMAGE = [numbers(2, 4, 6, 6)]
IDS = [torch.tensor([[1, 2, 0]])]


@needs("scaled_dot_product_attention", (4, 4), [numbers(2, 3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # Dropout needs its second output; at so small a rate nothing is dropped.
    return functional.scaled_dot_product_attention(x @ w, x, x, dropout_p=1e-12)


@needs("batch_norm", (4, 6))
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(x @ w, torch.arange(6.0), torch.full((6,), 2.0), w[0], w[1])


@needs("where")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(x[:, :, None] > 0, w[0], w[:, :1])


@needs("embedding", (5, 4), IDS)
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.embedding(x, w, padding_idx=0)


@needs("ConstantChunk", (4, 8), [numbers(2, 4), numbers(3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    first, second, rest = (x @ w).chunk(3, -1)  # of 3, 3 and 2
    return first * second + functional.pad(rest, (0, 1))


@needs("detach")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).detach() * (x @ w)


@needs("diff")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.diff(x @ w, dim=-1)


@needs("cumsum")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x > 0).cumsum(-1).float() @ w


@needs("argmax")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ w * (x @ w).argmax(-1, keepdim=True)


@needs("group_norm", (4,), [numbers(2, 4, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.group_norm(x, 2, w, w)


@needs("max")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    return y.max(-1).values[:, None] * y + y.max()


@needs("min")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    return y.min(-1).values[:, None] * y + y.min()


# The exporter's own form of these has no gradient: they hold on what is not trained.


@needs("upsample_nearest1d", (1,), [numbers(2, 4, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2) * w


@needs("upsample_nearest2d", (1,), IMAGE)
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2) * w


@needs("upsample_nearest3d", (1,), [numbers(1, 2, 4, 6, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2) * w


@needs("upsample_bicubic2d", (1,), IMAGE)
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bicubic") * w


@needs("index_put", (4,), [numbers(3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y[x[:, 0] < x[:, 0].max()] = w
    return y


@needs("instance_norm", (4,), [numbers(2, 4, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.instance_norm(x, weight=w, bias=w)


@needs("diagonal")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x.transpose(0, 1) @ (x @ w)).diagonal(0, 0, 1)


@needs("bitwise_or")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ w * ((x > 0).bitwise_or(x < -1)).float()[:, :1]


@needs("unfold")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).unfold(-1, 3, 2)


@needs("unflatten")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).unflatten(-1, (2, 3))


for _name in ("mish", "elu", "celu", "selu"):
    needs(_name)(lambda w, x, name=_name: getattr(functional, name)(3 * x @ w))


@needs("flip", (4, 6), [numbers(2, 4), numbers(3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).flip(0, 1)


@needs("index_add")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(2, 3).index_add(1, torch.tensor([0, 1, 1, 2, 0, 1]), x @ w)


def pools(name: str, pool: Callable[..., Any], *shape: int) -> None:
    needs(name, (6, 6), [numbers(*shape), numbers(*shape)[:1]])(lambda w, x: pool(x @ w))


pools("avg_pool1d", lambda x: functional.avg_pool1d(x, 3, 2, 1), 2, 4, 6)
pools("avg_pool2d", lambda x: functional.avg_pool2d(x, 2), 2, 4, 6, 6)
pools("avg_pool3d", lambda x: functional.avg_pool3d(x, 2), 2, 4, 6, 6, 6)
pools("max_pool1d", lambda x: functional.max_pool1d(x, 3, 2, 1), 2, 4, 6)
pools("max_pool2d", lambda x: functional.max_pool2d(x, 2), 2, 4, 6, 6)
pools("max_pool3d", lambda x: functional.max_pool3d(x, 2), 2, 4, 6, 6, 6)


def pools_to(kind: str, shape: tuple[int, ...], size: Any) -> None:
    """Of axes whose sizes are known: those of the weight."""
    name = f"adaptive_{kind}_pool{len(shape)}d"
    pool = getattr(functional, name)
    needs(name, shape, [numbers(2, 4), numbers(3, 5)])(
        lambda w, x: pool(torch.tanh(x.view(*x.shape, *[1] * w.dim()) * w), size)
    )


for _kind in ("avg", "max"):
    pools_to(_kind, (6,), 3)
    pools_to(_kind, (2, 3), (2, 1))
    pools_to(_kind, (1, 2, 3), (1, 2, 1))


def with_indices(pool: Callable[..., Any]) -> Callable[..., Any]:
    def pooled(x: torch.Tensor) -> torch.Tensor:
        values, indices = pool(x)
        return values * (1 + indices)

    return pooled


pools(
    "max_pool1d_with_indices",
    with_indices(lambda x: functional.max_pool1d(x, 3, 2, 1, return_indices=True)),
    2, 4, 6,
)  # fmt: skip
pools(
    "max_pool2d_with_indices",
    with_indices(lambda x: functional.max_pool2d(x, 2, return_indices=True)),
    2, 4, 6, 6,
)  # fmt: skip
pools(
    "max_pool3d_with_indices",
    with_indices(lambda x: functional.max_pool3d(x, 2, return_indices=True)),
    2, 4, 6, 6, 6,
)  # fmt: skip

# --- functions of elements, extremes, repetition, normalization ---


def needs_each(**expressions: Callable[..., Any]) -> None:
    """Enters expressions of a matrix product, by the symbolic that they need."""
    for name, expression in expressions.items():
        needs(name)(lambda w, x, f=expression: f(x @ w) + x @ w)


needs_each(
    pow=lambda y: 2.0**y,
    # At zero its gradient is a half.
    softplus=lambda y: functional.softplus(y, beta=2.0) + functional.softplus(y - y.detach()),
    hardsigmoid=functional.hardsigmoid,
    hardswish=functional.hardswish,
    expm1=torch.expm1,
    amax=lambda y: y.amax(-1, keepdim=True),
    amin=lambda y: y.amin((0, 1)),
    layer_norm=lambda y: functional.layer_norm(y, (6,)),
    log_softmax=lambda y: y.log_softmax(0),
    rms_norm=lambda y: functional.rms_norm(y, (6,), torch.ones(6) * 2),
    linalg_norm=lambda y: torch.linalg.norm(y, dim=0),
    kron=lambda y: torch.kron(y, y[:1])[:, :6],
    eye=lambda y: y * torch.eye(*y.size(), out=torch.empty_like(y)),
)


@needs("repeat_interleave", (4, 6), [numbers(2, 4), numbers(3, 5)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # Rotary positions: the exporter's own holds where the axis is of a size that it can tell.
    positions = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)[:, None, :].float()
    scales = w[None, :, :1].expand(x.shape[0], -1, 1)
    return (scales @ positions).transpose(1, 2).repeat_interleave(2, dim=-1)


def convolves_within_its_memory(padding: int | str) -> None:
    """ONNX Runtime's memory arena hides that its gradient writes out of bounds: without it."""
    from onnxruntime.training.ortmodule._graph_execution_manager import GraphExecutionManager

    session_config = GraphExecutionManager._get_session_config

    def without_arena(self: Any) -> Any:
        options, *rest = session_config(self)
        options.enable_cpu_mem_arena = False
        return options, *rest

    GraphExecutionManager._get_session_config = without_arena
    same_as_pytorch(
        lambda w, x: functional.conv1d(x * w[0, 0, 0], w, padding=padding, groups=8),
        (8, 1, 3),
        numbers(2, 8, 10),
    )


SYMBOLICS_NEEDED |= DRAWS_NEEDED | OPERATORS_NEEDED
SYMBOLICS_NEEDED["_convolution"] = partial(convolves_within_its_memory, 1)
SYMBOLICS_NEEDED["_convolution_mode"] = partial(convolves_within_its_memory, "same")
SYMBOLICS_NEEDED["gelu"] = partial(
    fused, "FastGelu", True, lambda w, x: functional.gelu(x @ w, approximate="tanh")
)

# --- gradients -----------------------------------------------------------------------------------

# By the key of ORTModule's gradient registry.
GRADIENTS_NEEDED: dict[str, Callable[[], None]] = {
    "::CumSum": partial(same_as_pytorch, lambda w, x: (x @ w).cumsum(0), (4, 6), numbers(2, 4)),
    **{
        f"::{name.capitalize()}": partial(
            same_as_pytorch,
            lambda w, x, name=name: x @ w * getattr(torch, name)(x @ w),
            (4, 6),
            numbers(2, 4),
        )
        for name in ("sign", "floor", "ceil", "round")
    },
    # Right without it, and slow.
    "com.microsoft::FastGelu": partial(
        fused, "FastGeluGrad", False, lambda w, x: functional.gelu(x @ w, approximate="tanh")
    ),
    "::LogSoftmax": partial(
        fused, "LogSoftmaxGrad_13", False, lambda w, x: (x @ w).log_softmax(-1)
    ),
}

# --- trying them ---------------------------------------------------------------------------------


def attempt(scenario: Callable[[], None]) -> str:
    """Runs a scenario in a fork; returns `HELD` or what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        try:
            scenario()
            outcome = HELD
        except BaseException as error:
            outcome = "".join(traceback.format_exception(error))[-20_000:]
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        outcome = pipe.read()
    _, status = os.waitpid(child, 0)
    return outcome or f"the process died of signal {os.WTERMSIG(status)}"


def without_patch(name: str, scenario: Callable[[], None]) -> Callable[[], None]:
    def tried() -> None:
        patches.PATCHES = tuple(p for p in patches.PATCHES if p.name != name)
        scenario()

    return tried


def without_symbolic(name: str, scenario: Callable[[], None]) -> Callable[[], None]:
    """Upstream's symbolic instead of ours, or none."""
    from acpt_trainer.ort import registration

    ours = registration._symbolics

    def of_this_name(symbolics: dict[str, Any], yes: bool) -> dict[str, Any]:
        return {k: fn for k, fn in symbolics.items() if (k.split("::")[-1] == name) is yes}

    def tried() -> None:
        registration._symbolics = lambda upstream: (
            of_this_name(ours(upstream), False) | of_this_name(upstream, True)
        )
        scenario()

    return tried


def without_gradient(key: str, scenario: Callable[[], None]) -> Callable[[], None]:
    from onnxruntime.training.ortmodule._custom_gradient_registry import CustomGradientRegistry

    register_all = CustomGradientRegistry.register_all

    def tried() -> None:
        def register_rest() -> None:
            CustomGradientRegistry._GRADIENTS.pop(key)
            register_all()

        CustomGradientRegistry.register_all = register_rest
        scenario()

    return tried


def what_is_ours() -> dict[str, list[str]]:
    """The names of the symbolics and gradients that this package registers or takes out."""
    from onnxruntime.training.ortmodule import (
        _custom_gradient_registry,
        _custom_op_symbolic_registry,
    )

    from acpt_trainer.ort import registration

    symbolics = _custom_op_symbolic_registry.CustomOpSymbolicRegistry
    gradients = _custom_gradient_registry.CustomGradientRegistry
    upstream = dict(symbolics._SYMBOLICS)
    known = set(gradients._GRADIENTS)
    with registration.registered():
        held = symbolics._SYMBOLICS
        names = {k for k in {*held, *upstream} if held.get(k) is not upstream.get(k)}
        new = set(gradients._GRADIENTS) - known
    return {"symbolics": sorted({n.split("::")[-1] for n in names}), "gradients": sorted(new)}


def main() -> None:
    """Prints one line of JSON: by kind and name, what happened with it on and with it off.

    With the argument `ours`, only the names of our symbolics and gradients.
    """
    if sys.argv[1:] == ["ours"]:
        patches.start()
        print(json.dumps(what_is_ours()))
        return
    # A machine without a compiler: what needs an extension is refused, and nothing is built.
    os.environ["CXX"] = "/nonexistent"
    tried: dict[str, Any] = {"patches": {}, "symbolics": {}, "gradients": {}}
    for name, need in PATCHES_NEEDED.items():
        off = attempt(without_patch(name, need.scenario))
        tried["patches"][name] = [off]
    patches.start()  # from here on each fork has ONNX Runtime imported
    for name, need in PATCHES_NEEDED.items():
        tried["patches"][name].insert(0, attempt(need.scenario))
    tried["ours"] = what_is_ours()
    for kind, table, without in (
        ("symbolics", SYMBOLICS_NEEDED, without_symbolic),
        ("gradients", GRADIENTS_NEEDED, without_gradient),
    ):
        for name, scenario in table.items():
            tried[kind][name] = [attempt(scenario), attempt(without(name, scenario))]
    print(json.dumps(tried))


if __name__ == "__main__":
    main()
