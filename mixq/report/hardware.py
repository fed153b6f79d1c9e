"""Hardware profiles as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from mixq.profiles import Profile


def profiles_table(profiles: Sequence[Profile]) -> Table:
    """One row per profile."""
    table = Table()
    for column in ("name", "runtime", "threads", "description"):
        table.add_column(column, overflow="fold")
    for profile in profiles:
        table.add_row(
            escape(profile.name),
            escape(profile.default_runtime),
            str(profile.default_threads),
            escape(profile.description),
        )
    return table


def profile_facts(profile: Profile) -> Table:
    """Rates and bandwidths of the chip."""
    table = Table(title=f"{escape(profile.name)}: {escape(profile.description)}")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("cores", str(profile.cores))
    for compute, rate in profile.core_ops_per_s.items():
        table.add_row(f"peak {escape(compute)} per core", f"{rate / 1e9:,.1f} Gop/s")
    table.add_row("memory bandwidth", f"{profile.dram_bytes_per_s / 1e9:,.1f} GB/s")
    table.add_row("memory bandwidth, one core", f"{profile.core_dram_bytes_per_s / 1e9:,.1f} GB/s")
    for level in profile.caches:
        whose = " per core" if level.private else ""
        table.add_row(f"{escape(level.name)} cache{whose}", f"{level.size_bytes / 1e6:,.1f} MB")
    table.add_row("fingerprint", profile.fingerprint)
    return table


def kernels_table(profile: Profile) -> Table:
    """Every runtime's kernels; a width without one is dequantized first and never faster."""
    table = Table(title="kernels")
    for column in ("runtime", "kernel", "operations", "bits", "groups", "computes in"):
        table.add_column(column, overflow="fold")
    for runtime in profile.runtimes.values():
        for kernel in runtime.kernels:
            groups = [str(size) for size in kernel.group_sizes]
            groups += ["per channel"] if kernel.per_channel else []
            table.add_row(
                escape(runtime.name),
                escape(kernel.name),
                ", ".join(kernel.ops),
                f"{kernel.bits:g}",
                ", ".join(groups) or "-",
                escape(kernel.compute),
            )
    return table


def profile_json(profile: Profile) -> dict[str, Any]:
    """A profile as JSON values: its fields in SI units, as `mixq.profiles.Profile` names them."""
    return asdict(profile)


def calibration_table(profile: Profile) -> Table:
    """The kernels of a calibrated machine, with how well their numbers explain what was timed."""
    table = Table(title=escape(profile.description))
    for column in (
        "runtime",
        "kernel",
        "bits",
        "at most",
        "overhead",
        "residual spread",
        "points",
    ):
        table.add_column(
            column, overflow="fold", justify="left" if column == "kernel" else "right"
        )
    for runtime in profile.runtimes.values():
        for kernel in runtime.kernels:
            rate = profile.core_ops_per_s[kernel.compute] * kernel.compute_efficiency
            table.add_row(
                escape(runtime.name),
                escape(kernel.name),
                f"{kernel.bits:g}",
                f"{rate / 1e9:,.0f} Gop/s",
                f"{kernel.overhead_s * 1e6:.1f} us",
                f"{kernel.spread:.0%}",
                str(kernel.points),
            )
    return table


def calibration_json(profile: Profile, path: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What a calibration found, as JSON values."""
    return {"path": path, **facts, "profile": profile_json(profile)}
