"""Faults: commands are killed, starved and cut off, given again, and must end as if nothing had been.

    nice -n 10 python benchmarks/faults.py --tries 50

Every try starts a command in a fresh folder, lets one fault happen to it, looks at every file, gives
the same command again, and compares every byte with a run that nothing disturbed. *moment*: a
signal (SIGKILL half of the time, SIGINT, SIGTERM) at a random moment. *call*: the same just before
a system call that changes a file, one of each kind first. *full*, *broken*: ENOSPC or EIO from a
call on. *file size*: RLIMIT_FSIZE. *small disk*: a tmpfs with so much room (as root). *memory*:
RLIMIT_AS. `--every` meets every single call.

Resumed: of those that were hit. Equal: all bytes of all files but the journal's, which notes times.
Aborted: ended by a native library itself, where Python has no say.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults import aim
from tests.faults.commands import COMMANDS, Stage, Undisturbed
from tests.faults.disk import can_mount, small_disk
from tests.faults.driver import zygote
from tests.faults.fault import NONE, Fault
from tests.faults.survive import Survival, survive

Place = Callable[[Path], AbstractContextManager[object]]
ABORT = -6


@dataclass
class Row:
    """A command and a kind of fault."""

    command: str
    fault: str
    survivals: list[Survival] = field(default_factory=list)

    def __str__(self) -> str:
        tries = self.survivals
        hit = [one for one in tries if one.hurt]
        aborted = sum(one.outcomes[0].status == ABORT for one in tries)
        counts = (
            len(tries), len(hit), sum(not one.stuck for one in hit),
            sum(not one.differs for one in tries), sum(not one.damaged for one in tries),
            sum(not one.lost for one in tries), sum(not one.rubbish for one in tries),
            sum(not one.unclean for one in tries), aborted,
        )  # fmt: skip
        seconds = sum(one.seconds for one in tries)
        shown = " | ".join(map(str, counts))
        return f"| {self.command} | {self.fault} | {shown} | {seconds:.0f} |"


HEADER = """
| command | fault | tries | hit | resumed | equal | whole | nothing lost | no rubbish | one line | aborted | s |
|---|---|---|---|---|---|---|---|---|---|---|---|
""".strip()  # noqa: E501


def faults(
    kind: str, whole: Undisturbed, count: int, draw: random.Random, *, every: bool
) -> list[tuple[Fault, Place]]:
    """What happens in the tries of a row."""
    total = len(whole.outcome.calls)
    numbers = list(range(total)) if every else aim.calls(whole, count, draw)
    new_bytes = sum(len(data) for name, data in whole.contents.items() if name not in whole.start)
    match kind:
        case "moment":
            found = [aim.moment(whole, draw) for _ in range(count)]
        case "call":
            found = [aim.killed_at(number, draw) for number in numbers]
        case "full":
            found = [aim.full_at(number) for number in numbers]
        case "broken":
            found = [aim.broken_at(number) for number in numbers]
        case "file size":
            largest = max(map(len, whole.contents.values()))
            found = [Fault(file_bytes=int(largest ** draw.random())) for _ in range(count)]
        case "memory":
            found = [Fault(memory_bytes=int(10 ** draw.uniform(4, 8))) for _ in range(count)]
        case _:
            sizes = [int(draw.uniform(0, new_bytes)) for _ in range(count)]
            return [(NONE, small_disk(size)) for size in sizes]
    return [(fault, nullcontext) for fault in found]


def rows(
    stage: Stage, commands: Sequence[str], kinds: Sequence[str], tries: int, seed: int, every: bool
) -> Iterator[tuple[Row, list[tuple[Fault, Place]]]]:
    for command in commands:
        whole = stage.undisturbed(command)
        for kind in kinds:
            draw = random.Random(f"{seed} {command} {kind}")
            count = tries if kind == "moment" else max(tries // 5, 1)
            yield Row(command, kind), faults(kind, whole, count, draw, every=every)


def main() -> int:
    kinds = ("moment", "call", "full", "broken", "file size", "small disk", "memory")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tries", type=int, default=50, help="at moments; a fifth as many otherwise"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--every", action="store_true", help="every single call, which takes hours"
    )
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--faults", nargs="+", default=list(kinds), choices=kinds)
    arguments = parser.parse_args()
    chosen = [k for k in arguments.faults if k != "small disk" or can_mount()]
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as place, zygote() as started:
        stage = Stage(started, Path(place))
        planned = list(
            rows(stage, arguments.commands, chosen, arguments.tries, arguments.seed,
                 arguments.every)
        )  # fmt: skip
        total, done, begun = sum(len(tried) for _, tried in planned), 0, time.monotonic()
        print(HEADER, flush=True)
        for row, tried in planned:
            for fault, where in tried:
                one = survive(stage, row.command, [fault], Path(place, "hurt"), place=where)
                row.survivals.append(one)
                aborted = one.outcomes[0].status == ABORT
                problems += [
                    f"{row.command}, {fault}: {problem}"
                    for problem in one.problems
                    if not (aborted and problem.startswith("unclean"))
                ]
                done += 1
                left_s = (time.monotonic() - begun) / done * (total - done)
                print(
                    f"\r{done} of {total}, {left_s / 60:.0f} min left, {len(problems)} problems ",
                    end="", file=sys.stderr, flush=True,
                )  # fmt: skip
            print(row, flush=True)
    print(f"\n{total} tries, seed {arguments.seed}, {os.times().children_user:.0f} s of CPU time")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
