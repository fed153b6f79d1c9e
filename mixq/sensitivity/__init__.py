"""How much the output changes when one unit alone is quantized."""
