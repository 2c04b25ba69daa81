"""What a trace would fix or lose in silence."""

from __future__ import annotations

from acpt_trainer.ort import foreign_draws, mends, place, reads, recompute
from acpt_trainer.ort.patch import UNMAINTAINED, Patch, Scope

PATCHES: tuple[Patch, ...] = (
    Patch(
        name="no-foreign-draws",
        target="the drawing functions of numpy.random and random",
        versions="all",
        why="what NumPy or Python draws while the model is traced would be fixed in the graph",
        upstream="https://pytorch.org/docs/stable/generated/torch.jit.trace.html: by design",
        until="never: not fixing it in silence is this package's promise",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=foreign_draws.refuse_foreign_draws,
    ),
    Patch(
        name="no-lost-checkpoints",
        target="torch.utils.checkpoint.{CheckpointFunction,_checkpoint_without_reentrant_generator}",
        versions="torch 2.13",
        why="a model's own call of torch.utils.checkpoint is traced through, and saves no memory "
        "any more without a word",
        upstream=UNMAINTAINED,
        until="never: recompute is ONNX Runtime's to plan",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=recompute.replace_checkpoint_calls,
    ),
    Patch(
        name="watched-reads",
        target="torch.Tensor's methods that give Python a value (bool, int, item, ...)",
        versions="all",
        why="what Python reads from a tensor while a model is traced is fixed in the graph, after "
        "one warning",
        upstream="https://docs.pytorch.org/docs/stable/generated/torch.jit.trace.html (its limits)",
        until="never: tracing records tensors, not Python",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=reads.watch,
    ),
    Patch(
        name="named-nodes",
        target="torch.onnx's _run_symbolic_function",
        versions="all",
        why="the exporter's errors name an operator and not the part of the model that uses it",
        upstream="https://github.com/pytorch/pytorch/pull/159646 (this exporter is superseded)",
        until="the errors say so themselves",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=place.name_nodes,
    ),
)
