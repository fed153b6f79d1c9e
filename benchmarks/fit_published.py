"""Fits every kernel of the published tables and writes profiles/fitted/NAME.toml.

    python benchmarks/fit_published.py [--output profiles/fitted]

Reads benchmarks/data/published.csv and the chips of profiles/, nothing else: the same files are
written again from the same data. How well the fits predict what they have not seen is what
benchmarks/cost_published.py prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from published.chips import profile_of
from published.fits import Fits
from published.fitted_file import Written, write_fitted
from published.groups import Group, groups_of, products

from mixq.cli.console import progress_bar
from mixq.progress import Progress, track

FOLDER = Path(__file__).parent.parent / "profiles" / "fitted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    with progress_bar() as progress:
        kernels: dict[str, list[Written]] = {}
        # Kernels of whole models join here: add their lists to those of the products.
        for part in (fitted_products(progress),):
            for profile, written in part.items():
                kernels.setdefault(profile, []).extend(written)
        for profile, written in track(sorted(kernels.items()), "writing", len(kernels), progress):
            write_fitted(arguments.output, profile, written)
    for profile, written in sorted(kernels.items()):
        points = sum(one.kernel.points for one in written)
        print(f"{profile:32} {len(written):3} kernels, {points:4} points")


def fitted_products(progress: Progress) -> Mapping[str, list[Written]]:
    """The kernels of all products, by profile."""
    groups = groups_of(products(), profile_of)
    progress("fitting products", 0, 1)
    fits = Fits(groups).fit()
    progress("fitting products", 1, 1)
    found: dict[str, list[Written]] = {}
    for group in groups:
        written = Written(group.runtime, fits[group.key].kernel, source_of(group))
        found.setdefault(group.profile.name, []).append(written)
    return found


def source_of(group: Group) -> str:
    """Where the points of a kernel come from."""
    files = dict.fromkeys(
        dict(row.cells).get("source", "").removeprefix("https://") for row in group.rows
    )
    ids = [dict(row.cells).get("id", "") for row in group.rows]
    count = f"{len(ids)} point{'s' if len(ids) > 1 else ''}, {ids[0]} to {ids[-1]}"
    return f"fitted to {count if len(ids) > 1 else ids[0]}: {', '.join(files)}"


if __name__ == "__main__":
    main()
