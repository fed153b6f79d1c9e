"""ONNX graphs: made by torch, rewritten to hold packed weights."""
