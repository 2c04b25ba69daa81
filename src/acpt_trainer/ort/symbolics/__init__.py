"""How PyTorch operators are exported so that ONNX Runtime 1.19.2 can run and differentiate them.

A symbolic function receives the exporter's graph context and graph values and returns graph values
(see `torch.onnx.register_custom_op_symbolic`). `acpt_trainer.ort.registration` puts them in place.
Each one says what is wrong without it.
"""
