"""Every patch that makes onnxruntime-training 1.19.2 run on current PyTorch, one reason each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack

from acpt_trainer.ort import (
    cuda,
    custom_functions,
    deferred,
    export,
    foreign_draws,
    gradient_flow,
    mends,
    place,
    reads,
    recompute,
    rewrites,
)
from acpt_trainer.ort.patch import Patch, Scope

_UNMAINTAINED = "none open: ONNX Runtime training is no longer maintained (onnxruntime#24905)"
_NOT_REPORTED = "not reported to https://github.com/huggingface/transformers/issues"

PATCHES: tuple[Patch, ...] = (
    Patch(
        name="exporter-aliases",
        target="torch.onnx._internal.{jit_utils,registration}, torch.onnx.{_globals,_type_utils}",
        versions="torch >= 2.8 with onnxruntime-training <= 1.19.2",
        why="ORTModule imports the TorchScript exporter from where it was in 2024: ImportError",
        upstream=_UNMAINTAINED,
        until="onnxruntime-training imports from the new place",
        scope=Scope.PROCESS,
        needed=mends.exporter_moved,
        apply=mends.alias_exporter,
    ),
    Patch(
        name="extensions-on-demand",
        target="onnxruntime.training.ortmodule.torch_cpp_extensions",
        versions="onnxruntime-training 1.19.2",
        why="ORTModule refuses to start without two C++ extensions, compiled by hand into "
        "site-packages, of which one does not compile on torch 2.13; most graphs need neither",
        upstream=_UNMAINTAINED,
        until="the extensions are shipped compiled",
        scope=Scope.PROCESS,
        needed=mends.always,
        apply=mends.load_extensions_on_demand,
    ),
    Patch(
        name="contained-import",
        target="torch.manual_seed, torch.cuda.manual_seed, torch.utils.checkpoint.checkpoint, "
        "deepspeed.checkpointing.checkpoint",
        versions="onnxruntime-training 1.19.2",
        why="importing ORTModule replaces them for the whole process; ours seeds ONNX Runtime per "
        "step instead (see `build`)",
        upstream=_UNMAINTAINED,
        until="ORTModule stops patching torch at import",
        scope=Scope.PROCESS,
        needed=mends.always,
        apply=mends.contain_import,
    ),
    Patch(
        name="no-nvtx",
        target="onnxruntime.training.utils.torch_profile_utils",
        versions="onnxruntime-training 1.19.2 on a machine without CUDA",
        why="NVTX ranges are pushed on CPU builds too: 'NVTX functions not installed'",
        upstream=_UNMAINTAINED,
        until="the ranges are pushed on CUDA only",
        scope=Scope.PROCESS,
        needed=mends.no_cuda,
        apply=mends.silence_nvtx,
    ),
    Patch(
        name="shared-stream",
        target="GraphExecutionManager.{_get_session_config,"
        "_get_torch_gpu_allocator_function_addresses}",
        versions="onnxruntime-training 1.19.2 on a machine with CUDA",
        why="ORTModule takes torch's allocator through a C++ extension, and only then torch's "
        "stream: without it, graphs would run beside torch's kernels and not after them",
        upstream=_UNMAINTAINED,
        until="the extensions are shipped compiled",
        scope=Scope.PROCESS,
        needed=cuda.available,
        apply=cuda.share_stream,
    ),
    Patch(
        name="shared-threads",
        target="GraphExecutionManager._get_session_config",
        versions="onnxruntime-training 1.19.2",
        why="each session takes all cores and spins on them, whatever torch.set_num_threads says; "
        "two ranks on one machine then fight for the cores",
        upstream=_UNMAINTAINED,
        until="ORTModule offers the session's thread options",
        scope=Scope.PROCESS,
        needed=mends.always,
        apply=mends.share_threads,
    ),
    Patch(
        name="torchscript-exporter",
        target="torch.onnx.export",
        versions="torch >= 2.9",
        why="the default became the dynamo exporter, whose graphs ORTModule cannot differentiate",
        upstream="https://github.com/pytorch/pytorch/pull/159646 (default to dynamo export)",
        until="ORTModule passes dynamo=False itself",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=mends.choose_exporter,
    ),
    Patch(
        name="submodule-modes",
        target="torch.onnx.export, ORTModule.train",
        versions="onnxruntime-training 1.19.2",
        why="every submodule is put into training mode, those in eval mode too: the dropout of a "
        "frozen encoder comes back to life",
        upstream=_UNMAINTAINED,
        until="ORTModule exports with TrainingMode.PRESERVE",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=mends.preserve_modes,
    ),
    Patch(
        name="no-fallback",
        target="ORTMODULE_FALLBACK_POLICY",
        versions="onnxruntime-training 1.19.2",
        why="by default a failed export trains in PyTorch after one warning",
        upstream="https://github.com/pytorch/ort/issues/114",
        until="never: not falling back is this package's promise",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=mends.disable_fallback,
    ),
    Patch(
        name="symbolics",
        target="torch.onnx.register_custom_op_symbolic",
        versions="torch 2.13 with onnxruntime-training 1.19.2",
        why="operators that are exported without a gradient, with a wrong one, or through ATen; "
        "each is named in `acpt_trainer.ort.symbolics`",
        upstream=_UNMAINTAINED,
        until="each symbolic says so itself",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=mends.register_symbolics,
    ),
    Patch(
        name="gradient-flow",
        target="Call.forward while it is traced, GraphTransitionManager._export_model",
        versions="all",
        why="`detach` and `no_grad` are not in an exported graph: gradients flow through both; "
        "frozen parameters and others that no gradient reaches get one",
        upstream=_UNMAINTAINED,
        until="the exporter keeps what autograd knows",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=gradient_flow.follow_autograd,
    ),
    Patch(
        name="no-inlined-functions",
        target="prim::PythonOp and _run_symbolic_method in the TorchScript exporter",
        versions="torch 2.13 with onnxruntime-training 1.19.2",
        why="without the interop extension the exporter inlines a custom function's forward and "
        "differentiates that: the custom backward is silently lost",
        upstream=_UNMAINTAINED,
        until="ORTModule brings the extension in itself",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=custom_functions.export_in_python,
    ),
    Patch(
        name="no-density",
        target="GraphTransitionManager._add_check_{embedding,label}_sparsity_hook",
        versions="onnxruntime-training 1.19.2",
        why="padding is counted in the first batch, and the graph of every later one is shaped by "
        "it; the counting reads labels while the model is traced",
        upstream=_UNMAINTAINED,
        until="ORTModule decides it in the graph",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=mends.ignore_density,
    ),
    Patch(
        name="deferred-ctc",
        target="torch.nn.functional.ctc_loss",
        versions="all",
        why="ctc_loss has no ONNX form: the graph ends before it, and PyTorch computes it",
        upstream="https://github.com/onnx/onnx/blob/main/docs/Operators.md: no such operator",
        until="ONNX has one, with a gradient",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=deferred.defer_ctc_loss,
    ),
    Patch(
        name="traced-len",
        target="len in transformers' model modules",
        versions="all",
        why="the length of a tensor, such as the batch size in CLIP's contrastive loss, would be "
        "fixed in the graph",
        upstream=_NOT_REPORTED,
        until="the models take it from .shape",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.trace_len,
    ),
    Patch(
        name="traced-span",
        target="compute_attention_span of DeBERTa",
        versions="transformers 5",
        why="Python takes the smaller of two lengths, and which one it was is fixed in the graph",
        upstream=_NOT_REPORTED,
        until="the models take it with torch.minimum",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.trace_attention_span,
    ),
    Patch(
        name="bloom-gelu",
        target="transformers.models.bloom.modeling_bloom.GeLUFunction",
        versions="transformers 5",
        why="a custom function, which would need a compiler; its backward is the derivative of its "
        "forward, so the graph's own gradient is the same",
        upstream=_NOT_REPORTED,
        until="Bloom uses torch's GELU",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.inline_bloom_gelu,
    ),
    Patch(
        name="traced-spec-augment",
        target="_compute_mask_indices of Wav2Vec2, HuBERT, Whisper and others",
        versions="transformers 5",
        why="NumPy draws the masks of SpecAugment, which would be fixed in the graph",
        upstream=_NOT_REPORTED,
        until="the models draw them with torch",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.trace_spec_augment,
    ),
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
        name="told-outputs",
        target="onnxruntime.training.ortmodule._io.parse_outputs_for_onnx_export_and_extract_schema",
        versions="onnxruntime-training 1.19.2",
        why="the model is copied and run once more only to count its outputs, which takes as long "
        "as a forward pass and the memory of a second model; see `preview`",
        upstream=_UNMAINTAINED,
        until="ORTModule learns the outputs from the trace",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=export.tell_outputs,
    ),
    Patch(
        name="export-cache",
        target="GraphTransitionManager.{get_post_processed_model,_get_exported_model}",
        versions="onnxruntime-training 1.19.2",
        why="ORTMODULE_CACHE_DIR finds exports by the names of the model's classes: another "
        "config, length of a loop or dropout gets the graph of the first one",
        upstream=_UNMAINTAINED,
        until="ORTModule's cache has a key that tells models apart",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=export.use_cache,
    ),
    Patch(
        name="no-memory-probe",
        target="TrainingManager._create_execution_agent",
        versions="onnxruntime-training 1.19.2",
        why="a second session is built, and thrown away, for memory statistics nobody asked for",
        upstream=_UNMAINTAINED,
        until="the statistics are made on demand",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=export.probe_memory_on_demand,
    ),
    Patch(
        name="no-repeated-dropout",
        target="MemoryObserver.find_memory_optimization_opportunity",
        versions="onnxruntime-training 1.19.2 with recompute",
        why="a dropout that is computed again draws from a generator of its own: it leaves torch's "
        "random state, and after a forward without its backward the masks of the two differ and "
        "gradients are silently wrong",
        upstream=_UNMAINTAINED,
        until="the memory optimizer keeps the masks",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=recompute.keep_random_numbers,
    ),
    Patch(
        name="no-lost-checkpoints",
        target="torch.utils.checkpoint.{CheckpointFunction,_checkpoint_without_reentrant_generator}",
        versions="torch 2.13",
        why="a model's own call of torch.utils.checkpoint is traced through, and saves no memory "
        "any more without a word",
        upstream=_UNMAINTAINED,
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

_process: ExitStack | None = None
_active: tuple[str, ...] = ()
_users = 0


def start() -> tuple[str, ...]:
    """Applies the process-wide patches and imports ORTModule, for the first user.

    Returns:
        The names of the patches that are in place.

    Raises:
        ImportError: If onnxruntime-training is not installed.
    """
    global _process, _active, _users
    if _process is None:
        stack = ExitStack()
        try:
            applied = [p for p in PATCHES if p.scope is Scope.PROCESS and p.needed()]
            for patch in applied:
                patch.apply(stack)
        except BaseException:
            stack.close()
            raise
        _process, _active = stack, tuple(patch.name for patch in applied)
    _users += 1
    return _active


def stop() -> None:
    """Undoes the process-wide patches, once for the last user.

    ONNX Runtime stays imported, so starting again only applies them anew.
    """
    global _process, _active, _users
    _users = max(0, _users - 1)
    if _process is not None and not _users:
        _process.close()
        _process, _active = None, ()


def active() -> tuple[str, ...]:
    """Names of the process-wide patches in place; empty when no `ort` strategy runs."""
    return _active


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Holds the patches that are needed while a training graph is exported and built."""
    with ExitStack() as stack:
        for patch in PATCHES:
            if patch.scope is Scope.BUILD and patch.needed():
                patch.apply(stack)
        yield
