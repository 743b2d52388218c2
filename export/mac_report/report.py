"""The sections of the report on a Mac. One that fails says so in the report and leaves the others to run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.drift import drift, largest_difference
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends.batch_sizes import any_batch
from lvm_runtime.commands.tables import markdown
from lvm_runtime.coreml.package import UNITS, import_coremltools
from lvm_runtime.errors import one_line
from lvm_runtime.models import build_model, save_model
from lvm_runtime.selection.timing import interleave
from lvm_runtime.system import machine

from ..coreml.convert import convert, save
from ..coreml.export import export_coreml
from ..coreml.forms.layers import ErfGELU
from ..coreml.options import CoreMLOptions
from ..randomise import randomise
from ..source import Source
from ..verify import SAMPLE_SEED, Sample
from . import coreai
from .runtimes import runtimes

DEVICES = tuple(UNITS)
REPEATS = 7


def write_report(folder: Path, models: Sequence[str], dim: int) -> tuple[str, list[dict[str, Any]]]:
    """Return the report and its measurements; packages and assets of random weights are made in `folder`."""
    entries: list[dict[str, Any]] = []
    steps: list[tuple[str, Callable[[], str]]] = []
    for name in models:
        steps += [
            (f"{name}: packages against known answers", partial(verification, folder, name, dim)),
            (f"{name}: placement by Core ML", partial(placement, folder, name)),
            (f"{name}: speed of Core ML", partial(speed, folder, name, dim)),
            (f"{name}: every runtime", partial(runtimes, folder, name, dim, entries)),
            (f"{name}: placement by Core AI", partial(coreai.placement, folder, name)),
            (f"{name}: a training step on MPS", partial(training_parity, name, dim)),
        ]
    steps.append(("GELU", lambda: gelu_accuracy(folder)))
    bar = tqdm(steps, unit="section", dynamic_ncols=True, disable=not sys.stderr.isatty())
    parts = ["# Report of a Mac\n", hardware()]
    for title, body in bar:
        bar.set_description(title)
        parts.append(section(title, body))
    return "\n".join(parts), entries


def section(title: str, body: Callable[[], str]) -> str:
    """Return a section of the report, with the error in place of its body if it fails."""
    if not sys.stderr.isatty():  # where no bar says it
        print(f"mac report: {title}", file=sys.stderr, flush=True)
    try:
        text = body()
    except Exception as error:  # whatever fails on a device nobody has seen yet belongs into the report
        text = f"FAILED: {type(error).__name__}: {one_line(error)}"
    return f"## {title}\n\n{text}\n"


def hardware() -> str:
    """Return what the figures depend on."""
    here = machine.describe()
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    return f"{machine.line(here)}; {here['system']}; {versions}\n"


def verification(folder: Path, name: str, dim: int) -> str:
    """Export the architecture, which verifies it by Core ML on the CPU as well, and compare every device."""
    from lvm_runtime.backends.coreml import CoreMLBackend

    model = randomise(build_model(make_config(name, dim=dim)))
    source = Source(save_model(model, folder / name), model)
    sample = Sample.of("random", model, random_contexts(128, 5, dim, seed=SAMPLE_SEED))
    artifact = export_coreml(source, [sample], CoreMLOptions())
    rows = []
    for device in DEVICES:
        backend = CoreMLBackend(artifact.file(artifact.find("coreml")[0]), device=device)
        run = any_batch(backend).run
        whole = drift(run(sample.contexts), sample.predictions)
        alone = np.concatenate([run(sample.contexts[i : i + 1]) for i in range(8)])
        change = largest_difference(alone, run(sample.contexts[:8]))
        finite = np.isfinite(run(np.zeros_like(sample.contexts[:1]))).all()
        rows.append((device, f"{whole.max():.1e}", f"{np.median(whole):.1e}", f"{change:.1e}", finite))
        backend.close()
    return markdown(("device", "worst drift", "median drift", "batch 1 against 8", "zeros finite"), rows)


def placement(folder: Path, name: str) -> str:
    """Return what Core ML's compute plan says when asked for the Neural Engine."""
    from lvm_runtime.commands.placement import describe_placement

    return f"```\n{describe_placement(folder / name / 'coreml' / 'fp16.mlpackage', 'ane')}\n```"


def speed(folder: Path, name: str, dim: int) -> str:
    """Time each device at each batch size of the package."""
    from lvm_runtime.backends.coreml import CoreMLBackend

    rows = []
    for device in DEVICES:
        backend = CoreMLBackend(folder / name / "coreml" / "fp16.mlpackage", device=device)
        for size in backend.batch_sizes or ():
            run = partial(backend.run, random_contexts(size, 5, dim, seed=SAMPLE_SEED))
            timing = interleave({device: run}, rounds=REPEATS, seconds=0.02)[device]
            ms = f"{timing.median * 1e3:.3f}", f"{timing.p95 * 1e3:.3f}"
            rows.append((device, size, *ms, f"{size / timing.median:,.0f}"))
        backend.close()
    return markdown(("device", "batch", "median ms", "p95 ms", "predictions/s"), rows)


def training_parity(name: str, dim: int) -> str:
    """Compare loss and gradients of one step on the CPU and on MPS."""
    contexts = torch.from_numpy(random_contexts(32, 5, dim, seed=SAMPLE_SEED))
    target = torch.from_numpy(random_contexts(32, 1, dim, seed=2))[:, 0]
    results = {}
    for device in ("cpu", "mps"):
        model = randomise(build_model(make_config(name, dim=dim))).to(device)
        loss = torch.nn.functional.mse_loss(model(contexts.to(device)), target.to(device))
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        results[device] = loss.item(), gradient
    (cpu_loss, cpu), (mps_loss, mps) = results["cpu"], results["mps"]
    error = ((cpu - mps).norm() / cpu.norm()).item()
    return f"loss {cpu_loss:.8f} on the CPU, {mps_loss:.8f} on MPS; gradients differ by {error:.1e} of their norm"


def gelu_accuracy(folder: Path) -> str:
    """Compare both spellings of GELU on every device with its exact values between −8 and 8."""
    ct = import_coremltools()
    x = torch.linspace(-8.0, 8.0, 4096).half().float().reshape(1, 8, 512)
    exact = torch.nn.functional.gelu(x.double()).numpy()
    rows = []
    for kind, module in (("table", torch.nn.GELU()), ("erf", ErfGELU())):
        options = CoreMLOptions(shapes="static", batch_sizes=(1,), gelu=kind)
        path = folder / f"gelu-{kind}.mlpackage"
        save(convert(module.eval(), options, (8, 512), (1,)), path)
        for device in DEVICES:
            model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[UNITS[device]])
            answer = np.asarray(model.predict({"context": x.numpy()})["prediction"], dtype=np.float64)
            error = np.abs(answer - exact)
            relative = (error / np.maximum(np.abs(exact), 1e-3)).max()
            rows.append((kind, device, f"{error.max():.1e}", f"{relative:.1e}"))
    return markdown(("form", "device", "largest error", "largest relative error"), rows)
