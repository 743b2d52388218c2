"""One training run from options to an artifact, as a function: `train(options)` is all that the command does.

The run reads like its steps: load and check the corpus, split it by documents, score the baselines, train
and judge each epoch, keep the best, pass the gate, measure, write.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from lvm_runtime.artifact.folder import MANIFEST, Artifact, require_place
from lvm_runtime.backends.devices import torch_device, usual_defaults
from lvm_runtime.errors import ArtifactError, InvalidInput, counted
from lvm_runtime.models import build_model, parameter_count, save_model
from lvm_runtime.system import atomic

from .checkpoint import BEFORE, FILE, Checkpoint, Progress, save_checkpoint
from .distributed import Processes
from .evaluation.evaluate import Evaluation, evaluate, figures, verdict
from .evaluation.gate import ROWS, check_agreement, compare_step
from .evaluation.metrics import score_rows
from .evaluation.retrieval import rank_rows
from .loop import WARMUP_STEPS, Trainer, TrainingDiverged, autocast
from .options import RUN, TrainOptions
from .prepared_data import PreparedData, Say, prepare
from .provenance import provenance
from .ranked_start import start_ranked
from .report.results import TrainResult, write_results
from .terminal import Interruption, progress_bar
from .warm_start import start_at_baseline

REAL_CONTEXTS = 64
"""Held-out windows offered to the artifact's fingerprint."""


@usual_defaults()
def train(options: TrainOptions, say: Say = print, *, earlier: TrainResult | None = None) -> TrainResult:
    """Train one model and write its artifact, in place of any that was there; `say` receives each line of the report.

    The baselines of an `earlier` run on the same data are not fitted again.

    Raises children of LvmError for anything wrong with options, data, device or the trained model, and
    KeyboardInterrupt after Ctrl-C, with a checkpoint written from which `resume` continues.

    >>> from pathlib import Path
    >>> small = {"data": "synthetic", "windows": 200, "dim": 16, "epochs": 1}
    >>> options = TrainOptions(model="amn", out=Path("artifacts/tiny"), **small)
    >>> result = train(options, say=lambda line: None)
    >>> result.artifact.config.dim, result.best_epoch
    (16, 1)
    """
    device = torch_device(options.device)
    require_start(options)  # before anything is made; what it read may change until the run has its place
    processes = Processes(device)
    report: Say = say if processes.main else (lambda line: None)
    try:
        places = _places(options) if processes.main else nullcontext()
        with processes.together(), places, torch.autocast(device, enabled=False):
            return _train(options, processes, processes.device(device), report, earlier)
    finally:
        processes.close()


def _train(
    options: TrainOptions, processes: Processes, device: str, report: Say, earlier: TrainResult | None
) -> TrainResult:
    if options.loss == "infonce" and processes.count > 1:
        raise InvalidInput(
            f"infonce with {processes.count} processes would take its negatives from a part of the batch only; "
            "run it in one process"
        )
    checkpoint = require_start(options)
    prepared = prepare(
        options,
        device,
        report,
        earlier.prepared if earlier else None,
        look=checkpoint.compare_data if checkpoint else None,
    )
    began = time.perf_counter()
    trainer = _trainer(options, prepared, processes, report)
    progress = _start(trainer, prepared, checkpoint, report, time.perf_counter() - began)
    del checkpoint  # several times the memory of the model, for as long as the run lasts
    with deterministic_order(trainer), Interruption() as interruption:
        _epochs(trainer, progress, prepared, interruption, report)
    return _finish(trainer, progress, prepared, report)


def require_start(options: TrainOptions) -> Checkpoint | None:
    """Return the checkpoint that a run goes on from, if it does.

    Raises a child of LvmError for what keeps a run with these options from going on, or from its first step here.
    """
    if options.model == "lstm" and torch_device(options.device) == "cpu":
        if options.compile:
            raise InvalidInput("compile: inductor fails on the LSTM's operator on the CPU; train it without --compile")
        if options.precision == "bf16" and not _lstm_runs_in_bf16():
            raise InvalidInput("precision is bf16, in which PyTorch computes no LSTM on this CPU; train it in fp32")
    return Checkpoint.read(options.run_path / FILE, options) if options.resume else None


