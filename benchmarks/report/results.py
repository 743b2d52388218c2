"""What a benchmark run measured, as read from a result file of pytest-benchmark or from the summary of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.harness.contender import ANCHOR
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.errors import InvalidInput

COMPARED = ("latency", "throughput")
"""Suites in which contenders were timed against each other."""

DIM = 768
"""Size of the vectors where nothing else was asked for."""

DISTURBED = 0.05
"""Share of the CPUs that other programs may take while a cell is timed before a reader has to be warned."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender at one batch size; `record` is what `benchmarks.harness.record` wrote."""

    record: dict[str, Any]

    @property
    def key(self) -> tuple[str, int, str]:
        """Architecture, batch size and contender."""
        return self.model, self.batch, self.contender

    @property
    def model(self) -> str:
        """The architecture."""
        return str(self.record["model"])

    @property
    def contender(self) -> str:
        """The contender's name."""
        return str(self.record["contender"])

    @property
    def ours(self) -> bool:
        """Whether it is a form of this project and not a peer."""
        return bool(self.record["ours"])

    @property
    def precision(self) -> str:
        """fp32, fp16, bf16 or int8."""
        return str(self.record["precision"])

    @property
    def backend(self) -> str:
        """onnx, native, … of ours; of a peer, what runs it."""
        return str(self.record.get("backend") or self.contender.split("-")[1])

    @property
    def batch(self) -> int:
        """Contexts per call."""
        return int(self.record["batch"])

    @property
    def dim(self) -> int:
        """Size of the vectors; summaries did not say it while there was one size only."""
        return int(self.record.get("dim") or DIM)

    @property
    def per_second(self) -> float:
        """Predictions per second."""
        return float(self.record["predictions_per_second"])

    @property
    def noise(self) -> float:
        """Relative spread of the rate between rounds, slow moments of the machine included."""
        return float(self.record["noise"])

    @property
    def elsewhere(self) -> float:
        """Share of the CPUs that other programs took while this was timed; 0 in files that do not say."""
        return float(self.record.get("cpus_busy_elsewhere", 0.0))

    @property
    def drift(self) -> float:
        """Largest 1 − cosine against the known answers."""
        return float(self.record["drift"])

    @property
    def over_anchor(self) -> float | None:
        """Times as fast as the plain ONNX export in onnxruntime, fp32, in the same rounds."""
        return 1.0 if self.contender == ANCHOR else self.record["speedup"].get(ANCHOR)

    @property
    def over_best_peer(self) -> float | None:
        """Times as fast as the best peer of equal precision in the same rounds; None where there is none."""
        ratio = self.record["ratio_to_best_peer"]
        return None if ratio is None else float(ratio)

    @property
    def best_peer(self) -> str | None:
        """The fastest peer of equal precision."""
        name = self.record.get("best_peer_at_equal_precision")
        return None if name is None else str(name)

    def interval(self, over: str | None) -> tuple[float, float] | None:
        """The 95 % interval of the ratio to the anchor or the best peer; None in files that hold none."""
        found = self.record.get("speedup_interval", {}).get(over)
        return None if found is None else (float(found[0]), float(found[1]))


@dataclass(frozen=True, slots=True)
class Entry:
    """One test of a suite in which contenders do not race; `notes` is what the test noted of itself."""

    name: str
    suite: str
    model: str
    notes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One result file: the machine, the compared rows, the other suites' entries, and what was not measured."""

    name: str
    machine: dict[str, Any]
    rows: tuple[Row, ...]
    entries: tuple[Entry, ...]
    ceilings: dict[str, Any] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def models(self) -> list[str]:
        """The architectures that were measured, in their usual order."""
        present = {row.model for row in self.rows}
        return [name for name in ARCHITECTURES if name in present]

    @property
    def dim(self) -> int:
        """Size of the vectors."""
        return self.rows[0].dim if self.rows else DIM

    @property
    def disturbed(self) -> list[str]:
        """The cells that were timed while other programs kept the CPUs busy."""
        return disturbed(self.rows)

    def select(self, *, model: str | None = None, batch: int | None = None, contender: str | None = None) -> list[Row]:
        """Return the rows that match."""
        return [
            row
            for row in self.rows
            if model in (None, row.model) and batch in (None, row.batch) and contender in (None, row.contender)
        ]

    def find(self, model: str, batch: int, contender: str) -> Row | None:
        """Return one row, or None."""
        return next(iter(self.select(model=model, batch=batch, contender=contender)), None)

    def best_peer(self, model: str, batch: int) -> Row | None:
        """Return the fastest peer, of any precision, or None."""
        peers = [row for row in self.select(model=model, batch=batch) if not row.ours]
        return max(peers, key=lambda row: row.per_second, default=None)


