"""What meets the weights: second moments of every unit's inputs, on calibration data."""
