from __future__ import annotations

from pathlib import Path

import pytest

from mixq.profiles.loader import parse

TEXT = (Path(__file__).parents[2] / "profiles" / "intel_cpu.toml").read_text(encoding="utf-8")
MEASURED = """
[runtime.measured]
title = "oneDNN 3"
description = "kernels of published tables"

[[runtime.measured.kernel]]
name = "gemm"
ops = ["gemm"]
bits = 4.5
compute = "int8"
compute_efficiency = { value = 0.5, unit = "1", source = "fitted" }
memory_efficiency = { value = 0.5, unit = "1", source = "fitted" }
overhead = { value = 5, unit = "us", source = "fitted" }
spread = { value = 0.2, unit = "1", source = "fitted" }
points = 12
"""
SPREAD = 'bits = 32\nspread = { value = 0.3, unit = "1", source = "s" }\npoints = 9\n'


def fingerprint(text: str) -> str:
    return parse(text.encode(), origin="x").fingerprint


SAME = {
    "comment": ("[chip]", "# more\n[chip]"),
    "unit": ('204.8, unit = "GB/s"', '0.2048, unit = "TB/s"'),
    "source": ("assumed: one node", "assumed: a node"),
    "description": ("AVX-512 with VNNI", "AVX-512"),
    "title": ("[runtime.onnxruntime]", '[runtime.onnxruntime]\ntitle = "ORT"'),
    "published names": ('names = ["Xeon 8380 (Ice Lake-SP)"]', 'names = ["Xeon 8380"]'),
    "spread": ("bits = 32\n", SPREAD),
    "measured kernels": ("[runtime.onnxruntime]", f"{MEASURED}\n[runtime.onnxruntime]"),
}
OTHER = {
    "bandwidth": ("204.8", "204.9"),
    "group sizes": ("[16, 256]", "[16]"),
    "name": ('"intel_cpu"', '"other"'),
    "activations": ('activations = ["dynamic"]', 'activations = ["static"]'),
    "rows": ("bits = 8\n", "bits = 8\nmost_rows = 4\n"),
    "tiles": ("bits = 8\n", "bits = 8\ntile_m = 4\n"),
    "cache": ("value = 60,", "value = 61,"),
    "units": ("[chip]", '[chip]\nunits_per_core = { value = 2, unit = "units", source = "s" }'),
}


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME)
def test_what_no_searched_price_depends_on_does_not_count(old: str, new: str) -> None:
    assert old in TEXT
    assert fingerprint(TEXT.replace(old, new)) == fingerprint(TEXT)


@pytest.mark.parametrize(("old", "new"), OTHER.values(), ids=OTHER)
def test_what_a_searched_price_depends_on_counts(old: str, new: str) -> None:
    assert old in TEXT
    assert fingerprint(TEXT.replace(old, new)) != fingerprint(TEXT)
