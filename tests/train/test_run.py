"""A whole run: data to artifact, for every architecture; and the command line's errors."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_runtime import Predictor
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.commands.info import describe_artifact
from lvm_runtime.corpus.write import Part, write_corpus
from lvm_runtime.errors import ArtifactError, InvalidInput, LvmError, VerificationFailed, WriteFailed
from lvm_runtime.models import build_model, load_model
from train.__main__ import make_parser, options_from
from train.distributed import Processes
from train.evaluation.metrics import score_rows
from train.loop import Trainer, TrainingDiverged
from train.options import TrainOptions
from train.prepared_data import prepare
from train.run import _trainer, _validate, train
from train.warm_start import start_at_baseline

SMALL = {
    "lstm": {"hidden_dim": 32, "num_layers": 2},
    "gru": {"hidden_dim": 32, "num_layers": 2},
    "transformer": {"hidden_dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 64},
    "amn": {"hidden_dim": 32, "attention_dim": 16, "bottleneck_dim": 16},
}


def options(out: Path, model: str = "amn", **values: object) -> TrainOptions:
    """Return options for a small run on a small synthetic corpus."""
    base: dict = {"data": "synthetic", "windows": 2000, "dim": 32, "epochs": 2, "sizes": SMALL[model], "device": "cpu"}
    return TrainOptions(model=model, out=out, **(base | values))


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_run_writes_an_artifact_that_knows_its_run(tmp_path: Path, model: str) -> None:
    lines: list[str] = []
    result = train(options(tmp_path / model, model, test=0.1), lines.append)
    artifact = Artifact.load(tmp_path / model)
    provenance = artifact.manifest.provenance
    assert provenance["metrics"]["val_cosine"] == pytest.approx(result.validation.metrics.cosine.value)
    assert provenance["training"]["best_epoch"] == result.best_epoch
    assert result.validation.metrics.cosine.value > result.validation.baselines["random"].cosine.high + 0.2
    judged = [record["val_cosine"] for record in result.history]
    assert result.validation.metrics.cosine.value == pytest.approx(max(judged), abs=1e-6)
    assert result.test is not None
    assert result.test.metrics.cosine.value != pytest.approx(max(judged), abs=1e-6)
    assert result.prepared is not None
    probes = {context.tobytes() for context in artifact.read_fingerprint().contexts}
    held, seen = (
        {context.tobytes() for context in side.batch(side.starts)[0].numpy()}
        for side in (result.prepared.split.validation, result.prepared.split.train)
    )
    assert probes & held
    assert not probes & seen
    assert load_model(artifact).config == result.config
    first_epoch = next(i for i, line in enumerate(lines) if line.startswith("epoch 1/2"))
    assert any("linear average" in line for line in lines[:first_epoch])
    saved = json.loads((tmp_path / f"{model}.run" / "result.json").read_text())
    assert len(saved["history"]) == 2
    assert str(tmp_path) not in json.dumps(provenance)


@pytest.mark.parametrize("probe", [[0.0] * 23 + [1.0], [1.0], "text", None])
def test_an_artifact_knows_the_encoder_of_its_corpus(tmp_path: Path, probe: object) -> None:
    vectors = np.random.default_rng(0).standard_normal((90, 24)).astype(np.float16)
    parts = [Part(i, vectors[i * 9 : i * 9 + 9], ["text"] * 9) for i in range(10)]
    made = {"encoder": str(tmp_path / "bert"), "probe": probe}
    write_corpus(tmp_path / "c.npz", lambda: parts, 24, [str(i) for i in range(10)], made)
    result = train(options(tmp_path / "amn", data=str(tmp_path / "c.npz"), epochs=1), lambda line: None)
    known = isinstance(probe, list) and len(probe) == 24
    expected = {"encoder": "bert", "probe": probe} if known else None
    assert result.artifact.manifest.provenance["data"]["made"] == expected
    assert "encoder bert, probe […]" in describe_artifact(result.artifact) or not known


def test_a_run_trains_on_training_windows_and_judges_its_average_on_validation(tmp_path: Path) -> None:
    run = options(tmp_path / "amn", windows=200, ema=0.9, test=0.2)
    prepared = prepare(run, "cpu", lambda line: None)
    trainer = _trainer(run, prepared, Processes(), lambda line: None)
    assert trainer.windows is prepared.split.train
    average = copy.deepcopy(trainer.model).eval()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.normal_()
    expected = score_rows(average, prepared.split.validation).cosine.mean()
    assert _validate(trainer, prepared) == {"val_cosine": expected}


def test_a_seed_reaches_weights_start_dropout_and_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same data: a seed changes those as well."""
    run = options(tmp_path / "gru", "gru", windows=200, start="baseline")
    prepared = prepare(run, "cpu", lambda line: None)

    def made(**values: object) -> tuple[Trainer, list[float]]:
        trainer = _trainer(replace(run, **values), prepared, Processes(), lambda line: None)
        return trainer, torch.rand(4).tolist()

    found = [made(seed=seed)[1] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for start in ("baseline", "default"):
        expected = build_model(run.config(32), seed=1)
        if start == "baseline":
            start_at_baseline(expected, prepared.split.train, seed=1)
        trainer, _ = made(seed=1, start=start)
        assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), expected.parameters(), strict=True))
    seen: dict[str, object] = {}
    monkeypatch.setattr("train.run.start_ranked", lambda *arguments, **named: seen.update(named))
    trainer, _ = made(seed=1, start="ranked", loss="ranking", temperature=0.3, candidates=9, cosine_weight=0.5)
    assert seen == {"cosine_weight": 0.5, "seed": 1}
    ranking = trainer.ranking
    assert ranking is not None
    assert (ranking.seed, ranking.temperature, ranking.count) == (1, 0.3, 9)


