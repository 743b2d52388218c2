"""A run that was stopped, killed or damaged: it continues to the same weights or says why it cannot."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError, InvalidInput
from lvm_runtime.models import build_model
from train.__main__ import command as command_line
from train.all import command as all_models
from train.checkpoint import BEFORE, FILE, Checkpoint, Progress, _random_state, _set_random_state, save_checkpoint
from train.data.corpus import load_corpus
from train.data.windows import VectorStore, split_windows
from train.distributed import Processes
from train.loop import Trainer, TrainingDiverged
from train.options import TrainOptions
from train.run import _epochs, train

COMMAND = [
    *(sys.executable, "-m", "train", "--model", "lstm", "--data", "synthetic", "--windows", "1200", "--dim", "24"),
    *("--set", "hidden_dim=24", "--epochs", "3", "--checkpoint-every", "20", "--input-noise", "0.3", "--ema", "0.99"),
    *("--device", "cpu", "--batch-size", "16"),
]


def options(out: Path, **values: object) -> TrainOptions:
    """Return options for a run of seconds, with dropout, noise and averaging on."""
    base: dict = {"data": "synthetic", "windows": 1200, "dim": 16, "epochs": 3, "device": "cpu", "ema": 0.99}
    base |= {"model": "lstm", "sizes": {"hidden_dim": 16}, "input_noise": 0.3}
    return TrainOptions(out=out, **(base | values))


def weights(path: Path) -> str:
    """Return the hash of an artifact's weights."""
    return Artifact.load(path).manifest.weights.sha256


def quiet(line: str) -> None:
    """Swallow a line of the report."""


def kill_after_a_checkpoint(command: list[str], checkpoint: Path, pause: float) -> None:
    """Run `command`, wait until it has written a checkpoint and `pause` seconds more, and kill it."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
        time.sleep(0.005)
    time.sleep(pause)
    assert running.poll() is None, "the run ended before it was killed; give it more to do"
    running.send_signal(signal.SIGKILL)
    running.wait()


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_killed_run_resumes_to_the_same_weights(tmp_path: Path, kills: int) -> None:
    """Kills at random points, the second of a run that was itself resumed."""
    command_line([*COMMAND[3:], "--out", str(tmp_path / "whole")])
    command = [*COMMAND, "--out", str(tmp_path / "killed")]
    checkpoint = tmp_path / "killed.run" / FILE
    rng = random.Random()  # other points each time: the claim is about any moment
    for kill in range(kills):
        kill_after_a_checkpoint([*command, "--resume"] if kill else command, checkpoint, rng.uniform(0, 0.2))
    assert not (tmp_path / "killed").exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_finished_run_can_be_extended(tmp_path: Path, device: str) -> None:
    train(options(tmp_path / "whole", device=device), quiet)
    train(options(tmp_path / "steps", device=device, epochs=1), quiet)
    train(options(tmp_path / "steps", device=device, resume=True), quiet)
    assert weights(tmp_path / "steps") == weights(tmp_path / "whole")


def test_a_finished_run_says_so_and_is_not_made_shorter(tmp_path: Path) -> None:
    """The artifact would tell of fewer epochs than the one that was best."""
    train(options(tmp_path / "a", windows=200, epochs=2), quiet)
    before, said = weights(tmp_path / "a"), []
    train(options(tmp_path / "a", windows=200, epochs=2, resume=True), said.append)
    assert any(line.startswith("nothing is left to train: this run has had its 2 epochs") for line in said)
    assert not any("resuming" in line for line in said)
    assert weights(tmp_path / "a") == before
    with pytest.raises(InvalidInput, match=r"^epochs is 1, but the run of .* has had 2; give as many or more"):
        train(options(tmp_path / "a", windows=200, epochs=1, resume=True), quiet)


@pytest.mark.parametrize(
    ("schedule", "epochs", "warned"), [("cosine", 2, True), ("cosine", 1, False), ("plateau", 2, False)]
)
def test_other_epochs_than_a_cosine_was_made_for_are_told(
    tmp_path: Path, schedule: str, epochs: int, warned: bool
) -> None:
    said: list[str] = []
    train(options(tmp_path / "model", schedule=schedule, epochs=1), quiet)
    train(options(tmp_path / "model", schedule=schedule, epochs=epochs, resume=True), said.append)
    assert any("fell as for 1 epoch until here, and goes on as for 2" in line for line in said) is warned


def test_a_checkpoint_is_let_go_once_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the weights, their average, the best ones and the optimizer's two moments."""
    train(options(tmp_path / "model", epochs=1), quiet)
    kept: list[bool] = []
    epochs = _epochs

    def look(*arguments: Any) -> None:
        kept.append(any(type(found) is Checkpoint for found in gc.get_objects()))
        epochs(*arguments)

    monkeypatch.setattr("train.run._epochs", look)
    train(options(tmp_path / "model", epochs=2, resume=True), quiet)
    assert kept == [False]


def without_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let baselines be an error from here on: they take minutes on a large corpus."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the baselines are computed")

    monkeypatch.setattr("train.prepared_data.diagnose", refuse)
    monkeypatch.setattr("train.prepared_data.fit_baselines", refuse)


