"""Rounds: proposals measured until the study holds them all, whoever measures them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeAlias

from mixq.errors import MixqError, NonFiniteError, OutputError
from mixq.progress import Progress
from mixq.search.study.ledger import Claim, Ledger, names_of
from mixq.search.study.study import GIVEN_UP, NOT_FINITE, Errors, Key, key_of
from mixq.search.trials import Proposal, Trial

STAGE: Final = "measuring plans"
Measure: TypeAlias = Callable[[Sequence[Proposal]], Generator[tuple[int, Errors | MixqError]]]
"""Place and errors of every plan as they are found, or why it cannot be measured."""


def run_trials(
    ledger: Ledger,
    proposals: Sequence[Proposal],
    measure: Measure,
    progress: Progress,
    *,
    at_once: int = 1,
) -> list[Trial]:
    """Measure every proposal that the study does not hold yet; all of them, in their order.

    A plan that makes the output NaN or infinite is a failed trial and is left out. What other
    processes measure is waited for.

    Args:
        ledger: of the study.
        proposals: two of which may be the same plan.
        measure: is asked for those that this process has claimed.
        progress: is told how far it is, with all processes' trials.
        at_once: how many to claim and measure together.

    Raises:
        OutputError: if the study cannot be written; what it holds stays.
        MixqError: whatever `measure` finds; the plan's trial is failed.
    """
    wanted: dict[Key, Proposal] = {}
    for proposal in proposals:
        wanted.setdefault(_key(proposal), proposal)
    told = -1
    while True:
        done = ledger.done()
        missing = [proposal for key, proposal in wanted.items() if key not in done]
        if wanted and len(missing) != told:
            told = len(missing)
            progress(STAGE, len(proposals) - told, len(proposals))
        if not missing:
            break
        claims = ledger.claim(missing, at_once)
        if claims:
            _measured(ledger, claims, measure)
        else:
            ledger.wait()
    found = ((proposal, done[_key(proposal)]) for proposal in proposals)
    return [ledger.trial(proposal, errors) for proposal, errors in found if errors is not None]


def _measured(ledger: Ledger, claims: Sequence[Claim], measure: Measure) -> None:
    """Measure claimed plans, and tell; a claim that comes to nothing is given up."""
    missing = []
    for claim in claims:
        known = ledger.known(claim)
        if known is None:
            missing.append(claim)
        else:
            ledger.tell(claim, known)
    if not missing:
        return
    pending = dict(enumerate(missing))
    try:
        with (
            ledger.heart(missing),
            contextlib.closing(measure([claim.proposal for claim in missing])) as outcomes,
        ):
            for index, outcome in outcomes:
                if isinstance(outcome, NonFiniteError):
                    ledger.fail(pending[index], NOT_FINITE)
                elif isinstance(outcome, MixqError):
                    raise outcome
                else:
                    ledger.tell(pending[index], outcome)
                del pending[index]
    except (MixqError, KeyboardInterrupt):
        with contextlib.suppress(OutputError):  # as the error itself may be
            for claim in pending.values():
                ledger.fail(claim, GIVEN_UP)
        raise


def _key(proposal: Proposal) -> Key:
    return key_of(names_of(proposal))
