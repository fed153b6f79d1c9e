"""Activations: 8-bit inputs of layers, rounded in torch exactly as ONNX Runtime rounds them."""
