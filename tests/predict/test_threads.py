from __future__ import annotations

import pytest

from mixq.cost.machine import Machine
from mixq.errors import UsageError
from mixq.predict.threads import INFERRED_SPREAD, UNSAID_SPREAD, Threads, shared, threads_of
from mixq.profiles import load

XEON = load("intel_amx")

SAID = {
    "4": Threads(4),
    " 4 ": Threads(4),
    "8 threads": Threads(8),
    "8 cores": Threads(8),
    "16c": Threads(16),
    "56c: 14 inst x 4c": Threads(4, 14),
    "40c: 10 inst x 4c": Threads(4, 10),
    "2 instances x 8 cores": Threads(8, 2),
    "all": Threads(56),
    "all big cores": Threads(56),
    "8 (inferred)": Threads(8, 1, INFERRED_SPREAD, "threads as the table infers them"),
    "8P+4E": Threads(8, 1, INFERRED_SPREAD, "'8P+4E' taken for 8 threads"),
    "4 big, 4 little": Threads(4, 1, INFERRED_SPREAD, "'4 big, 4 little' taken for 4 threads"),
    "see source": Threads(8, 1, UNSAID_SPREAD, "threads not said, 8 assumed"),
    "unspecified": Threads(8, 1, UNSAID_SPREAD, "threads not said, 8 assumed"),
    "": Threads(8, 1, UNSAID_SPREAD, "threads not said, 8 assumed"),
    "188": Threads(56, 1, INFERRED_SPREAD, "188 threads taken for the 56 cores of intel_amx"),
}


@pytest.mark.parametrize(("text", "threads"), SAID.items(), ids=SAID)
def test_what_tables_say(text: str, threads: Threads) -> None:
    assert threads_of(text, XEON) == threads


@pytest.mark.parametrize("text", ["1 GPU", "GPU", "1x GPU", "", "see source"])
def test_a_gpu_is_one_thread(text: str) -> None:
    assert threads_of(text, load("nvidia_h100")) == Threads(1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("some", "not understood; write a number"),
        ("-4", "not understood"),
        ("4.5", "not understood"),
        ("x" * 5000, "not understood"),
        ("9" * 5000, "no machine has as many"),
        ("9" * 5000 + " GPU", "no machine has as many"),
        ("0", "is 0; write at least 1"),
        ("0 inst x 4c", "is 0; write at least 1"),
        ("8 GPUs", "one GPU is what is predicted"),
    ],
)
def test_refused_in_one_line(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as caught:
        threads_of(text, XEON)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_instances_share_memory_and_shared_caches() -> None:
    part = Machine.of(shared(XEON, 14), threads=4)
    whole = Machine.of(XEON, threads=4)
    assert part.memory_bytes_per_s == pytest.approx(XEON.dram_bytes_per_s / 14)
    assert part.memory_bytes_per_s < whole.memory_bytes_per_s
    l2, l3 = part.profile.caches
    assert l2 == XEON.caches[0]
    assert l3.size_bytes == XEON.caches[1].size_bytes // 14
    assert shared(XEON, 1) is XEON
