"""Markdown tables: the short one for the README, and the full one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.contender import ANCHOR
from benchmarks.report import reference
from benchmarks.report.results import Row, Run
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.commands.tables import markdown
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import atomic, machine

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
README_BATCHES = (1, 32, 128)
README_FORMS = (("lvm-onnx-fp32", "fp32"), ("lvm-onnx-int8", "int8"))


def count(value: float | None) -> str:
    """Format predictions per second with three digits that mean something: 873, 18.4k, 1.25M."""
    if value is None:
        return "–"
    for factor, unit in ((1e6, "M"), (1e3, "k"), (1.0, "")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{2 if scaled < 10 and unit else 1 if scaled < 100 and unit else 0}f}{unit}"
    return f"{value:.2f}"


def plus_minus(ratio: float | None, interval: tuple[float, float] | None) -> str:
    """Format a ratio with the farther end of its interval: 1.43 ± 0.02."""
    if ratio is None or interval is None:
        return "–" if ratio is None else f"{ratio:.2f}"
    return f"{ratio:.2f} ± {max(ratio - interval[0], interval[1] - ratio):.2f}"


EXPLANATION = (
    "Predictions per second, D = 768, T = 5, `Predictor.predict` with all its checks, threads as suits each side. "
    "Behind it, times as fast as the same model exported as it is and run by onnxruntime in fp32 / as the fastest "
    "peer of equal precision (eager PyTorch, TorchScript, torch.compile, onnxruntime, its `quantize_dynamic`, "
    "OpenVINO, each at its best setting), timed in turns with ours; ± is the 95 % interval over the rounds."
)


def readme_section(runs: Sequence[Run]) -> str:
    """Return the README's part: our forms on each machine beside plain and the best peer; the first one is unfolded."""
    models = [name for name in CONFIGS if any(name in run.models for run in runs)]
    parts = [*map(machine_section, runs[:1]), *map(_folded, runs[1:]), EXPLANATION, reference_table(models)]
    return "\n\n".join(filter(None, parts))


def machine_section(run: Run) -> str:
    """Return one machine's part: hardware, table, peers."""
    return "\n\n".join(filter(None, (f"**{machine.line(run.machine)}** ({_made_with(run)})", _ours(run), _peers(run))))


def _folded(run: Run) -> str:
    body = "\n\n".join(filter(None, (_ours(run), _peers(run))))
    return f"<details><summary>{machine.line(run.machine)} ({_made_with(run)})</summary>\n\n{body}\n\n</details>"


def _made_with(run: Run) -> str:
    versions = run.machine["versions"]
    wanted = ", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "torch", "openvino") if name in versions)
    busy = len(run.disturbed)
    return f"{wanted}; {run.date}" + (f"; {busy} cells timed beside other programs" if busy else "")


def _ours(run: Run) -> str:
    """Return the table of our forms, two rows per architecture."""
    rows = []
    for model in run.models:
        for contender, precision in README_FORMS:
            found = [run.find(model, batch, contender) for batch in README_BATCHES]
            if any(found):
                rows.append([CONFIGS[model].title, precision, *(_cell(row) for row in found), _drift(found)])
    header = ["model", "form", *(f"batch {batch}" for batch in README_BATCHES), "drift"]
    return markdown(header, rows, left=2) if rows else ""


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    plain = plus_minus(row.over_anchor, row.interval(ANCHOR))
    return f"**{count(row.per_second)}** {plain} / {plus_minus(row.over_best_peer, row.interval(row.best_peer))}"


def _peers(run: Run) -> str:
    """Return a sentence about which peers our forms were measured against."""
    said = []
    for contender, precision in README_FORMS:
        rows = [r for batch in README_BATCHES for r in run.select(batch=batch, contender=contender)]
        names = Counter(_short(r.best_peer, precision) for r in rows if r.best_peer)
        if names:
            said.append(
                f"in {precision} " + ", ".join(f"{name} ({n} of {len(rows)})" for name, n in names.most_common())
            )
    return f"Fastest peer: {'; '.join(said)}." if said else ""


def reference_table(models: Sequence[str]) -> str:
    """Return what the reference implementation measured, labelled so."""
    rows = [
        [CONFIGS[model].title, *(f"*{count(reference.per_second(model, batch))}*" for batch in README_BATCHES)]
        for model in models
    ]
    label = f"For orientation only, other hardware and not measured here: the {reference.LABEL}."
    return f"{label}\n\n{markdown(['M1 Max', *(f'batch {b}' for b in README_BATCHES)], rows)}" if rows else ""


def _drift(rows: Sequence[Row | None]) -> str:
    present = [row.drift for row in rows if row]
    return f"{max(present):.0e}" if present else ""


def _short(peer: str, precision: str) -> str:
    return peer.removeprefix("peer-").removesuffix(f"-{precision}")


def full_table(run: Run) -> str:
    """Return every compared row of a run."""
    header = ["model", "batch", "contender", "threads", "predictions/s", "noise", "median ms", "p95", "p99"]
    header += ["× plain", "× best peer", "of product ceiling", "of roofline", "drift"]
    rows = []
    for row in run.rows:
        r = row.record
        ms = r["milliseconds"]
        title, threads = CONFIGS[row.model].title, str(r["threads"] or "–")
        cells = [title, str(row.batch), row.contender, threads, count(row.per_second)]
        cells += [f"{row.noise:.0%}", *(f"{ms[key]:.3g}" for key in ("median", "p95", "p99"))]
        cells += [plus_minus(row.over_anchor, row.interval(ANCHOR))]
        cells += [plus_minus(row.over_best_peer, row.interval(row.best_peer))]
        cells += [_percent(r["share_of_product_ceiling"]), _percent(r["share_of_roofline"]), f"{row.drift:.0e}"]
        rows.append(cells)
    return markdown(header, rows, left=3)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def write_readme(path: Path, runs: Sequence[Run]) -> None:
    """Replace what stands between the two markers of `path`; InvalidInput if they are not there, once each."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InvalidInput(f"{path}: expected one line {BEGIN} and, after it, one line {END}; the table goes between")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    atomic.write_bytes(path, f"{head}{BEGIN}\n{readme_section(runs)}\n{END}{tail}".encode())