def test_other_options_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = options(tmp_path / "a", epochs=1)
    train(before, quiet)
    without_baselines(monkeypatch)
    with pytest.raises(InvalidInput, match=rf"learning_rate was 0\.0005 in the run of .*a\.run/{FILE} and is 0\.1 now"):
        train(replace(before, resume=True, learning_rate=0.1), quiet)
    with pytest.raises(InvalidInput, match=r"^windows was 1200 in the run"):
        train(replace(before, resume=True, windows=800), quiet)
    state = torch.load(before.run_path / FILE, weights_only=True)
    del state["options"]["loss"]
    torch.save(state, before.run_path / FILE)
    with pytest.raises(InvalidInput, match=r"^loss was None in the run of .* and is 'mse' now"):
        train(replace(before, resume=True), quiet)


def test_every_run_is_looked_at_before_the_first_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--data", "synthetic", "--windows", "200", "--dim", "16", "--device", "cpu", "--epochs", "1"]
    line = [*small, "--out", str(tmp_path), "--models", "amn", "gru"]
    with pytest.raises(ArtifactError, match=rf"amn\.run/{FILE}: no checkpoint to resume from"):
        all_models([*line, "--resume"])
    train(options(tmp_path / "amn", model="amn", windows=200, epochs=1, ema=0.0, input_noise=0.0, sizes={}), quiet)
    without_baselines(monkeypatch)
    (tmp_path / "gru.run").mkdir()
    (tmp_path / f"gru.run/{FILE}").write_bytes(b"")
    with pytest.raises(ArtifactError, match=rf"gru\.run/{FILE}: not a readable checkpoint"):
        all_models([*line, "--resume"])
    with pytest.raises(InvalidInput, match="inductor fails on the LSTM"):
        all_models([*line, "lstm", "--overwrite", "--compile"])


def test_models_that_a_stopped_run_had_not_come_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data", "synthetic", "--windows", "200", "--dim", "16", "--device", "cpu", "--epochs", "1"]
    train(options(tmp_path / "amn", model="amn", windows=200, epochs=1, ema=0.0, input_noise=0.0, sizes={}), quiet)
    assert all_models([*small, "--out", str(tmp_path), "--models", "amn", "gru", "--resume"]) == 0
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"amn", "amn.run", "gru", "gru.run", "comparison"}
    assert "starting afresh" not in capsys.readouterr().out


