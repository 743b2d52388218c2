"""The loop: the same numbers as a plain loop, NaN stopped where it arose, and no host synchronisation per step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.config import make_config
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import build_model
from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, split_windows
from train.distributed import Processes
from train.loop import Trainer, TrainingDiverged
from train.losses import row_losses
from train.options import TrainOptions
from train.run import train

SIZES = {"hidden_dim": 16, "attention_dim": 8, "bottleneck_dim": 8}


def data(poisoned: int | None = None) -> Split:
    """Return a small synthetic corpus, split; the row `poisoned` is NaN."""
    corpus = load_corpus("synthetic", windows=600, dim=16)
    if poisoned is not None:
        corpus.values[poisoned] = np.nan
    return split_windows(corpus, np.ones(len(corpus.values), bool), VectorStore(corpus.values, "cpu"))


def trainer(split: Split, **values: object) -> Trainer:
    """Return a trainer of a small AMN."""
    options = TrainOptions(model="amn", sizes=SIZES, **values)  # type: ignore[arg-type]
    model = build_model(make_config("amn", dim=16, **SIZES), seed=0)
    return Trainer(model, split.train, options, Processes())


def batches(subject: Trainer) -> list[torch.Tensor]:
    """Return a list that the starts of each batch are put in when the trainer takes it."""
    taken: list[torch.Tensor] = []
    loss = subject.loss

    def note(contexts: torch.Tensor, targets: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        taken.append(starts)
        return loss(contexts, targets, starts)

    subject.loss = note
    return taken


def test_windows_weigh_the_same_in_the_loss_and_in_the_gradient() -> None:
    """Of a batch of all but one and a batch of one; with a rate that changes no weight."""
    split = data()
    subject = trainer(split, batch_size=len(split.train) - 1, learning_rate=1e-30, grad_clip=1e9)
    parameters = list(subject.model.parameters())
    contexts, targets = subject.windows.batch(subject.windows.starts)
    expected = row_losses("mse", subject.model(contexts), targets, 0.07).mean()
    whole = torch.autograd.grad(expected, parameters)
    summed = [torch.zeros_like(gradient) for gradient in whole]

    def add(*_: object) -> None:
        for total, parameter in zip(summed, parameters, strict=True):
            assert parameter.grad is not None
            total += parameter.grad

    subject.optimizer.register_step_pre_hook(add)
    assert subject.train_epoch() == pytest.approx(float(expected.detach()), rel=1e-6)
    for total, gradient in zip(summed, whole, strict=True):
        torch.testing.assert_close(total * (1 - 1 / len(split.train)), gradient, rtol=1e-4, atol=1e-7)


def test_epoch_equals_a_plain_loop() -> None:
    """With options far from the defaults, so that each of them counts."""
    split = data()
    fast = trainer(split, learning_rate=2e-3, weight_decay=0.5, grad_clip=0.02, batch_size=24, seed=7)
    loss = fast.train_epoch()
    model = build_model(make_config("amn", dim=16, **SIZES), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.5)
    order = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(7_000_021))
    vectors = split.train.store.rows(torch.arange(len(split.train.store)))
    losses = []
    for batch in split.train.starts[order].split(24):
        contexts = torch.stack([vectors[s : s + 5] for s in batch.tolist()])
        targets = torch.stack([vectors[s + 5] for s in batch.tolist()])
        value = torch.nn.functional.mse_loss(model(contexts), targets)
        optimizer.zero_grad()
        (value * len(batch) / 24).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.02)
        optimizer.step()
        losses += [value.item()] * len(batch)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for ours, theirs in zip(fast.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("longer", [True, False], ids=["clipped", "short enough"])
def test_clipping_is_torchs(longer: bool) -> None:
    subject = trainer(data(), grad_clip=1e-5 if longer else 1e5, batch_size=600)
    parameters, loss = list(subject.model.parameters()), subject.loss
    gradients: list[torch.Tensor] = []
    clipped: list[torch.Tensor] = []

    def look(*batch: torch.Tensor) -> torch.Tensor:
        value = loss(*batch)
        gradients.extend(torch.autograd.grad(value, parameters, retain_graph=True))
        return value

    subject.loss = look
    subject.optimizer.register_step_pre_hook(lambda *_: clipped.extend(p.grad.clone() for p in parameters))
    subject.train_epoch()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(parameters, subject.options.grad_clip)
    for ours, parameter in zip(clipped, parameters, strict=True):
        assert parameter.grad is not None
        assert torch.equal(ours, parameter.grad)


def test_order_differs_by_epoch_and_seed_and_covers_everything() -> None:
    split = data()
    subject, differently = trainer(split), trainer(split, seed=1)
    taken, others = batches(subject), batches(differently)
    subject.train_epoch()
    first = torch.cat(taken)
    subject.train_epoch()
    differently.train_epoch()
    second, other = torch.cat(taken)[len(first) :], torch.cat(others)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    for order in (first, second, other):
        assert torch.equal(order.sort().values, split.train.starts)


def test_nan_stops_with_step_and_batch() -> None:
    poisoned = 137
    subject = trainer(data(poisoned))
    taken = batches(subject)
    with pytest.raises(TrainingDiverged, match=r"epoch 1 at step \d+ of") as failure:
        subject.train_epoch()
    step = int(re.search(r"at step (\d+)", str(failure.value)).group(1))  # type: ignore[union-attr]
    touched = [any(0 <= poisoned - s <= 5 for s in batch.tolist()) for batch in taken]
    assert step == touched.index(True) + 1


def test_bf16_follows_fp32() -> None:
    split = data()
    full, half = trainer(split).train_epoch(), trainer(split, precision="bf16").train_epoch()
    assert full != half
    assert half == pytest.approx(full, rel=5e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_compiled_follows_eager() -> None:
    split = data()
    eager, compiled = trainer(split), trainer(split, compile=True)
    with torch._dynamo.config.patch(assume_static_by_default=False):  # compiled once, and not again for the last batch
        assert compiled.train_epoch() == pytest.approx(eager.train_epoch(), rel=1e-5)
    for ours, theirs in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_compiling_an_lstm_on_the_cpu_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    options = TrainOptions(model="lstm", data="absent.npz", out=tmp_path / "lstm", device="cpu", compile=True)
    with pytest.raises(InvalidInput, match="without --compile"):
        train(options)


@pytest.mark.parametrize("runs", [True, False])
def test_an_lstm_in_bf16_is_refused_where_the_cpu_cannot_compute_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    def lstm(*arguments: object) -> torch.Tensor:
        if not runs:
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")
        return torch.zeros(1)

    monkeypatch.setattr(torch.nn.LSTM, "forward", lstm)
    options = TrainOptions(model="lstm", data="absent.npz", out=tmp_path / "lstm", device="cpu", precision="bf16")
    with pytest.raises(
        InvalidInput, match=r"absent.npz: no such file" if runs else r"in which PyTorch computes no LSTM"
    ):
        train(options)


def test_plateau_halves_the_rate_after_three_epochs_without_progress() -> None:
    subject = trainer(data(), schedule="plateau", epochs=6)
    rates = []
    for judged in (0.4, 0.5, 0.5, 0.45, 0.5, 0.5):
        subject.train_epoch()
        rates.append(subject.learning_rate)
        subject.end_epoch(judged)
    assert [*rates, subject.learning_rate] == [5e-4] * 6 + [2.5e-4]


def test_cosine_schedule_is_warmed_up_and_ends_at_zero() -> None:
    subject = trainer(data(), schedule="cosine", epochs=4, batch_size=6, learning_rate=0.01)
    rates: list[float] = []
    subject.optimizer.register_step_pre_hook(lambda *_: rates.append(subject.learning_rate))
    for _ in range(4):
        subject.train_epoch()
        subject.end_epoch(0.5)
    step = np.arange(4 * subject.steps)
    assert len(step) > 300, "warm-up takes 200"
    expected = 0.01 * np.minimum(1, (step + 1) / 200) * (1 + np.cos(np.pi * step / len(step))) / 2
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert subject.highest_rate == max(rates)


def test_a_run_that_ends_in_its_warm_up_says_which_rate_it_reaches(tmp_path: Path) -> None:
    """A cosine of 40 steps has a fifth of the warm-up, and falls meanwhile."""
    said: dict[str, list[str]] = {}
    small: dict = {"data": "synthetic", "windows": 700, "dim": 16, "batch_size": 32, "epochs": 2, "device": "cpu"}
    for schedule in ("cosine", "plateau"):
        options = TrainOptions(model="amn", out=tmp_path / "amn", schedule=schedule, learning_rate=0.01, **small)
        train(options, said.setdefault(schedule, []).append)
    assert "rate rises to 5.6e-04 only and not to 1.0e-02: the run has 40 steps, and warms up for 200" in str(said)
    assert "rate rises" not in str(said["plateau"])


def test_average_of_the_weights_forgets_its_start() -> None:
    subject = trainer(data(), ema=0.8, batch_size=24)
    average = [p.detach().double().clone() for p in subject.model.parameters()]
    for _ in range(2):
        steps: list[list[torch.Tensor]] = []
        subject.optimizer.register_step_post_hook(
            lambda *_, steps=steps: steps.append([p.detach().double().clone() for p in subject.model.parameters()])
        )
        subject.train_epoch()
        for i, weights in enumerate(steps):
            now = (subject.epoch - 1) * subject.steps + i
            decay = min(0.8, (1 + now) / (10 + now))
            average = [decay * kept + (1 - decay) * new for kept, new in zip(average, weights, strict=True)]
    assert 2 * subject.steps > 40, "from step 35 on the decay is the one that was asked for"
    for ours, expected in zip(subject.evaluated.parameters(), average, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-7)


def test_noise_and_vector_dropout_touch_contexts_alone_and_as_much_as_asked() -> None:
    split = data()
    subject = trainer(split, input_noise=0.4, vector_dropout=0.25, batch_size=len(split.train))
    seen: list[torch.Tensor] = []

    def loss(contexts: torch.Tensor, targets: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        seen.extend((contexts, targets, *split.train.batch(starts)))
        return sum(p.sum() for p in subject.model.parameters())  # type: ignore[return-value]

    subject.loss = loss
    subject.train_epoch()
    contexts, targets, plain, plain_targets = seen
    assert torch.equal(targets, plain_targets)
    dropped = (contexts == 0).all(dim=2)  # [b, T]
    assert (contexts == 0).any(dim=2).equal(dropped), "a vector is dropped as a whole"
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.04)
    noise = (contexts - plain)[~dropped]
    assert float(noise.norm(dim=1).square().mean().sqrt()) == pytest.approx(0.4, rel=0.05)


def test_vector_dropout_leaves_no_context_empty() -> None:
    """The prediction of an AMN for nothing is next to nothing, and the gradient of its direction next to infinite."""
    split = data()
    subject = trainer(split, vector_dropout=0.6, batch_size=len(split.train), grad_clip=1e9)
    norms: list[torch.Tensor] = []
    subject.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.nn.utils.get_total_norm([p.grad for p in subject.model.parameters()]))
    )
    subject.train_epoch()
    assert len(split.train) * 0.6**5 > 10
    assert 0 < norms[0] < 10


def test_a_step_takes_the_loss_and_the_temperature_that_were_asked_for() -> None:
    subject = trainer(data(), loss="infonce", temperature=0.5)
    starts = subject.windows.starts[:9]
    contexts, targets = subject.windows.batch(starts)
    expected = row_losses("infonce", subject.model(contexts), targets, 0.5).mean()
    torch.testing.assert_close(subject.loss(contexts, targets, starts), expected, rtol=1e-5, atol=1e-6)


def test_an_epoch_trains_also_after_the_model_was_judged() -> None:
    subject = trainer(data())
    subject.evaluated.eval()
    subject.train_epoch()
    assert subject.model.training


def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    arguments = ["--data", "synthetic", "--windows", "1000", "--dim", "16", "--epochs", "2", "--device", "cpu"]
    arguments += ["--model", "amn", "--set", "hidden_dim=16", "--out", str(tmp_path / "two"), "--batch-size", "30"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 1/2") == 1
    options = TrainOptions(
        model="amn", data="synthetic", windows=1000, dim=16, epochs=2, device="cpu", batch_size=30,
        sizes={"hidden_dim": 16}, out=tmp_path / "one",
    )  # fmt: skip
    lines: list[str] = []
    train(options, lines.append)
    curve = [re.findall(r"loss (\S+)  val cosine (\S+)", text) for text in (done.stdout, "\n".join(lines))]
    assert len(curve[0]) == 2
    np.testing.assert_allclose(np.array(curve[0], float), np.array(curve[1], float), atol=2e-4, rtol=1e-4)
