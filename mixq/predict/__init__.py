"""What a product of matrices or a whole model would take on a named chip, without running it."""