def test_other_data_under_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((120, 16)).astype(np.float32)
    before = options(tmp_path / "a", epochs=1, data=str(tmp_path / "corpus.npz"), normalize=True)
    np.savez(before.data, vectors=vectors, doc_ids=np.arange(120) // 10)
    train(before, quiet)
    train(replace(before, resume=True), quiet)
    vectors[7, 3] += 0.001
    np.savez(before.data, vectors=vectors, doc_ids=np.arange(120) // 10)
    without_baselines(monkeypatch)
    with pytest.raises(InvalidInput, match="was made on other data"):
        train(replace(before, resume=True), quiet)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_random_state_of_a_device_comes_back_on_that_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what torch is asked for, which no device has to be there for."""
    device, kept, calls = torch.device(kind), torch.arange(3), []
    module = getattr(torch, kind)
    monkeypatch.setattr(module, "get_rng_state", lambda *asked: (calls.append(asked), kept)[1])
    monkeypatch.setattr(module, "set_rng_state", lambda *asked: calls.append(asked))
    state = _random_state(device)
    _set_random_state(state, device)
    _set_random_state({"cpu": state["cpu"]}, device)  # as a run on the CPU leaves it
    _set_random_state(state, torch.device("cpu"))
    where = (device,) if kind == "cuda" else ()
    assert sorted(state) == ["cpu", kind]
    assert calls == [where, (kept, *where)]


def test_what_a_checkpoint_holds_comes_back(tmp_path: Path) -> None:
    """Of a run in the middle of an epoch, three epochs after its last progress: a fourth halves the rate."""
    run = options(tmp_path, ema=0.9, epochs=4)

    def fresh(seed: int) -> Trainer:
        corpus = load_corpus("synthetic", windows=300, dim=16)
        split = split_windows(corpus, np.ones(len(corpus.values), bool), VectorStore(corpus.values, "cpu"))
        return Trainer(build_model(run.config(16), seed=seed), split.train, run, Processes())

    stopped = fresh(0)
    for judged in (0.5, 0.4, 0.4, 0.4):
        stopped.train_epoch()
        stopped.end_epoch(judged)
    stopped.step = 2
    stopped.losses[:2] = torch.tensor([0.25, 0.125])
    kept = {name: value + 1 for name, value in stopped.model.state_dict().items()}
    progress = Progress([{"epoch": 1, "val_cosine": 0.5}], 1, 0.5, kept, 12.5)
    save_checkpoint(tmp_path / "a.pt", stopped, progress, "digest")
    following = torch.rand(3)
    resumed = fresh(1)
    torch.manual_seed(99)
    save_checkpoint(tmp_path / "b.pt", resumed, Checkpoint.read(tmp_path / "a.pt", run).restore(resumed), "digest")
    assert torch.equal(torch.rand(3), following)
    states = [torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt")]
    assert repr(states[0]) == repr(states[1])
    for name in ("model", "average", "best_weights"):
        assert all(torch.equal(value, states[1][name][key]) for key, value in states[0][name].items()), name
    for trainer in (stopped, resumed):
        trainer.end_epoch(0.4)
    assert resumed.learning_rate == stopped.learning_rate == run.learning_rate / 2
    losses = []
    for trainer in (stopped, resumed):
        torch.manual_seed(0)
        losses.append(trainer.train_epoch())
    assert losses[0] == losses[1]


def test_each_process_takes_up_its_own_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two; a third, which was not there before, keeps what it began with."""
    run = options(tmp_path, ema=0.0)
    corpus = load_corpus("synthetic", windows=300, dim=16)
    split = split_windows(corpus, np.ones(len(corpus.values), bool), VectorStore(corpus.values, "cpu"))
    subject = Trainer(build_model(run.config(16)), split.train, run, Processes())
    states = [torch.Generator().manual_seed(seed).get_state() for seed in range(3)]
    monkeypatch.setattr(subject.processes, "gather", lambda values: states[:2])
    save_checkpoint(tmp_path / "a.pt", subject, Progress(), "digest")
    for rank, state in enumerate(states):
        subject.processes.rank = rank
        torch.set_rng_state(states[2])
        Checkpoint.read(tmp_path / "a.pt", run).restore(subject)
        assert torch.equal(torch.get_rng_state(), state)
    save_checkpoint(tmp_path / "b.pt", subject, Progress(), "digest")
    assert not (tmp_path / "b.pt").exists(), "the first process writes"


@pytest.mark.soak
def test_two_processes_go_on_where_they_were(tmp_path: Path) -> None:
    """Each has its own dropout and noise, which come back with it."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *COMMAND[1:]]
    launch += ["--windows", "600", "--dim", "12", "--batch-size", "64"]

    def run(name: str, *more: str) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [*launch, "--out", str(tmp_path / name), *more]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return weights(tmp_path / name)

    run("stopped", "--epochs", "1")
    states = torch.load(tmp_path / "stopped.run" / FILE, weights_only=True)["random"]["cpu"]
    assert len(states) == 2
    assert not torch.equal(*states)
    assert run("stopped", "--epochs", "2", "--resume") == run("whole", "--epochs", "2")


def test_a_run_that_did_not_end_is_not_lost_to_one_that_starts_afresh(tmp_path: Path) -> None:
    """Whoever forgets --resume after a night of training would have trained for nothing."""
    run = options(tmp_path / "a", epochs=3)

    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        train(run, stop)
    lines: list[str] = []
    train(replace(run, epochs=1), lines.append)
    kept = tmp_path / "a.run" / BEFORE
    assert any(f"{kept} is of a run that did not end" in line for line in lines)
    kept.replace(kept.with_name(FILE))
    lines.clear()
    train(replace(run, resume=True), lines.append)
    assert any("resuming at epoch 3" in line for line in lines)


def test_a_run_that_starts_afresh_drops_the_checkpoint_before_it(tmp_path: Path) -> None:
    """So that what is taken up later is this run, also where it ends before its first checkpoint."""
    before = options(tmp_path / "a", windows=200, batch_size=200, epochs=1)
    train(before, quiet)
    with pytest.raises(TrainingDiverged, match="there is no checkpoint yet"):
        train(replace(before, learning_rate=1e38), quiet)
    with pytest.raises(ArtifactError, match="no checkpoint to resume from"):
        train(replace(before, resume=True), quiet)


def test_a_checkpoint_of_an_older_schema_says_what_to_do(tmp_path: Path) -> None:
    train(options(tmp_path / "a", epochs=1), quiet)
    file = tmp_path / "a.run" / FILE
    torch.save(torch.load(file, weights_only=True) | {"schema": 2}, file)
    with pytest.raises(ArtifactError, match=r"of schema 2, expected 4; finish the run with the version that began it"):
        train(options(tmp_path / "a", resume=True), quiet)
    torch.save([], file)
    with pytest.raises(ArtifactError, match=r"of schema none, expected 4"):
        train(options(tmp_path / "a", resume=True), quiet)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "bit"])
def test_unreadable_checkpoint_is_one_error(tmp_path: Path, damage: str) -> None:
    train(options(tmp_path / "a", epochs=1), quiet)
    file = tmp_path / "a.run" / FILE
    if damage == "missing":
        file.unlink()
    else:
        data = file.read_bytes()
        place = len(data) // 2  # among the weights, which torch reads as they are
        flipped = data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :]
        file.write_bytes({"truncated": data[:1000], "garbage": b"x" * 100, "bit": flipped}[damage])
    with pytest.raises(ArtifactError, match=r"checkpoint\.pt"):
        train(options(tmp_path / "a", resume=True), quiet)