def from_pytest(name: str, body: dict[str, Any]) -> Run:
    """Return the run of a file that `pytest benchmarks/ --benchmark-json=FILE` wrote."""
    compared = [b["extra_info"] for b in body["benchmarks"] if b["extra_info"].get("suite") in COMPARED]
    others = [b for b in body["benchmarks"] if b["extra_info"].get("suite") not in COMPARED]
    return Run(
        name=name,
        machine=body["machine_info"],
        rows=rows_of(compared),
        entries=tuple(map(_entry, others)),
        ceilings=body.get("ceilings", {}),
        not_measured=body.get("not_measured", {}),
        date=str(body.get("datetime", ""))[:10],
    )


def _entry(benchmark: dict[str, Any]) -> Entry:
    notes = benchmark["extra_info"]
    file = benchmark.get("fullname", "").partition(".py")[0].rpartition("test_")[2]
    model = notes.get("model") or (benchmark.get("params") or {}).get("architecture", "")
    kept = {key: note for key, note in notes.items() if key not in ("suite", "model")}
    return Entry(benchmark["name"], str(notes.get("suite") or file), str(model), kept)


def join(runs: Iterable[Run]) -> list[Run]:
    """Join runs of one machine and one size of vectors that measured different things, an architecture each, say.

    Ratios stay what they were, since each was taken within one session. What a later run measured again is
    dropped: the first file given is the one that counts. Ceilings are shown from the first.
    """
    joined: list[Run] = []
    for run in runs:
        same = next((i for i, other in enumerate(joined) if (other.machine, other.dim) == (run.machine, run.dim)), None)
        if same is None:
            joined.append(run)
            continue
        first = joined[same]
        known = {(row.model, row.batch) for row in first.rows}
        names = {entry.name for entry in first.entries}
        rows = [row.record for row in (*first.rows, *(r for r in run.rows if (r.model, r.batch) not in known))]
        joined[same] = replace(
            first,
            rows=rows_of(rows),
            entries=(*first.entries, *(e for e in run.entries if e.name not in names)),
            not_measured=first.not_measured | run.not_measured,
        )
    return joined


def newest_first(runs: Iterable[Run]) -> list[Run]:
    """Return the runs with races before those without, each by date: the first is the one that documents quote."""
    return sorted(runs, key=lambda run: (bool(run.rows), run.date), reverse=True)


def require_one_size(rows: Iterable[Row]) -> None:
    """Raise InvalidInput if `rows`, which are to be compared, are of vectors of several sizes."""
    sizes = sorted({row.dim for row in rows})
    if len(sizes) > 1:
        raise InvalidInput(f"runs of vectors of {' and '.join(map(str, sizes))} cannot be compared; give --dim")


def rows_of(records: Iterable[dict[str, Any]]) -> tuple[Row, ...]:
    """Wrap records, sorted by architecture, batch and contender, ours first."""
    order = {name: i for i, name in enumerate(ARCHITECTURES)}
    rows = [Row(record) for record in records]
    return tuple(sorted(rows, key=lambda r: (order.get(r.model, 99), r.batch, not r.ours, r.contender)))


def disturbed(rows: Iterable[Row]) -> list[str]:
    """Return the cells among `rows` that were timed while other programs kept the CPUs busy."""
    found = {f"{r.model} batch {r.batch} ({r.elsewhere:.0%})": r.elsewhere for r in rows if r.elsewhere > DISTURBED}
    return sorted(found, key=lambda cell: -found[cell])