def test_best_epoch_is_what_is_kept(tmp_path: Path) -> None:
    result = train(options(tmp_path / "amn", epochs=6, learning_rate=0.001, data="bundled"), lambda line: None)
    cosines = [record["val_cosine"] for record in result.history]
    assert result.best_epoch == int(np.argmax(cosines)) + 1
    assert result.best_epoch < 6  # it overfits at once on so little data
    assert result.validation.metrics.cosine.value == pytest.approx(max(cosines), abs=1e-6)


def test_same_seed_same_weights(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = train(options(tmp_path / name, "lstm", seed=seed, epochs=1), lambda line: None)
        hashes.append(result.artifact.manifest.weights.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_amn_beats_the_linear_average_on_unseen_documents(tmp_path: Path) -> None:
    named = {"learning_rate": 1e-4, "ema": 0.99}
    result = train(
        TrainOptions(model="amn", data="bundled", epochs=1, device="cpu", out=tmp_path / "amn", **named),
        lambda line: None,
    )
    assert result.validation.gain.low > 0


def test_disagreeing_model_leaves_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose prediction depends on its batch-mates must not get out."""
    from lvm_runtime.models.amn import AMN

    honest = AMN.forward
    monkeypatch.setattr(AMN, "forward", lambda self, x: honest(self, x + 0.01 * x.mean(dim=0)))
    with pytest.raises(VerificationFailed, match="batch 1"):
        train(options(tmp_path / "amn", epochs=1), lambda line: None)
    assert not (tmp_path / "amn").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"loss": "mae"}, "one of mse, infonce"),
        ({"test": 0.95}, "test is 0.95"),
        ({"sizes": {"depth": 3}}, "unknown config key 'depth'"),
        ({"sizes": {"dim": 5}}, "dim is 5 among the sizes, but it is the size of the data's vectors"),
        ({"sizes": {"context_length": 3}}, "context_length is 3 .* set by --context-length; leave it out"),
        ({"epochs": 1.5}, "epochs is 1.5, expected a whole number of 1 or more"),
        ({"seed": 2**70}, f"seed is {2**70}, expected a whole number from 0 to"),
        ({"queries": -1}, "queries is -1, expected a whole number of 0 or more"),
        ({"ema": "0.9"}, "ema is '0.9', expected a number, such as 0"),
        ({"data": 3}, "data is 3, expected bundled, synthetic or the path"),
        ({"normalize": "false"}, "normalize is 'false', expected true or false"),
        ({"sizes": ["hidden_dim"]}, "sizes is .*, expected a mapping, such as"),
        ({"context_length": 1, "vector_dropout": 0.1}, "vector_dropout is 0.1, expected 0 with contexts of one"),
    ],
    ids=["epochs", "rate", "loss", "test share", "size", "dim", "context length", "half an epoch", "large seed",
         "negative count", "text", "data", "text for a switch", "list", "nothing to drop"],
)  # fmt: skip
def test_bad_options_say_what_was_expected(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(LvmError, match=message):
        options(tmp_path, **values)


def test_paths_and_numbers_of_any_kind_will_do(tmp_path: Path) -> None:
    """They come into the artifact's manifest, as JSON, when all the work is done."""
    corpus = tmp_path / "c.npz"
    np.savez(corpus, vectors=np.random.default_rng(0).standard_normal((80, 8)), doc_ids=np.arange(80) // 8)
    run = TrainOptions(
        model="amn", data=corpus, out=str(tmp_path / "amn"), epochs=np.int64(1), learning_rate=np.float32(1e-4),
        sizes={"hidden_dim": np.int64(8)}, device="cpu",
    )  # type: ignore[arg-type]  # fmt: skip
    train(run, lambda line: None)
    kept = Artifact.load(tmp_path / "amn").manifest.provenance["training"]["options"]
    assert (kept["data"], kept["epochs"], kept["sizes"]) == ("c.npz", 1, {"hidden_dim": 8})
    assert kept["learning_rate"] == pytest.approx(1e-4)


@pytest.mark.parametrize("resume", [False, True], ids=["afresh", "resumed"])
def test_a_second_run_in_the_same_place_is_refused_while_the_first_is_there(tmp_path: Path, resume: bool) -> None:
    """Each would go on from the other's checkpoint, and write an artifact that is neither's."""
    first = options(tmp_path / "amn", epochs=2)
    (tmp_path / "amn").mkdir()
    (tmp_path / "link").symlink_to("amn")
    refused: list[str] = []

    def say(line: str) -> None:
        if line.startswith("epoch 1"):
            with pytest.raises(WriteFailed, match=r"amn\.run: another run is at work there"):
                train(replace(first, resume=resume), refused.append)
            if not resume:
                with pytest.raises(WriteFailed, match="another run is at work there"):
                    train(replace(first, out=tmp_path / "link"), refused.append)

    train(first, say)
    assert refused == []
    assert train(replace(first, resume=True), lambda line: None).best_epoch


def test_a_model_trained_on_normalised_vectors_says_what_it_takes(tmp_path: Path) -> None:
    vectors = 7 * np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    np.savez(tmp_path / "c.npz", vectors=vectors, doc_ids=np.arange(200) // 10)
    said: list[str] = []
    train(options(tmp_path / "amn", data=str(tmp_path / "c.npz"), normalize=True), said.append)
    assert said[-1].startswith("it takes vectors of length 1")
    with Predictor(tmp_path / "amn", backend="eager") as predictor:
        with pytest.raises(InvalidInput, match="trained on vectors divided by their lengths"):
            predictor.predict(vectors[:5])
        assert predictor.predict(vectors[:5] / np.linalg.norm(vectors[:5], axis=1, keepdims=True)).shape == (8,)


def test_an_artifact_is_replaced_where_a_link_leads(tmp_path: Path) -> None:
    train(options(tmp_path / "v1"), lambda line: None)
    (tmp_path / "latest").symlink_to("v1")
    train(options(tmp_path / "latest", seed=1), lambda line: None)
    assert (tmp_path / "latest").is_symlink()
    assert Artifact.load(tmp_path / "v1").manifest.provenance["training"]["options"]["seed"] == 1


def test_no_run_keeps_its_figures_in_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"out is .*amn\.run', expected a name without \.run"):
        options(tmp_path / "amn.run")
    train(options(tmp_path / "amn"), lambda line: None)
    shutil.copytree(tmp_path / "amn", tmp_path / "other.run")
    with pytest.raises(ArtifactError, match=r"other\.run: is an artifact"):
        train(options(tmp_path / "other"), lambda line: None)
    Artifact.load(tmp_path / "other.run")


def test_the_command_line_comes_after_the_recipe() -> None:
    line = ["--model", "amn", "--recipe", "retrieval", "--epochs", "7", "--temperature", "0.5", "--set", "hidden_dim=8"]
    found = options_from(make_parser().parse_args([*line, "--seed", "3", "--normalize"]), out=Path("there"))
    assert (found.epochs, found.temperature, found.seed, found.normalize) == (7, 0.5, 3, True)
    assert (found.loss, found.judge, found.out) == ("ranking", "mrr", Path("there"))
    assert found.sizes == {"recency": True, "hidden_dim": 8}


def test_the_help_says_a_default_of_zero_too() -> None:
    text = " ".join(make_parser().format_help().split())
    for name, default in (("seed", "0"), ("test", "0.0"), ("cosine-weight", "0.0"), ("epochs", "20"), ("loss", "mse")):
        assert f"(default: {default})" in text.partition(f" --{name} ")[2].partition(" --")[0]
    assert "(default: False)" not in text


def test_a_divergence_in_the_last_step_is_an_error(tmp_path: Path) -> None:
    """The loss of every step is finite, and the last update is not."""
    run = options(tmp_path / "amn", windows=200, batch_size=200, epochs=1, learning_rate=1e38)
    with pytest.raises(TrainingDiverged, match=r"not finite after the last step of epoch 1; there is no"):
        train(run, lambda line: None)
    assert not (tmp_path / "amn").exists()


@pytest.mark.parametrize("value", ["2", "two"], ids=["no group", "no number"])
def test_processes_without_a_group_are_an_error(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(InvalidInput, match=r"WORLD_SIZE is .*unset"):
        train(options(tmp_path / "amn"), lambda line: None)


@pytest.mark.parametrize(
    "out", ["file", "file/amn", "full", "n" * 252, "."], ids=["file", "below", "full", "long", "dot"]
)
def test_a_place_that_cannot_be_written_is_an_error_before_work(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_bytes(b"")
    lines: list[str] = []
    with pytest.raises(LvmError, match=r"cannot be written|not an artifact|out is"):
        train(options(Path(out)), lines.append)
    assert not lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_command_line_error_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "--model", "amn", "--data", str(tmp_path / "no.npz")]
    command += ["--out", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "no such file" in done.stderr
