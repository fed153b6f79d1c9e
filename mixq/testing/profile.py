"""ProfileContract: laws that the prices of every chip must keep, whatever its numbers are."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Final, get_args

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixq.cost.kernels import kernel_for, price, weight_matrix
from mixq.cost.machine import Machine
from mixq.formats import Format
from mixq.graph.work import OpKind, Work
from mixq.profiles import Profile, load

FORMATS: Final = tuple(
    Format.parse(name)
    for name in (
        *("w32", "w16", "w8", "w8g64", "w8g200", "w4", "w4g16", "w4g64-zp", "w4g256"),
        *("w4g64-zp-squant", "w2", "w2g16", "w2g64", "w2g256-zp"),
    )
)
W32: Final = Format(32)
ROUNDING: Final = 1e-12
"""One rounding of a sum, a product and a root: a few units in the last place."""

sizes = st.integers(1, 5000)
works = st.builds(
    Work,
    kind=st.sampled_from(get_args(OpKind)),
    m=sizes,
    n=sizes,
    k=sizes,
    groups=st.integers(1, 300),
    repeats=st.integers(1, 300),
    input_bytes=st.integers(0, 10**9),
    output_bytes=st.integers(0, 10**9),
)
formats = st.sampled_from(FORMATS)
fields = st.sampled_from(["m", "n", "k", "groups", "repeats", "input_bytes", "output_bytes"])
# Every profile runs the same inherited test, which hypothesis takes for one test on two objects.
law = settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.differing_executors],
)


class ProfileContract:
    """Laws of one profile; inherit and name it.

        class TestMyChip(ProfileContract):
            source = "path/to/my_chip.toml"

    Attributes:
        source: a shipped profile's name or a TOML file.
    """

    source: ClassVar[str]

    @cached_property
    def profile(self) -> Profile:
        """The profile under test."""
        return load(self.source)

    @cached_property
    def machines(self) -> list[Machine]:
        """The profile on one core, on its default threads and on all cores."""
        counts = sorted({1, self.profile.default_threads, self.profile.cores})
        return [Machine.of(self.profile, threads=count) for count in counts]

    @law
    @given(work=works, fmt=formats)
    def test_latency_is_positive_and_finite(self, work: Work, fmt: Format) -> None:
        for machine in self.machines:
            assert 0 < _latency_s(machine, work, fmt) < math.inf

    @law
    @given(work=works, fmt=formats, field=fields, more=st.integers(1, 3000))
    def test_more_work_never_takes_less(
        self, work: Work, fmt: Format, field: str, more: int
    ) -> None:
        changes: dict[str, Any] = {field: getattr(work, field) + more}
        for machine in self.machines:
            before = _latency_s(machine, work, fmt)
            after = _latency_s(machine, replace(work, **changes), fmt)
            assert after >= before * (1 - ROUNDING)

    @law
    @given(work=works, fmt=formats)
    def test_nothing_beats_the_silicon(self, work: Work, fmt: Format) -> None:
        for machine in self.machines:
            call = price(machine, work, fmt, weight_matrix(work))
            served = [kernel for kernel in machine.runtime.kernels if work.kind in kernel.ops]
            ran = [call.kernel] if call.kernel else [k for k in served if k.bits == 32]
            peak = max(
                machine.profile.ops_per_s(kernel.compute, machine.threads) for kernel in ran
            )
            rows, columns = weight_matrix(work)
            weight_bytes = fmt.stored_bytes(rows, columns) if rows * columns else 0
            activation_bytes = work.input_bytes + work.output_bytes
            profile = machine.profile
            assert call.latency_s >= 2 * work.macs / peak
            assert call.latency_s >= weight_bytes / profile.dram_bytes_per_s
            nearest = profile.bytes_per_s_holding(0, machine.threads)
            assert call.latency_s >= activation_bytes / nearest
            beyond_bytes = activation_bytes - profile.caches[-1].size_bytes * machine.threads
            assert call.latency_s >= beyond_bytes / profile.dram_bytes_per_s

    @law
    @given(work=works, fmt=formats)
    def test_no_kernel_no_speed_up(self, work: Work, fmt: Format) -> None:
        for machine in self.machines:
            call = price(machine, work, fmt, weight_matrix(work))
            if call.kernel is None:
                assert call.latency_s > _latency_s(machine, work, W32)
                assert "dequantized to fp32 on every pass" in call.reason
            else:
                assert call.kernel.reads(fmt)
                assert work.kind in call.kernel.ops

    @law
    @given(work=works, fmt=formats)
    def test_more_threads_never_take_longer(self, work: Work, fmt: Format) -> None:
        times = [
            _latency_s(Machine.of(self.profile, threads=threads), work, fmt)
            for threads in range(1, self.profile.cores + 1, 3)
        ]
        for fewer, more in itertools.pairwise(times):
            assert more <= fewer * (1 + ROUNDING)

    @law
    @given(work=works, fmt=formats)
    def test_the_named_kernel_is_the_priced_one(self, work: Work, fmt: Format) -> None:
        for machine in self.machines:
            call = price(machine, work, fmt, weight_matrix(work))
            found = kernel_for(machine.profile, None, work, fmt, threads=machine.threads)
            assert found == (call.kernel, call.reason)


def _latency_s(machine: Machine, work: Work, fmt: Format) -> float:
    return price(machine, work, fmt, weight_matrix(work)).latency_s
