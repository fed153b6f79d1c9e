"""Folders for onnxruntime-genai: the graph of its model builder, our codes in it."""
