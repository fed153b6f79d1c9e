"""Every format, some hundred changed files: a clean refusal or a correct result, nothing else.

benchmarks/fuzz.py tries 100,000 of each; docs/robustness.md has what came out.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from .oracle import judge
from .run_targets import placed
from .target import Target, made
from .targets import TARGETS

INPUTS = 300
SEED = 1
"""Other inputs than those of the script, which has seed 0."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "-"))
def test_a_clean_refusal_or_a_correct_result(target: Target, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = target.seeds(folder)
        target = placed(target, folder)
        for seed in seeds:
            verdict = judge(target, seed, folder, seconds=60)
            assert verdict.kind == "accepted", f"a valid file: {verdict.why}"
        wrong = {}
        for index in range(INPUTS // target.cost):
            content = made(target, seeds, SEED, index)
            verdict = judge(target, content, folder)
            if verdict.kind == "wrong":
                wrong[index] = f"{verdict.why} ({content[:200]!r})"
    assert not wrong


def test_inputs_are_the_same_in_every_process() -> None:
    import hashlib

    target = next(one for one in TARGETS if one.name == "recipe")
    digest = hashlib.sha256()
    for index in range(50):
        digest.update(made(target, [b'name = "a"\n[budget]\nmax_error = 0.5\n'], 0, index))
    assert digest.hexdigest()[:16] == "371b8e6f3551df4c"
