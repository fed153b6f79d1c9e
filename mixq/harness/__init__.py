"""Language models on tasks of lm-evaluation-harness, before and after a plan.

Nothing here imports `lm_eval` before it is asked for: the modules that subclass its models
(`torch_model`, `genai_model`) are imported by `candidate` alone.
"""
