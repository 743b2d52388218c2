"""The whole path once, on the bundled corpus of real document vectors: `make demo`.

Train an AMN, compare it with the baselines on documents it has not seen, export it to TorchScript, ONNX and
Core ML with each export verified, predict through every backend that this machine can run, and print what
came of it: backend, precision, drift, predictions per second at batch 1, 32 and 128.

n windows, T context length, D vector.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.formats import exports
from export.source import Source, open_source
from export.verify import make_samples
from lvm_runtime import BackendUnavailable, Predictor
from lvm_runtime.artifact.drift import max_drift
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.models import known_answers
from lvm_runtime.selection.timing import interleave
from train.evaluation.evaluate import Evaluation
from train.options import TUNED, TrainOptions
from train.prepared_data import load_split
from train.run import train

BATCHES = (1, 32, 128)
HELD_OUT = 512
TEST = 0.1
"""Share of the documents that neither train the model nor choose its best epoch: the comparison is made on them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One backend with one form: drift on held-out windows, predictions/s by batch size, or why it did not run."""

    backend: str
    precision: str
    drift: float
    speeds: tuple[float, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        cells = "".join(f"{speed:>11,.0f}" for speed in self.speeds) or f"  {self.note}"
        return f"  {self.backend:<12} {self.precision:<9} {self.drift:>7.1e}{cells}"


def demo(out: Path, epochs: int) -> None:
    """Run the path and print it; the artifact is left at `out`."""
    began = time.perf_counter()
    heading("1. Train an AMN on the bundled corpus")
    options = TrainOptions(model="amn", data="bundled", test=TEST, out=out, **(TUNED["amn"] | {"epochs": epochs}))
    test = train(options).test
    assert test is not None
    contexts, targets = _held_out(options)

    heading("2. Compare it with the baselines, on documents that it has not seen and that did not choose its epoch")
    _print_comparison(test)

    heading("3. Export it, each form verified against the training form in float64")
    source = open_source(str(out))
    _export(source)

    heading("4. Predict the held-out windows through every backend of this machine, and measure")
    answers, _ = known_answers(source.model, contexts)
    rows = [_measure(*form, out, contexts, answers) for form in _forms(Artifact.load(out))]
    print("  backend      precision   drift" + "".join(f"{f'batch {b}':>11}" for b in BATCHES) + "   (predictions/s)")
    print(*rows, sep="\n")
    with Predictor(out) as predictor:
        cosine = float((predictor.predict(contexts) * targets).sum(axis=1).mean())
    print(
        f"\nCosine to the true next vector: {cosine:.4f} over {len(contexts)} of the held-out windows. On all of them "
        f"the AMN is\nabove the linear average by {test.gain}.  ({time.perf_counter() - began:.0f} s)"
    )
    print(f'\nNext, in Python:\n\n  from lvm_runtime import Predictor; p = Predictor("{out}"); print(p.explain())\n')


def _held_out(options: TrainOptions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return contexts `[n, T, D]` and targets `[n, D]` of the test documents."""
    test = load_split(options, "cpu", lambda line: None)[1].test
    contexts, targets = test.batch(test.sample(HELD_OUT).starts)
    return contexts.numpy(), targets.numpy()


def _print_comparison(test: Evaluation) -> None:
    average = test.linear_average.value
    print(f"  {'':<16} cosine [95 % interval over documents]   to the linear average")
    for name, found in test.baselines.items():
        print(f"  {name:<16} {found.cosine!s:<37}   {found.cosine.value - average:+.4f}")
    gain = test.gain
    print(f"  {'AMN':<16} {test.metrics.cosine!s:<37}   {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")


def _export(source: Source) -> None:
    for path, export in exports(source, make_samples(source)):
        print(f"  {path:<33}", end="", flush=True)
        began = time.perf_counter()
        made = export().manifest.compiled[-1]
        size, seconds = made.file.bytes / 1e6, time.perf_counter() - began
        print(f"{size:5.1f} MB   drift {made.drift:.1e}   verified   {seconds:4.1f} s")


def _forms(artifact: Artifact) -> list[tuple[str, str, float]]:
    """Return (backend, precision, drift in the manifest) of everything that serves contexts of any batch size."""
    compiled = [(c.format, c.precision, c.drift) for c in artifact.manifest.compiled if c.form == "context"]
    return [("eager", "fp32", 0.0), *dict.fromkeys(compiled)]


def _measure(
    backend: str,
    precision: str,
    stored: float,
    path: Path,
    contexts: NDArray[np.float32],
    answers: NDArray[np.float64],
) -> Row:
    try:
        predictor = Predictor(path, backend=backend, precision=precision)
    except BackendUnavailable as error:
        return Row(backend, precision, stored, note=str(error).partition(";")[0])
    with predictor:
        drift = max_drift(predictor.predict(contexts), answers)
        sides = {str(b): (lambda batch=contexts[:b]: predictor.predict(batch)) for b in BATCHES}
        timings = interleave(sides, rounds=3, seconds=0.1)
        return Row(backend, precision, drift, tuple(b / timings[str(b)].median for b in BATCHES))


def heading(text: str) -> None:
    """Print the head of a step."""
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def main() -> None:
    """Run `python -m demo`."""
    parser = Parser(prog="python -m demo", description="Train, compare, export, verify, predict.")
    parser.add_argument(
        "--out", type=Path, default=Path("artifacts/demo"), help="artifact folder (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=4, help="epochs of training (default: %(default)s)")
    options = parser.parse_args()
    sys.exit(console.run(lambda: demo(options.out, options.epochs)))


if __name__ == "__main__":
    main()
