"""`compile`: the forward and backward pass by torch.compile, on the plain model in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer import toolchain
from acpt_trainer.errors import Problem
from acpt_trainer.requirements import Requirement
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)

if TYPE_CHECKING:
    from torch import nn

    from acpt_trainer.strategies.compile_regions import Compilation

REGIONS = (None, "blocks", "whole")


@dataclass(frozen=True)
class CompilerRequirement(Requirement):
    """A C++ compiler and Python's headers, which kernels are built with; ninja is not needed."""

    module: str = "a C++ compiler"
    distributions: tuple[str, ...] = ()
    extra: str = ""

    def missing(self) -> tuple[str, ...]:
        """What is not here."""
        return tuple(need for need in toolchain.find().missing() if not need.startswith("ninja"))

    def installed(self) -> bool:
        """Whether kernels can be built."""
        return not self.missing()

    def version(self) -> str | None:
        """What the compiler says that it is."""
        return toolchain.find().version

    def problem(self, strategy: str) -> Problem:
        """The problem that it is missing."""
        return Problem(
            f"strategy {strategy!r} builds its kernels at the first step, which takes "
            f"{' and '.join(self.missing())}",
            f"strategy={strategy!r}",
            "install what is missing, or set CXX to a compiler",
        )


class CompileStrategy(AcceleratorStrategy):
    """torch.compile with inductor.

    Args:
        regions: `blocks` compiles the model's repeated blocks, each kind once, and leaves the rest
            to PyTorch; `whole` compiles the model's forward pass as one, which takes as much longer
            as there are blocks. None takes the blocks where there are any.
        dynamic: As in torch.compile: None makes a size dynamic once it has changed, True makes all
            sizes dynamic from the start, False compiles anew for each.
        max_graphs: How often a region may be compiled before training stops.
    """

    name: ClassVar[str] = "compile"
    layer: ClassVar[Layer] = Layer.MODULE
    description: ClassVar[str] = "forward and backward compiled by torch.compile (inductor)"
    requires: ClassVar[tuple[Requirement, ...]] = (CompilerRequirement(),)
    conflicts: ClassVar[dict[str, str]] = {"ort": "both swap the model's forward pass"}

    def __init__(
        self, regions: str | None = None, dynamic: bool | None = None, max_graphs: int = 32
    ) -> None:
        self.regions = regions
        self.dynamic = dynamic
        self.max_graphs = max_graphs
        self._compilation: Compilation | None = None
        self._last: StrategyStatus | None = None

    def options(self) -> dict[str, Any]:
        """The options that it was built with."""
        return {"regions": self.regions, "dynamic": self.dynamic, "max_graphs": self.max_graphs}

    def precisions(self, device: str) -> tuple[str, ...]:
        """All that autocast offers on the device."""
        return ("bf16", "fp16", "fp32") if device == "cuda" else ("bf16", "fp32")

    def problems(self, context: TrainingContext) -> list[Problem]:
        """Options, what switches torch.compile off, and what would compile twice."""
        found = super().problems(context) + self._option_problems() + _environment_problems()
        if context.device == "cuda" and not Requirement("triton", ("triton",), "").installed():
            found.append(
                Problem(
                    f"strategy {self.label!r} needs the package 'triton' on a GPU",
                    f"strategy={self.label!r}",
                    "pip install triton",
                )
            )
        if context.model is not None and self.regions == "blocks":
            from acpt_trainer.strategies.blocks import repeated_blocks

            if not repeated_blocks(context.model):
                found.append(
                    Problem(
                        f"{type(context.model).__name__} has no repeated blocks to compile",
                        "options of 'compile': regions='blocks'",
                        "leave regions out",
                    )
                )
        return found

    def _option_problems(self) -> list[Problem]:
        given = (
            (self.regions in REGIONS, f"regions is {self.regions!r}", "'blocks' or 'whole'"),
            (self.dynamic in (None, True, False), f"dynamic is {self.dynamic!r}", "True or False"),
            (
                isinstance(self.max_graphs, int) and self.max_graphs >= 1,
                f"max_graphs is {self.max_graphs!r}",
                "an int >= 1",
            ),
        )
        return [
            Problem(what, "options of 'compile'", f"give {fix}, or leave it out")
            for good, what, fix in given
            if not good
        ]

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Replaces the forward of the regions; the model and its keys stay what they are."""
        from acpt_trainer.strategies.compile_regions import Compilation

        self.close()
        self._compilation = Compilation(model, self.regions, self.dynamic, self.max_graphs)
        self._last = None
        return model

    def status(self) -> StrategyStatus:
        """Engaged when compiled code ran a forward and a backward pass."""
        if self._last is not None:
            return self._last
        if self._compilation is None:
            return StrategyStatus.pending("the model is not prepared for training yet")
        compilation = self._compilation
        evidence = compilation.evidence()
        if compilation.calls and compilation.backward_calls:
            return StrategyStatus.engaged(evidence)
        if compilation.calls and compilation.grad_fn is None:
            return StrategyStatus.fell_back("the backward pass is not compiled", evidence)
        missing = "backward" if compilation.calls else "forward"
        return StrategyStatus(
            Status.PENDING,
            evidence,
            f"compiled code ran no {missing} pass yet; a model in eval mode stays with PyTorch "
            "(call model.train())",
        )

    def close(self) -> None:
        """Gives the regions their own forward back."""
        if self._compilation is not None:
            self._last = self.status()
            self._compilation.release()
            self._compilation = None


def _environment_problems() -> list[Problem]:
    """Settings under which torch.compile silently does not compile."""
    from torch._dynamo import config

    found = []
    for name, variable in (
        ("disable", "TORCH_COMPILE_DISABLE"),
        ("suppress_errors", "TORCHDYNAMO_SUPPRESS_ERRORS"),
    ):
        if getattr(config, name):
            found.append(
                Problem(
                    "torch.compile is told to leave the model to PyTorch without an error",
                    f"torch._dynamo.config.{name}, or {variable} in the environment",
                    f"unset {variable}, or use strategy='no_acc'",
                )
            )
    return found
