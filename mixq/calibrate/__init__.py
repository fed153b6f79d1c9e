"""Calibration of the machine at hand: its kernels are timed and a profile of it is fitted."""