def _lstm_runs_in_bf16() -> bool:
    """Say whether this CPU has the instructions that oneDNN asks for."""
    with autocast("bf16", torch.device("cpu")):
        try:
            nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
        except RuntimeError:
            return False
    return True


@contextmanager
def _places(options: TrainOptions) -> Iterator[None]:
    """Have the folder of the checkpoint and the figures for this run alone.

    Raises a child of LvmError where they or the artifact could not be written at the end, and while another run is
    there: each would go on from the other's checkpoint.
    """
    path, run = options.artifact_path, options.run_path
    require_place(path, overwrite=True)
    atomic.require_writable(path, folder=True)
    atomic.require_writable(run, folder=True)
    if (run / MANIFEST).exists():
        raise ArtifactError(
            f"{run}: is an artifact, among whose files this run's checkpoint would come; choose another --out than "
            f"{path}, or move it away"
        )
    real = Path(os.path.realpath(path))  # the same for a run that gets there by a link
    with atomic.locked(real.with_name(real.name + RUN), wait=False):
        yield


def _trainer(options: TrainOptions, prepared: PreparedData, processes: Processes, say: Say) -> Trainer:
    config = options.config(prepared.corpus.dim)
    model = build_model(config, seed=options.seed)
    train_windows = prepared.split.train
    device = train_windows.starts.device
    say(f"{options.model}: {parameter_count(model):,} parameters, training on {device} in {options.precision}")
    if device.type != "cpu":
        contexts, targets = train_windows.batch(train_windows.starts[: options.batch_size])
        say(f"first step against the CPU: {compare_step(model, contexts, targets, str(device))}")
    if options.start == "baseline" and not options.resume:
        say(
            f"start: {start_at_baseline(model.to(device), train_windows, seed=options.seed) or 'an average, by itself'}"
        )
    torch.manual_seed(options.seed + processes.rank)  # dropout; the order of windows has its own generator
    trainer = Trainer(model, train_windows, options, processes)
    if trainer.highest_rate < options.learning_rate / 2:
        steps = counted(options.epochs * trainer.steps, "step")
        say(f"note: the learning rate rises to {trainer.highest_rate:.1e} only and not to {options.learning_rate:.1e}: "
            f"the run has {steps}, and warms up for {WARMUP_STEPS}")  # fmt: skip
    if trainer.ranking is not None:
        say(f"ranking over {trainer.ranking.count:,} of {counted(len(trainer.ranking.rows), 'training vector')}")
        if options.start == "ranked" and not config.starts_at_average and not options.resume:
            start = start_ranked(trainer.model, train_windows, trainer.ranking,
                                 cosine_weight=options.cosine_weight, seed=options.seed)  # fmt: skip
            trainer.restart_average()
            say(f"start: {start}")
    return trainer


def _start(
    trainer: Trainer, prepared: PreparedData, checkpoint: Checkpoint | None, say: Say, seconds: float
) -> Progress:
    """Return the progress that a checkpoint holds, or a new one; a model set to a baseline counts as epoch 0."""
    options = trainer.options
    path = options.run_path / FILE
    if checkpoint is not None:
        progress = checkpoint.restore(trainer)
        if trainer.epoch < options.epochs:
            say(f"resuming at epoch {trainer.epoch + 1}, step {trainer.step} of {trainer.steps}")
        else:
            say(
                f"nothing is left to train: this run has had its {counted(options.epochs, 'epoch')}, and its artifact "
                "is written again; more --epochs would extend it"
            )
        planned = checkpoint.state["options"]["epochs"]
        if options.schedule == "cosine" and planned != options.epochs:
            say(
                f"WARNING: the learning rate fell as for {counted(planned, 'epoch')} until here, and goes on as for "
                f"{options.epochs}; a run of {options.epochs} from the start would come to another model"
            )
        return progress
    if path.exists() and trainer.processes.main:
        _put_aside(path, options, say)
    progress = Progress()
    if options.start != "default" or options.judge != "cosine":
        progress.seconds = seconds
        _record(progress, trainer, {}, _validate(trainer, prepared))
        say(f"epoch 0/{options.epochs}  before training  {_judged(progress.history[-1], prepared)}")
    return progress


