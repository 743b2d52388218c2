"""Has this project become slower? Answered by ratios within a run, never by absolute times.

A form's speed is taken as its ratio to the anchor (the plain export in onnxruntime) of the same run, so
that another machine, or a busier one, changes both sides of the comparison alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.results import Row, require_one_size
from lvm_runtime.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Change:
    """One of our forms now and in the stored run: times as fast as the anchor, and the noise of the two."""

    model: str
    batch: int
    contender: str
    before: float
    after: float
    noise: float

    @property
    def ratio(self) -> float:
        """Speed now over speed then; below 1 is slower."""
        return self.after / self.before

    def __str__(self) -> str:
        return (
            f"{self.model} batch {self.batch} {self.contender}: {self.ratio:.2f} of the stored run "
            f"({self.before:.2f}× plain then, {self.after:.2f}× now; noise {self.noise:.0%})"
        )


def changes(now: Sequence[Row], stored: Sequence[Row]) -> list[Change]:
    """Return the change of every form of ours that both runs measured, the worst first.

    Raises InvalidInput for vectors of two sizes, and if the runs have no form in common: nothing compared must not look
    like nothing wrong.
    """
    require_one_size((*now, *stored))
    before = {row.key: row for row in stored if row.ours and row.over_anchor}
    found = []
    for row in now:
        old = before.get(row.key)
        if old is not None and old.over_anchor and row.over_anchor:
            noise = row.noise + old.noise
            found.append(Change(*row.key, before=old.over_anchor, after=row.over_anchor, noise=noise))
    if not found:
        raise InvalidInput("the two runs have no form of this project at the same model and batch size in common")
    return sorted(found, key=lambda change: change.ratio)


def missing(now: Sequence[Row], stored: Sequence[Row]) -> list[str]:
    """Return a line for each form of ours that the stored run compared with the anchor and this one has not.

    A part of the benchmarks leaves most out on purpose; else a form that fails now would look like none that slowed.
    """
    compared = {row.key for row in now if row.over_anchor}
    batches: dict[tuple[str, str], list[int]] = {}
    for row in stored:
        if row.ours and row.over_anchor and row.key not in compared:
            batches.setdefault((row.model, row.contender), []).append(row.batch)
    return [
        f"{model} {contender}: in the stored run and not in this one, at batch {', '.join(map(str, sorted(sizes)))}"
        for (model, contender), sizes in batches.items()
    ]


def regressions(now: Sequence[Row], stored: Sequence[Row], fail_below: float) -> list[Change]:
    """Return the changes whose ratio is below `fail_below`, such as 0.9."""
    return [change for change in changes(now, stored) if change.ratio < fail_below]
