"""What ORTModule needs to be imported and run on current PyTorch."""

from __future__ import annotations

from acpt_trainer.ort import (
    cuda,
    dropout,
    loss_gradients,
    mends,
    threads,
    torch_gradients,
    weight_gradients,
)
from acpt_trainer.ort.patch import UNMAINTAINED, Patch, Scope

PATCHES: tuple[Patch, ...] = (
    Patch(
        name="exporter-aliases",
        target="torch.onnx._internal.{jit_utils,registration}, torch.onnx.{_globals,_type_utils}",
        versions="torch >= 2.8 with onnxruntime-training <= 1.19.2",
        why="ORTModule imports the TorchScript exporter from where it was in 2024: ImportError",
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
        until="ORTModule offers the session's thread options",
        scope=Scope.PROCESS,
        needed=mends.always,
        apply=threads.share,
    ),
    Patch(
        name="no-density",
        target="GraphTransitionManager._add_check_{embedding,label}_sparsity_hook",
        versions="onnxruntime-training 1.19.2",
        why="padding is counted in the first batch, and the graph of every later one is shaped by "
        "it; the counting reads labels while the model is traced",
        upstream=UNMAINTAINED,
        until="ORTModule decides it in the graph",
        scope=Scope.PROCESS,
        needed=mends.always,
        apply=mends.ignore_density,
    ),
    Patch(
        name="torch-weight-gradients",
        target="GraphExecutionManager._initialize_graph_builder, GraphOptimizerRegistry, "
        "the executor of ATen nodes",
        versions="onnxruntime-training 1.19.2 on a machine without CUDA",
        why="ONNX Runtime's product of a transposed matrix takes up to 1.6 times as long as "
        "PyTorch's, and each weight's gradient is one",
        upstream=UNMAINTAINED,
        until="MLAS packs the left side of a product",
        scope=Scope.PROCESS,
        needed=mends.no_cuda,
        apply=weight_gradients.use_torch,
    ),
    Patch(
        name="vectorized-dropout",
        target="GraphExecutionManager._initialize_graph_builder, GraphOptimizerRegistry, "
        "the executor of ATen nodes",
        versions="onnxruntime-training 1.19.2 on a machine without CUDA",
        why="ONNX Runtime draws the masks of dropout element by element on one thread, the largest "
        "part of a step beside products",
        upstream=UNMAINTAINED,
        until="its kernels of Dropout and DropoutGrad are vectorized",
        scope=Scope.PROCESS,
        needed=mends.no_cuda,
        apply=dropout.draw_faster,
    ),
    Patch(
        name="loss-in-one-pass",
        target="GraphExecutionManager._initialize_graph_builder, GraphOptimizerRegistry, "
        "the executor of ATen nodes",
        versions="onnxruntime-training 1.19.2 on a machine without CUDA",
        why="the gradient of a language model's scores, its largest tensor, is made in some ten "
        "passes over memory, of which three are for zeros that nobody asked for",
        upstream=UNMAINTAINED,
        until="SoftmaxCrossEntropyLossGrad is vectorized and YieldOp tells what has no gradient",
        scope=Scope.PROCESS,
        needed=mends.no_cuda,
        apply=loss_gradients.write_once,
    ),
    Patch(
        name="torch-gradients",
        target="GraphExecutionManager._initialize_graph_builder, GraphOptimizerRegistry, "
        "the executor of ATen nodes",
        versions="onnxruntime-training 1.19.2 on a machine without CUDA",
        why="the kernels of the gradients of GELU, LayerNorm, softmax, log-softmax, looked up rows "
        "and picked elements take 2 to 22 times as long as PyTorch's",
        upstream=UNMAINTAINED,
        until="they are vectorized and run on all threads",
        scope=Scope.PROCESS,
        needed=mends.no_cuda,
        apply=torch_gradients.use_torch,
    ),
)