def _put_aside(path: Path, options: TrainOptions, say: Say) -> None:
    """Drop the checkpoint of an earlier run, or keep it under another name where that run came to no artifact."""
    if (options.artifact_path / MANIFEST).exists():
        say(f"starting afresh over {path} (--resume would continue it)")
        path.unlink()
        return
    kept = path.with_name(BEFORE)
    with atomic.writing(kept):
        path.replace(kept)
    say(f"starting afresh; {kept} is of a run that did not end (--resume would have continued it: move it back)")


def _validate(trainer: Trainer, prepared: PreparedData) -> dict[str, float]:
    """Return the validation cosine; where epochs are judged by it, the mean reciprocal rank and the sum of both."""
    predict, windows = trainer.evaluated.eval(), prepared.split.validation
    found = {"val_cosine": float(score_rows(predict, windows).cosine.mean())}
    if trainer.options.judge != "cosine":
        found["val_mrr"] = float((1 / rank_rows({"": predict}, windows, trainer.options.queries)[""].rank).mean())
        found["val_both"] = found["val_cosine"] + found["val_mrr"]
    return found


def _epochs(trainer: Trainer, progress: Progress, prepared: PreparedData, interruption: Interruption, say: Say) -> None:
    """Train and judge epoch after epoch, with a checkpoint after each."""
    options, processes = trainer.options, trainer.processes
    path = options.run_path / FILE
    done = (trainer.epoch * trainer.steps + trainer.step) * options.batch_size
    total = options.epochs * len(trainer.windows)
    began = time.perf_counter()

    def count_seconds() -> None:
        nonlocal began
        now = time.perf_counter()
        progress.seconds += now - began
        began = now

    def keep() -> None:
        save_checkpoint(path, trainer, progress, prepared.digest)

    with progress_bar(total, options.model, "window", initial=min(done, total)) as bar:

        def watch(step: int, windows: int) -> None:
            bar.update(windows)
            if step == trainer.steps:
                return  # the epoch's own checkpoint follows at once
            stop = processes.any(interruption.requested)
            if stop or (options.checkpoint_every and step % options.checkpoint_every == 0):
                count_seconds()
                keep()
            if stop:
                say(f"stopped in epoch {trainer.epoch + 1} after step {step}; --resume continues from {path}")
                raise KeyboardInterrupt

        while trainer.epoch < options.epochs:
            began = time.perf_counter()
            try:
                loss = trainer.train_epoch(watch)
                count_seconds()
                found = _validate(trainer, prepared)
                if not math.isfinite(found["val_cosine"]):
                    raise TrainingDiverged(f"the weights are not finite after the last step of epoch {trainer.epoch}")
            except TrainingDiverged as error:
                kept = f"last good checkpoint: {path}" if path.exists() else "there is no checkpoint yet"
                raise TrainingDiverged(f"{error}; {kept}; try a lower --learning-rate") from None
            _record(progress, trainer, {"loss": loss, "learning_rate": trainer.learning_rate}, found)
            trainer.end_epoch(found[f"val_{options.judge}"])
            keep()
            say(_epoch_line(progress, options.epochs, prepared))
            if processes.any(interruption.requested):
                say(f"stopped after epoch {trainer.epoch}; --resume continues from {path}")
                raise KeyboardInterrupt


def _record(progress: Progress, trainer: Trainer, training: dict[str, float], found: dict[str, float]) -> None:
    progress.history.append({"epoch": trainer.epoch, **training, **found, "seconds": progress.seconds})
    judged = found[f"val_{trainer.options.judge}"]
    if judged > progress.best_score:
        progress.best_epoch, progress.best_score = trainer.epoch, judged
        progress.best_weights = {k: v.detach().cpu().clone() for k, v in trainer.evaluated.state_dict().items()}


