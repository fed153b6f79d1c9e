"""Plots and tables that people look at."""
