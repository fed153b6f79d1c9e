"""Training with the quantizer in the loop: scales, offsets and, if asked, weights."""
