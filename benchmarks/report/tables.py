"""Markdown tables: the short one for the README, and the full one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import reference
from benchmarks.report.results import Row, Run, describe
from lvm_runtime import atomic
from lvm_runtime.errors import InvalidInput

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
README_BATCHES = (1, 32, 128)
README_FORMS = (("lvm-onnx-fp32", "fp32"), ("lvm-onnx-int8", "int8"))
TITLES = {"lstm": "LSTM", "gru": "GRU", "transformer": "Transformer", "amn": "AMN"}


def count(value: float | None) -> str:
    """Format predictions per second with three digits that mean something: 873, 18.4k, 1.25M."""
    if value is None:
        return "–"
    for factor, unit in ((1e6, "M"), (1e3, "k"), (1.0, "")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{2 if scaled < 10 and unit else 1 if scaled < 100 and unit else 0}f}{unit}"
    return f"{value:.2f}"


def times(ratio: float | None) -> str:
    """Format a ratio: 1.43×."""
    return "–" if ratio is None else f"{ratio:.2f}×"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose first `left` columns are text and whose others are figures."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def readme_section(runs: Sequence[Run]) -> str:
    """Return the README's part: per machine, our forms beside the best peer and the reference's figures."""
    parts = [_machine_section(run) for run in runs]
    parts.append(
        "Predictions per second, D = 768, T = 5, `Predictor.predict` with all its checks; threads as suits each side. "
        "In brackets: times as fast as the same model exported as it is and run by onnxruntime in fp32 / as the "
        "fastest peer of equal precision (of eager, TorchScript, torch.compile, onnxruntime, its `quantize_dynamic`, "
        "OpenVINO), all timed in turns with ours. "
        f"In italics: the {reference.LABEL}; other hardware, not measured here, for orientation only."
    )
    return "\n\n".join(parts)


def _machine_section(run: Run) -> str:
    versions = run.machine["versions"]
    wanted = ", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "torch", "openvino") if name in versions)
    header = ["model", "what runs", *(f"batch {batch}" for batch in README_BATCHES), "drift"]
    rows = [cells for model in run.models for cells in _model_rows(run, model)]
    shown = [r.noise for r in run.rows if r.contender in dict(README_FORMS) and r.batch in README_BATCHES]
    noise = f"; noise between rounds up to {max(shown):.0%}" if shown else ""
    return f"**{describe(run.machine)}** ({wanted}; {run.date}{noise})\n\n{markdown(header, rows, left=2)}"


def _model_rows(run: Run, model: str) -> list[list[str]]:
    rows = []
    for contender, precision in README_FORMS:
        found = [run.find(model, batch, contender) for batch in README_BATCHES]
        cells = [
            f"**{count(r.per_second)}** ({times(r.over_anchor)} / {times(r.over_best_peer)})" if r else "–"
            for r in found
        ]
        rows.append([TITLES[model], f"ONNX {precision}", *cells, _drift(found)])
    for precision in ("fp32", "int8"):
        found = [run.best_peer(model, batch, precision) for batch in README_BATCHES]
        cells = [f"{count(r.per_second)} ({_short(r)})" if r else "–" for r in found]
        rows.append([TITLES[model], f"best {precision} peer", *cells, _drift(found)])
    cells = [f"*{count(reference.per_second(model, batch))}*" for batch in README_BATCHES]
    return [row for row in rows if any(c != "–" for c in row[2:-1])] + [
        [TITLES[model], "*M1 Max, reference*", *cells, ""]
    ]


def _drift(rows: Sequence[Row | None]) -> str:
    present = [row.drift for row in rows if row]
    return f"{max(present):.0e}" if present else ""


def _short(peer: Row) -> str:
    return peer.contender.removeprefix("peer-").removesuffix(f"-{peer.precision}")


def full_table(run: Run) -> str:
    """Return every compared row of a run."""
    header = ["model", "batch", "contender", "threads", "predictions/s", "noise", "median ms", "p95", "p99"]
    header += ["× plain", "× best peer", "of product ceiling", "of roofline", "drift"]
    rows = []
    for row in run.rows:
        r = row.record
        ms = r["milliseconds"]
        cells = [TITLES[row.model], str(row.batch), row.contender, str(r["threads"] or "–"), count(row.per_second)]
        cells += [f"{row.noise:.0%}", *(f"{ms[key]:.3g}" for key in ("median", "p95", "p99"))]
        cells += [times(row.over_anchor), times(row.over_best_peer)]
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
