"""What building a training graph wastes or gets wrong."""

from __future__ import annotations

from acpt_trainer.ort import backward, export, mends, recompute, recurrences, splits
from acpt_trainer.ort.patch import UNMAINTAINED, Patch, Scope

PATCHES: tuple[Patch, ...] = (
    Patch(
        name="told-outputs",
        target="onnxruntime.training.ortmodule._io.parse_outputs_for_onnx_export_and_extract_schema",
        versions="onnxruntime-training 1.19.2",
        why="the model is copied and run once more only to count its outputs, which takes as long "
        "as a forward pass and the memory of a second model; see `preview`",
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
        until="ORTModule's cache has a key that tells models apart",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=export.use_cache,
    ),
    Patch(
        name="kept-promises",
        target="TrainingManager._create_autofunction_class",
        versions="onnxruntime-training 1.19.2",
        why="the backward half of a graph writes into outputs that PyTorch was given, reads inputs "
        "and weights that were changed since, gives a zero to what no gradient reaches, knows no "
        "gradient of gradients, and fails in its own words when it runs twice",
        upstream=UNMAINTAINED,
        until="ORTModule copies those outputs, saves what it shares and checks what it is asked",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=backward.keep_promises,
    ),
    Patch(
        name="split-gradients",
        target="GraphExecutionManager._initialize_graph_builder, GraphOptimizerRegistry",
        versions="onnxruntime-training 1.19.2",
        why="the gradient of a split joins those of the parts that have one: where a part is not "
        "used, it is too short, and stretched in silence",
        upstream=UNMAINTAINED,
        until="SplitGrad puts zeros where a part has no gradient",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=splits.mend_splits,
    ),
    Patch(
        name="whole-recurrences",
        target="GraphExecutionManager._initialize_graph_builder, GraphOptimizerRegistry",
        versions="onnxruntime-training 1.19.2",
        why="the gradients of LSTM and GRU write where nothing is when a weight is frozen, and the "
        "process dies",
        upstream=UNMAINTAINED,
        until="LSTMGrad and GRUGrad ask which gradients are wanted",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=recurrences.mend_recurrences,
    ),
    Patch(
        name="no-moved-slices",
        target="ORTMODULE_ENABLE_COMPUTE_OPTIMIZER",
        versions="onnxruntime-training 1.19.2",
        why="an optimizer moves slices before the layer that they follow and keeps the number of "
        "their axis, which is another there: x[..., :n] behind a linear layer fails",
        upstream="https://github.com/microsoft/onnxruntime: compute_optimizer/upstream_gather.cc",
        until="the axes that are an input are moved, too",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=mends.leave_slices,
    ),
    Patch(
        name="no-memory-probe",
        target="TrainingManager._create_execution_agent",
        versions="onnxruntime-training 1.19.2",
        why="a second session is built, and thrown away, for memory statistics nobody asked for",
        upstream=UNMAINTAINED,
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
        upstream=UNMAINTAINED,
        until="the memory optimizer keeps the masks",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=recompute.keep_random_numbers,
    ),
)
