"""What an export gets wrong or cannot write: exporter, symbolics, gradients."""

from __future__ import annotations

from acpt_trainer.ort import custom_functions, cuts, deferred, gradient_flow, mends
from acpt_trainer.ort.patch import UNMAINTAINED, Patch, Scope

PATCHES: tuple[Patch, ...] = (
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
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
        until="the exporter keeps what autograd knows",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=gradient_flow.follow_autograd,
    ),
    Patch(
        name="gradient-cuts",
        target="GraphExecutionManager._initialize_graph_builder, "
        "{CustomGradientRegistry,GraphOptimizerRegistry}'s tables",
        versions="onnxruntime-training 1.19.2",
        why="no operator ends a gradient: behind `detach` all is differentiated still, which fails "
        "at an operator without a gradient and makes NaN of zero times infinity; see `cuts`",
        upstream=UNMAINTAINED,
        until="ONNX Runtime has such an operator",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=cuts.end_gradients,
    ),
    Patch(
        name="no-inlined-functions",
        target="prim::PythonOp and _run_symbolic_method in the TorchScript exporter",
        versions="torch 2.13 with onnxruntime-training 1.19.2",
        why="without the interop extension the exporter inlines a custom function's forward and "
        "differentiates that: the custom backward is silently lost",
        upstream=UNMAINTAINED,
        until="ORTModule brings the extension in itself",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=custom_functions.export_in_python,
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
)
