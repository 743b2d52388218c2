"""Markdown tables of a run: our forms beside their peers, and every figure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.contender import ANCHOR
from benchmarks.report import reference
from benchmarks.report.results import DIM, Row, Run
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.commands.tables import markdown
from lvm_runtime.errors import counted
from lvm_runtime.system import machine

BATCHES = (1, 32, 128)
FORMS = {"fp32": ("lvm-native-fp32", "lvm-onnx-fp32"), "int8": ("lvm-native-int8", "lvm-onnx-int8")}
"""Ours by precision; tables show the fastest of each cell."""
_PEERS = {
    ANCHOR: "plain onnxruntime",
    "peer-onnxruntime-dynamic-int8": "onnxruntime's `quantize_dynamic`",
    "peer-eager-int8": "PyTorch's `quantize_dynamic`",
}
_BACKENDS = {"openvino": "OpenVINO", "compile": "torch.compile", "eager": "eager PyTorch", "torchscript": "TorchScript"}

EXPLANATION = (
    "Predictions per second of `Predictor.predict` with all its checks, for vectors of 768, unless a heading says "
    "otherwise, and contexts of five, with as many threads as suit each side. *× plain onnxruntime*: times as fast as "
    "the same model exported as it is and run by onnxruntime in fp32. *× fastest peer*: times as fast as the fastest "
    "other way to run it in the same precision (eager PyTorch and its `quantize_dynamic`, TorchScript, torch.compile, "
    "onnxruntime and its `quantize_dynamic`, OpenVINO in fp32 and int8, each at its best setting); below 1, the peer "
    "is faster. Both are timed in turns with ours, and ± is the 95 % interval over the rounds of one run. From one run"
    " to the next on the same machine, ratios moved by 3 to 5 % at the median. Drift is 1 − cosine to the answers of "
    "the training form in float64, at worst."
)


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


def forms_of(run: Run, batches: Sequence[int] = BATCHES) -> list[Row]:
    """Return the rows of our forms that tables show: by architecture, precision and batch size."""
    found = (our_row(run, model, batch, precision) for model in run.models for precision in FORMS for batch in batches)
    return [row for row in found if row is not None]


def our_row(run: Run, model: str, batch: int, precision: str) -> Row | None:
    """Return the fastest of our forms in one precision, or None."""
    rows = filter(None, (run.find(model, batch, form) for form in FORMS[precision]))
    return max(rows, key=lambda row: row.per_second, default=None)


def machine_section(run: Run) -> str:
    """Return one machine's part: hardware, versions, our forms beside their peers, and where a peer is faster."""
    parts = [f"### {machine.line(run.machine)}{vectors_of(run)}", _made_with(run)]
    parts += [_ours(run), faster_peers(run)] if run.rows else []
    return "\n\n".join(filter(None, parts))


def _made_with(run: Run) -> str:
    versions = run.machine["versions"]
    wanted = ", ".join(
        f"{name} {versions[name]}" for name in ("onnxruntime", "torch", "openvino", "coreai-torch") if name in versions
    )
    busy = f"; {counted(len(run.disturbed), 'cell')} timed beside other programs" if run.disturbed else ""
    return f"Measured on {run.date} with {wanted}{busy}."


def vectors_of(run: Run) -> str:
    """Return what follows the name of a machine: the size of the vectors, nothing for the usual one."""
    return "" if run.dim == DIM else f", vectors of {run.dim}"


def _ours(run: Run) -> str:
    header = ("model", "precision", "backend", "fastest peer", "batch", "predictions/s")
    rows = [
        (
            CONFIGS[row.model].title,
            row.precision,
            row.backend,
            peer_title(row.best_peer),
            row.batch,
            count(row.per_second),
            plus_minus(row.over_anchor, row.interval(ANCHOR)),
            plus_minus(row.over_best_peer, row.interval(row.best_peer)),
            f"{row.drift:.0e}",
        )
        for row in forms_of(run)
    ]
    return markdown((*header, "× plain onnxruntime", "× fastest peer", "drift"), rows, left=4) if rows else ""


def peer_title(name: str | None) -> str:
    """Return what a peer is called in tables."""
    if name is None:
        return "–"
    backend = name.removeprefix("peer-").partition("-")[0]
    return _PEERS.get(name) or _BACKENDS.get(backend, backend)


def faster_peers(run: Run, batches: Sequence[int] = BATCHES) -> str:
    """Return a sentence for each peer that is faster than a form of ours, beyond the interval of their ratio.

    Where there is none, and a ratio below 1 whose interval reaches 1, no more is said than that.
    """
    beaten: dict[tuple[str, str], list[Row]] = {}
    rows = forms_of(run, batches)
    for row in rows:
        _, high = row.interval(row.best_peer) or (0.0, row.over_best_peer or 1.0)
        if row.best_peer is not None and high < 1:
            beaten.setdefault((row.best_peer, row.precision), []).append(row)
    said = [_faster(run, peer, precision, rows) for (peer, precision), rows in beaten.items()]
    behind = any(row.over_best_peer is not None and row.over_best_peer < 1 for row in rows)
    none = f"No peer is faster in the same precision{', beyond the interval of a ratio' if behind else ''}."
    return " ".join(said) or none


def _faster(run: Run, peer: str, precision: str, rows: Sequence[Row]) -> str:
    by_model: dict[str, list[str]] = {}
    for row in rows:
        by_model.setdefault(CONFIGS[row.model].title, []).append(str(row.batch))
    where = words([f"the {model} (batch {words(sizes)})" for model, sizes in by_model.items()])
    theirs = [found.drift for row in rows if (found := run.find(row.model, row.batch, peer)) is not None]
    drift = ""
    if theirs and precision != "fp32":
        drift = f" Its drift is up to {max(theirs):.0e}, ours up to {max(row.drift for row in rows):.0e}."
    share = span([row.over_best_peer or 0.0 for row in rows])
    return f"For {where} {peer_title(peer)} is faster than our {precision}: ours reaches {share} of its speed.{drift}"


def words(parts: Sequence[str]) -> str:
    """Join: "1, 32 and 128"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def span(ratios: Sequence[float]) -> str:
    """Format the range of some ratios: "0.63 to 0.91", or one figure where it is one."""
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"


def reference_table(models: Sequence[str]) -> str:
    """Return what the reference implementation measured, labelled so."""
    rows = [
        [CONFIGS[model].title, *(f"*{count(reference.per_second(model, batch))}*" for batch in BATCHES)]
        for model in models
    ]
    label = f"For orientation only, other hardware and not measured here: the {reference.LABEL}."
    return f"{label}\n\n{markdown(['M1 Max', *(f'batch {b}' for b in BATCHES)], rows)}" if rows else ""


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
