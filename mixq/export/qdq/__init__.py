"""Plain ONNX with QuantizeLinear and DequantizeLinear, for runtimes that take nothing else."""
