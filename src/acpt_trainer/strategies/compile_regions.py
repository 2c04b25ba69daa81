"""The regions of a model that torch.compile takes over while it trains, in place, and the counts.

Each region keeps its module; only `module.forward` is replaced. While the model trains with
gradients on it runs compiled code, and the original otherwise: evaluation compiles nothing.
"""

from __future__ import annotations

import functools
import inspect
import time
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch._dynamo import config as dynamo_config
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import counters, get_compilation_metrics
from torch.utils._pytree import tree_leaves

from acpt_trainer import toolchain
from acpt_trainer.errors import GraphBuildError, NotEngagedError
from acpt_trainer.strategies.blocks import repeated_blocks

COMPILED_BACKWARD = "CompiledFunctionBackward"
"""The autograd function in which AOTAutograd runs a compiled backward pass."""


class CompiledForward:
    """Stands in for a module's forward.

    Args:
        module: The region.
        compilation: What compiles and counts.
        compiled: The compiled form of its forward.
    """

    def __init__(
        self, module: nn.Module, compilation: Compilation, compiled: Callable[..., Any]
    ) -> None:
        self.module = module
        self.original = module.forward
        self.previous = vars(module).get("forward")
        self.compilation = compilation
        self.compiled = compiled
        self.__signature__ = inspect.signature(module.forward)
        self.__name__ = "forward"

    def __reduce__(self) -> Any:
        # Copies and pickles of the module get the original forward, bound to the copy.
        if getattr(self.original, "__self__", None) is self.module:
            return types.MethodType, (self.original.__func__, self.module)
        return functools.partial, (self.original,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs compiled code while the model trains."""
        if self.compilation.off():
            return self.original(*args, **kwargs)
        return self.compilation.run(self, args, kwargs)

    def release(self) -> None:
        """Gives the module its own forward back, unless something was put around it since."""
        held = vars(self.module)
        if held.get("forward") is self:
            del held["forward"]
            held |= {} if self.previous is None else {"forward": self.previous}


class WithoutCache:
    """Switches the key-value cache off before a module's forward, while the model trains.

    It has no use in training, and makes each layer a graph of its own.

    Args:
        compilation: Tells whether the model trains; None in a copy of the model.
    """

    def __init__(self, compilation: Compilation | None) -> None:
        self.compilation = compilation

    def __reduce__(self) -> Any:
        return type(self), (None,)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A forward pre-hook with keyword arguments."""
        if self.compilation is None or self.compilation.off():
            return None
        place = list(inspect.signature(module.forward).parameters).index("use_cache")
        if len(args) > place or kwargs.get("use_cache") is not None:
            return None
        return args, {**kwargs, "use_cache": False}


class Compilation:
    """Compiles the regions of a model, and counts what was compiled and what ran.

    Args:
        model: The model.
        regions: `blocks`, `whole`, or None for the blocks where there are any.
        dynamic: As in torch.compile.
        max_graphs: How often a region may be compiled.

    Attributes:
        calls: Calls of regions that ran compiled code, while training.
        backward_calls: Compiled backward passes that were seen; counted until there is one.
        grad_fn: Name of the compiled backward's autograd function, None if there is none.
        graphs: Graphs compiled.
        graph_breaks: Reasons why a region fell apart into several graphs, and how often.
        recompiles: Why each further graph was compiled.
        seconds: Time of the calls that compiled.
    """

    def __init__(
        self, model: nn.Module, regions: str | None, dynamic: bool | None, max_graphs: int
    ) -> None:
        self.model = model
        self.calls = self.backward_calls = self.graphs = self._ran = 0
        self.grad_fn: str | None = None
        self.graph_breaks: Counter[str] = Counter()
        self.recompiles: list[str] = []
        self.seconds = 0.0
        self._compile = functools.partial(
            torch.compile,
            backend=self._backend,
            dynamic=dynamic,
            recompile_limit=max_graphs,
            isolate_recompiles=True,
        )
        # Otherwise the limit ends in PyTorch, after one warning.
        self._strict = dynamo_config.patch(fail_on_recompile_limit_hit=True)
        self._released = False
        self._undo = ExitStack()
        for module in cached_modules(model):
            hook = module.register_forward_pre_hook(WithoutCache(self), with_kwargs=True)
            self._undo.callback(hook.remove)
        self._by_class: dict[type, Callable[..., Any]] = {}
        blocks = [] if regions == "whole" else repeated_blocks(model)
        self.regions = [self._region(module) for module in blocks or [model]]

    def _region(self, module: nn.Module) -> CompiledForward:
        """Replaces a module's forward; modules of a class share what is compiled."""
        if "forward" in vars(module):
            compiled = self._compile(module.forward)
        else:
            cls = type(module)
            if cls not in self._by_class:
                self._by_class[cls] = self._compile(cls.forward)
            compiled = functools.partial(self._by_class[cls], module)
        forward = CompiledForward(module, self, compiled)
        module.forward = forward  # type: ignore[method-assign]
        return forward

    def _backend(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        """Inductor, with a count of what it compiled and of what of it runs."""
        from torch._inductor.compile_fx import compile_fx

        self.graphs += 1
        chosen = {"cpp.cxx": (None, toolchain.find().compiler)}
        compiled = compile_fx(graph, inputs, config_patches=chosen)

        def run(*args: Any) -> Any:
            self._ran += 1
            return compiled(*args)

        return run

    def off(self) -> bool:
        """Whether regions are to run as they are."""
        return self._released or not (self.model.training and torch.is_grad_enabled())

    def run(self, region: CompiledForward, args: Any, kwargs: Any) -> Any:
        """Runs a region's compiled code.

        Raises:
            GraphBuildError: If it cannot be compiled, or not once more.
            NotEngagedError: If PyTorch ran it instead.
        """
        graphs, ran, began = self.graphs, self._ran, time.time()
        breaks = Counter(counters["graph_break"])
        try:
            with self._strict:
                outputs = region.compiled(*args, **kwargs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            self._note(began, breaks)
            raise self._refusal(region, error) from error
        if self.graphs != graphs:
            self._note(began, breaks)
        if self._ran == ran:
            self._note(began, breaks)
            why = "; ".join(self.graph_breaks) or "no reason was told"
            raise NotEngagedError(
                f"torch.compile left {type(region.module).__name__} to PyTorch: {why}.\n"
                f"    where: {self._name(region.module)}\n"
                "    fix:   see TORCH_LOGS=graph_breaks, or train with strategy='no_acc'"
            )
        self.calls += 1
        if not self.backward_calls:
            self._watch(outputs)
        return outputs

    # --- what is counted -------------------------------------------------------------------------

    def _note(self, began: float, breaks: Counter[str]) -> None:
        self.seconds += time.time() - began
        for reason, count in (Counter(counters["graph_break"]) - breaks).items():
            self.graph_breaks[reason.splitlines()[0]] += count
        for metrics in get_compilation_metrics():
            if metrics.recompile_reason and (metrics.start_time_us or 0) >= began * 1e6:
                self.recompiles.append(_readable(metrics.recompile_reason))

    def _watch(self, outputs: Any) -> None:
        """Counts the backward pass of the first compiled function behind the outputs."""
        for output in tree_leaves(outputs):
            node = _compiled_backward(getattr(output, "grad_fn", None))
            if node is not None:
                self.grad_fn = type(node).__name__
                node.register_prehook(self._count_backward)
                return

    def _count_backward(self, *_: Any) -> None:
        self.backward_calls += 1

    def evidence(self) -> dict[str, Any]:
        """The counts, as plain data."""
        inside = {id(p) for r in self.regions for p in r.module.parameters()}
        sizes = {id(p): p.numel() for p in self.model.parameters()}
        share = sum(sizes[i] for i in inside) / (sum(sizes.values()) or 1)
        return {
            "grad_fn": self.grad_fn,
            "regions": dict(Counter(type(r.module).__name__ for r in self.regions)),
            "parameters_in_regions": round(share, 4),
            "forward_calls": self.calls,
            "graphs": self.graphs,
            "graph_breaks": dict(self.graph_breaks),
            "recompiles": list(self.recompiles),
            "compile_seconds": round(self.seconds, 3),
        }

    # --- around it -------------------------------------------------------------------------------

    def _name(self, module: nn.Module) -> str:
        name = next((n for n, m in self.model.named_modules() if m is module), "")
        return f"{type(self.model).__name__}{'.' if name else ''}{name}"

    def _refusal(self, region: CompiledForward, error: Exception) -> GraphBuildError:
        kind = type(region.module).__name__
        inner = getattr(error, "inner_exception", error)
        said = next((line for line in str(inner).splitlines() if line.strip()), repr(inner))
        what = f"torch.compile could not compile {kind}: {type(inner).__name__}: {said}"
        fix = "mend what it says, or train with strategy='no_acc'"
        if isinstance(error, FailOnRecompileLimitHit):
            changed = "; ".join(dict.fromkeys(self.recompiles)) or "not told"
            what = f"{kind} was compiled as often as is allowed, and would be once more: {changed}"
            fix = "pad to few lengths, or get_strategy('compile').build(max_graphs=...)"
        where = self._name(region.module)
        return GraphBuildError(f"{what}.\n    where: {where}\n    fix:   {fix}")

    def release(self) -> None:
        """Undoes everything."""
        self._released = True
        for region in self.regions:
            region.release()
        self._undo.close()


def cached_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that take `use_cache`."""
    if "use_cache" in inspect.signature(model.forward).parameters:
        yield model
        return
    for child in model.children():
        yield from cached_modules(child)


def _compiled_backward(node: Any, nodes: int = 64) -> Any:
    """The nearest compiled function behind an autograd node: outputs may be views of its own."""
    queue = deque([node])
    while queue and nodes > 0:
        node, nodes = queue.popleft(), nodes - 1
        if type(node).__name__ == COMPILED_BACKWARD:
            return node
        queue += [following for following, _ in getattr(node, "next_functions", ())]
    return None


def _readable(reason: str) -> str:
    """The guard that failed, without the tracer's comments and stacks."""
    guard = reason.splitlines()[0].partition(": ")[2] or reason.splitlines()[0]
    return guard.partition("#")[0].strip()