def _epoch_line(progress: Progress, epochs: int, prepared: PreparedData) -> str:
    last = progress.history[-1]
    before = progress.history[-2]["seconds"] if len(progress.history) > 1 else 0.0
    rate = len(prepared.split.train) / max(last["seconds"] - before, 1e-9)
    best = "  best" if progress.best_epoch == last["epoch"] else ""
    return (
        f"epoch {last['epoch']:.0f}/{epochs}  loss {last['loss']:.6f}  {_judged(last, prepared)}  "
        f"lr {last['learning_rate']:.1e}  "
        f"{rate:,.0f} windows/s{best}"
    )


def _judged(record: dict[str, float], prepared: PreparedData) -> str:
    cosine = record["val_cosine"]
    text = f"val cosine {cosine:.4f} ({cosine - prepared.linear_average:+.4f} to the linear average)"
    if "val_mrr" not in record:
        return text
    mrr = record["val_mrr"]
    return f"{text}  val MRR {mrr:.4f} ({mrr - prepared.best_mrr:+.4f} to the best baseline)"


def _finish(trainer: Trainer, progress: Progress, prepared: PreparedData, say: Say) -> TrainResult:
    """Judge the best epoch's weights, pass the gate and write the artifact and the run's figures."""
    options = trainer.options
    split = prepared.split
    model = build_model(options.config(prepared.corpus.dim))
    model.load_state_dict(progress.best_weights)
    model = model.to(trainer.device).eval()
    probes, _ = split.validation.batch(split.validation.sample(ROWS).starts)
    gate = check_agreement(model, probes, str(trainer.device))
    say(f"gate: {max(gate, key=lambda g: g.drift)} at worst, over {counted(len(probes), 'window')}")
    validation = evaluate(model, split.validation, prepared.scores, prepared.corpus.document_ids)
    test = None
    if len(split.test):
        test = evaluate(model, split.test, prepared.test_scores, prepared.corpus.document_ids)
    for name, found in ((f"best epoch {progress.best_epoch}: validation", validation),
                        ("test documents, not used to choose the epoch", test)):  # fmt: skip
        if found is not None:
            say(f"{name}: {verdict(found.versus)}")
            for line in figures(found, prepared.baselines.notes):
                say(line)
    result = TrainResult(
        options=options,
        config=options.config(prepared.corpus.dim),
        artifact=_write(model, trainer, progress, prepared, validation, test),
        history=progress.history,
        best_epoch=progress.best_epoch,
        validation=validation,
        test=test,
        ceiling=prepared.ceiling,
        own_ceiling=prepared.own_ceiling,
        parameters=parameter_count(model),
        seconds=progress.seconds,
        gate=gate,
        prepared=prepared,
    )
    if trainer.processes.main:
        write_results(options.run_path, result, model, split.validation)
        say(f"artifact: {result.artifact.path}")
        if options.normalize:
            say(
                "it takes vectors of length 1, as --normalize made them for training: divide yours by their lengths too"
            )
    return result


def _write(
    model: nn.Module,
    trainer: Trainer,
    progress: Progress,
    prepared: PreparedData,
    validation: Evaluation,
    test: Evaluation | None,
) -> Artifact:
    path = trainer.options.artifact_path
    if not trainer.processes.main:
        trainer.processes.wait()
        return Artifact.load(path)
    held_out = prepared.split.validation.sample(REAL_CONTEXTS)
    contexts = held_out.batch(held_out.starts)[0].cpu().numpy()
    told = provenance(trainer, progress, prepared, validation, test)
    artifact = save_model(model.cpu(), path, real_contexts=contexts, provenance=told)
    model.to(trainer.device)
    trainer.processes.wait()
    return artifact


@contextmanager
def deterministic_order(trainer: Trainer) -> Iterator[None]:
    """Ask cuDNN for deterministic kernels while training, so that the same seed gives the same result."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = trainer.device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
