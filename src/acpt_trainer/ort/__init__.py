"""ONNX Runtime training on current PyTorch: what breaks, what mends it, and proof that it ran.

`onnxruntime-training` 1.19.2 (September 2024) is its last release and was made for the PyTorch of
2024. The modules here let it train today's models:

* `patches`: the list of reasons. One `Patch` a concept: what it patches, for which versions, why,
  and when it can go.
* `symbolics`: how PyTorch operators are exported so that ONNX Runtime can differentiate them.
* `registration`: which of them an export uses.
* `forward`: the model's forward pass, run by ONNX Runtime while training, in place.
* `schema`: what a call passes, and everything that its graph depends on.
* `build`: a training graph exported, built and run once.
* `precision`: which precisions it runs in, and what is said of the others.
* `selfcheck`: a small step compared with PyTorch's, for versions never tested.
* `cuda`: what a GPU needs, checked before it is used.
* `recompute`: gradient checkpointing in ONNX Runtime.
* `custom_functions`: custom autograd functions, run in Python as they are or refused.
* `extensions`: the C++ extensions of ORTModule, built when a graph needs one.
* `graph`: evidence read from the training graph.
* `write`: a training graph as files.
* `explain`: what an export failure means, and the way out.

Nothing outside `acpt_trainer.strategies` uses them, and none is imported before an `ort` strategy
starts or the command line looks at one.
"""
