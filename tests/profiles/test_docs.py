"""docs/profiles.md names every key, and its example is a profile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mixq.profiles.loader import parse
from mixq.profiles.schema import CacheFile, ChipFile, KernelFile, ProfileFile, RuntimeFile

DOCS = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
PARTS = (ProfileFile, ChipFile, CacheFile, RuntimeFile, KernelFile)
TABLES = {"chip", "runtime", "cache", "kernel"}


@pytest.mark.parametrize("part", PARTS)
def test_every_key_is_described(part: type[ProfileFile]) -> None:
    described = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"^\| (`.*?) \|", DOCS, re.M))))
    assert set(part.model_fields) - TABLES <= described


def test_the_example_is_a_profile() -> None:
    _, example = re.findall(r"```toml\n(.*?)```", DOCS, re.S)
    profile = parse(example.encode(), origin="my_server.toml")
    assert (profile.name, profile.cores, profile.dram_bytes_per_s) == ("my_server", 16, 102.4e9)


def test_the_error_is_the_one_that_is_shown() -> None:
    path = Path(__file__).parents[2] / "profiles" / "intel_cpu.toml"
    text = path.read_text(encoding="utf-8").replace("{ value = 0.77", "{ value = 1.77")
    shown = re.search(r"number 2 \('MLAS convolution'\).*", DOCS)
    assert shown is not None
    with pytest.raises(ValueError, match=re.escape(shown[0])):
        parse(text.encode(), origin="my.toml")
