from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.profiles.lines import line_of

TEXT = '''\
# a comment with [brackets] and key = 1
schema_version = 2
"quoted key" = 1
dotted.inner = 3
text = """
[not.a.table]
fake = 1
"""

[chip]
cores = 4
[[chip.cache]]
name = "L2" # [[chip.cache]]
size = { value = 1,
         unit = "MiB" }
[[chip.cache]]
name = "L3"

[runtime."on.nx"]
title = 'it'
[[runtime."on.nx".kernel]]
name = "a"
[[runtime."on.nx".kernel]]
name = "b"
ops = [
    "gemm",
]
[runtime."on.nx".kernel.unpack]
value = 1
[ runtime . other ]
x = 1
'''

LINES = {
    (): 1,
    ("schema_version",): 2,
    ("quoted key",): 3,
    ("dotted", "inner"): 4,
    ("dotted",): 4,
    ("text",): 5,
    ("fake",): 1,
    ("not", "a", "table", "fake"): 1,
    ("chip",): 10,
    ("chip", "cores"): 11,
    ("chip", "cores", "value"): 11,
    ("chip", "clock"): 10,
    ("chip", "cache"): 12,
    ("chip", "cache", 0): 12,
    ("chip", "cache", 0, "name"): 13,
    ("chip", "cache", 0, "size", "unit"): 14,
    ("chip", "cache", 1): 16,
    ("chip", "cache", 1, "name"): 17,
    ("chip", "cache", 1, "size"): 16,
    ("chip", "cache", 2): 12,
    ("runtime",): 19,
    ("runtime", "on.nx", "title"): 20,
    ("runtime", "on.nx", "kernel", 0, "name"): 22,
    ("runtime", "on.nx", "kernel", 1, "name"): 24,
    ("runtime", "on.nx", "kernel", 1, "ops", 0): 25,
    ("runtime", "on.nx", "kernel", 1, "unpack", "value"): 29,
    ("runtime", "other", "x"): 31,
}


@pytest.mark.parametrize(("path", "line"), LINES.items(), ids=lambda value: str(value))
def test_line_of_a_key(path: tuple[str | int, ...], line: int) -> None:
    assert line_of(TEXT, path) == line


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text(max_size=60), st.lists(st.text(max_size=3) | st.integers(0, 3), max_size=4))
def test_any_text_has_a_line(text: str, path: list[str | int]) -> None:
    assert 1 <= line_of(text, tuple(path)) <= text.count("\n") + 1


def test_every_kernel_of_a_shipped_file_is_found() -> None:
    text = (Path(__file__).parents[2] / "profiles" / "intel_cpu.toml").read_text("utf-8")
    lines = text.split("\n")
    for number in range(text.count("[[runtime.onnxruntime.kernel]]")):
        place = line_of(text, ("runtime", "onnxruntime", "kernel", number))
        assert lines[place - 1] == "[[runtime.onnxruntime.kernel]]"
        named = line_of(text, ("runtime", "onnxruntime", "kernel", number, "name"))
        assert named == place + 1
