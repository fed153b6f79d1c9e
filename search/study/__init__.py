"""The study: which plans are measured, by whom, and what came of it, kept by Optuna."""
