"""Hardware profiles as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.markup import escape
from rich.table import Table

from mixq.profiles import Kernel, Profile, Runtime


def profiles_table(profiles: Sequence[Profile]) -> Table:
    """One row per profile."""
    table = Table()
    for column in ("name", "searchable runtime", "measured runtimes", "description"):
        table.add_column(column, overflow="fold")
    table.add_column("threads", justify="right")
    for profile in profiles:
        measured = len(profile.runtimes) - len(profile.searchable)
        table.add_row(
            escape(profile.name),
            escape(", ".join(profile.searchable)),
            str(measured or "-"),
            escape(profile.description),
            f"{profile.default_threads} of {profile.cores}",
        )
    return table


def profile_facts(profile: Profile) -> Table:
    """Rates and bandwidths of the chip."""
    table = Table(title=f"{escape(profile.name)}: {escape(profile.description)}")
    table.add_column("what")
    table.add_column("value", justify="right", overflow="fold")
    each = " per core" if profile.cores > 1 else ""
    table.add_row("cores", str(profile.cores))
    table.add_row("default threads", str(profile.default_threads))
    if profile.units_per_core > 1:
        table.add_row("multiprocessors", str(profile.units_per_core))
    for compute, rate in profile.core_ops_per_s.items():
        table.add_row(f"peak {escape(compute)}{each}", _rate(rate))
    for level in profile.caches:
        table.add_row(
            f"{escape(level.name)} cache{each if level.private else ''}",
            f"{level.size_bytes / 1e6:,.1f} MB, {level.core_bytes_per_s / 1e9:,.0f} GB/s{each}",
        )
    table.add_row("memory bandwidth", f"{profile.dram_bytes_per_s / 1e9:,.1f} GB/s")
    if each:
        drawn = f"{profile.core_dram_bytes_per_s / 1e9:,.1f} GB/s"
        table.add_row("memory bandwidth, one core", drawn)
    if profile.chips:
        table.add_row("in published tables", escape(", ".join(profile.chips)))
    table.add_row("fingerprint", profile.fingerprint)
    return table


def kernels_tables(profile: Profile, runtime: str | None = None) -> list[Table]:
    """A table of kernels for each runtime, or for that one; those that can be searched first.

    Raises:
        ProfileError: if the profile has no such runtime.
    """
    tables = [_kernels_table(profile, one) for one in _shown(profile, runtime)]
    tables[-1].caption = (
        "of it, of memory: attained shares of the rate and of the bandwidth\n"
        "spread: of log(measured / predicted); points: how many measurements they were fitted to"
    )
    return tables


def profile_json(profile: Profile, runtime: str | None = None) -> dict[str, Any]:
    """A profile as JSON values: its fields in SI units, as `mixq.profiles.Profile` names them.

    Raises:
        ProfileError: if the profile has no runtime of that name.
    """
    if runtime is not None:
        profile = replace(profile, runtimes={runtime: profile.runtime(runtime)})
    return asdict(profile)


def _shown(profile: Profile, runtime: str | None) -> list[Runtime]:
    if runtime is not None:
        return [profile.runtime(runtime)]
    first = [profile.runtimes[name] for name in profile.searchable]
    return first + [one for one in profile.runtimes.values() if not one.searchable]


def _kernels_table(profile: Profile, runtime: Runtime) -> Table:
    use = "searched and predicted" if runtime.searchable else "predicted only"
    table = Table(
        title=f"{escape(runtime.name)} ({use}): {escape(runtime.description)}",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("kernel", "operations", "bits", "inputs", "rows", "groups", "rate"):
        table.add_column(column, overflow="fold", justify="right" if column == "bits" else "left")
    for column in ("of it", "of memory", "overhead", "spread", "points"):
        table.add_column(column, justify="right")
    inherited = any(kernel.origin != profile.name for kernel in runtime.kernels)
    if inherited:
        table.add_column("from", overflow="fold")
    for kernel in runtime.kernels:
        own = kernel.origin == profile.name
        origin = ["-" if own else escape(kernel.origin)] if inherited else []
        table.add_row(*_cells(kernel), *origin)
    return table


def _cells(kernel: Kernel) -> list[str]:
    groups = [str(size) for size in kernel.group_sizes]
    groups += ["channel"] if kernel.per_channel else []
    inputs = f"{kernel.activation_bits:g}"
    if kernel.activations != ("none",):
        inputs += f" {', '.join(kernel.activations)}"
    return [
        escape(kernel.name),
        " ".join(kernel.ops),
        f"{kernel.bits:g}",
        inputs,
        _rows(kernel),
        " ".join(groups) or "-",
        escape(kernel.compute),
        f"{kernel.compute_efficiency:.2g}",
        f"{kernel.memory_efficiency:.2g}",
        f"{kernel.overhead_s * 1e6:.3g} us",
        f"{kernel.spread:.2f}",
        str(kernel.points) if kernel.points else "-",
    ]


def _rate(ops_per_s: float) -> str:
    large = ops_per_s >= 1e13
    return f"{ops_per_s / (1e12 if large else 1e9):,.1f} {'Top/s' if large else 'Gop/s'}"


def _rows(kernel: Kernel) -> str:
    least, most = kernel.least_rows, kernel.most_rows
    # MOST_ROWS of the schema stands for no end.
    if most >= 2**40:
        return "any" if least == 1 else f"{least}+"
    return f"{least}-{most}" if least < most else str(least)


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
