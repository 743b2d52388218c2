"""Importing reference checkpoints: configs are mapped, look-alikes and unusable ones refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError, InvalidInput, LvmError, VerificationFailed
from lvm_runtime.models import build_model, load_model
from train.import_checkpoint import import_checkpoint, reference_config

CONFIGS: dict[str, dict[str, Any]] = {
    "lstm": {"input_dim": 16, "hidden_dim": 8, "num_layers": 2, "dropout": 0.2, "output_dim": 16},
    "gru": {"input_dim": 16, "d_model": 8, "num_layers": 3, "dropout": 0.0, "output_dim": 16},
    "transformer": {"input_dim": 16, "d_model": 8, "num_layers": 2, "nhead": 2, "dropout": 0.1, "output_dim": 16},
    "amn": {"input_dim": 16, "d_model": 8, "hidden_dim": 12, "output_dim": 16},
}


def checkpoint(path: Path, kind: str, **changes: Any) -> Path:
    """Write a reference checkpoint of a freshly made model."""
    model = build_model(reference_config(kind, CONFIGS[kind]), seed=0)
    values = {
        "epoch": 3,
        "model_type": kind,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": {},
        "val_loss": 0.001,
        "val_cosine": 0.5,
        "model_config": CONFIGS[kind],
        "args": {"epochs": 20},
    }
    torch.save(values | changes, path)
    return path


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_type_becomes_an_artifact(tmp_path: Path, kind: str) -> None:
    file = checkpoint(tmp_path / "best.pt", kind)
    artifact, cosine = import_checkpoint(file, tmp_path / "out")
    assert cosine is None
    stored = torch.load(file, weights_only=True)["model_state_dict"]
    loaded = load_model(Artifact.load(artifact.path)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())


def test_sizes_are_mapped() -> None:
    transformer = reference_config("transformer", {"d_model": 64, "nhead": 4, "num_layers": 3})
    assert (transformer.to_dict()["num_heads"], transformer.to_dict()["hidden_dim"]) == (4, 64)
    amn = reference_config("amn", {"input_dim": 768, "d_model": 128, "hidden_dim": 256})
    assert (amn.to_dict()["attention_dim"], amn.to_dict()["hidden_dim"]) == (128, 256)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("lstm", {"input_dim": 769, "output_dim": 768}, "position scalar"),
        ("lstm", {"input_dim": 769}, "position scalar"),
        ("lstm", {"input_dim": 768, "output_dim": 512}, "expected them to be equal"),
        ("mamba", {}, "model_type is 'mamba'"),
        ("gru", {"width": 3}, "the key 'width'"),
        ("amn", {"nhead": 8}, "has no num_heads"),
        ("transformer", {"input_dim": 16, "d_model": 8}, "has no nhead, which no shape of its weights tells"),
    ],
    ids=["position", "position only", "output", "type", "key", "field of another", "number of heads"],
)
def test_unusable_configs_are_refused(kind: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        reference_config(kind, values)


def test_cosine_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: baselines take minutes on a large corpus."""
    monkeypatch.delattr("train.prepared_data.fit_baselines")
    torch.manual_seed(0)
    settings: dict[str, Any] = {"data": "synthetic", "windows": 500}
    file = checkpoint(tmp_path / "best.pt", "amn", val_cosine=0.0)
    with pytest.raises(VerificationFailed, match=r"0\.0000 in the checkpoint and (0\.\d+)") as failure:
        import_checkpoint(file, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    measured = float(str(failure.value).split("and ")[1].split(" ")[0])
    for off in (0.0102, -0.0102):
        checkpoint(file, "amn", val_cosine=measured + off)
        with pytest.raises(VerificationFailed, match=r"expected at most 0\.01 between them"):
            import_checkpoint(file, tmp_path / "out", **settings)
    checkpoint(file, "amn", val_cosine=measured - 0.0098)
    artifact, cosine = import_checkpoint(file, tmp_path / "out", **settings)
    assert cosine == pytest.approx(measured, abs=1e-4)
    assert artifact.manifest.provenance["metrics"]["stored_val_cosine"] == measured - 0.0098
    assert artifact.manifest.provenance["metrics"]["val_cosine"] == cosine


class Custom:
    """An object that is not weights."""


@pytest.mark.parametrize(
    ("content", "message"),
    [({"a": 1}, "expected a dict with"), ([1], "has list"), ({"model_type": Custom()}, "holds objects")],
    ids=["keys", "list", "pickle"],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match=message):
        import_checkpoint(tmp_path / "x.pt", tmp_path / "out")


def test_a_file_of_something_else_is_not_to_be_read_as_code(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"\x93NUMPY")
    with pytest.raises(ArtifactError, match=r"x\.pt: not a readable checkpoint \(Unsupported operand 147\)"):
        import_checkpoint(tmp_path / "x.pt", tmp_path / "out")


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "best.pt", "amn").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("half.pt", "none.pt"):
        with pytest.raises(LvmError, match=name):
            import_checkpoint(tmp_path / name, tmp_path / "out")
    file = checkpoint(tmp_path / "w.pt", "amn", model_config=CONFIGS["amn"] | {"hidden_dim": 13})
    with pytest.raises(ArtifactError, match=r"residual_net\.0\.weight has shape"):
        import_checkpoint(file, tmp_path / "out")


def test_weights_under_other_names_are_shown(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "best.pt", "amn")
    weights = torch.load(file, weights_only=True)["model_state_dict"]
    checkpoint(file, "amn", model_state_dict={f"net.{name}": tensor for name, tensor in weights.items()})
    with pytest.raises(ArtifactError, match=r"encoder\.weight is missing; there is 'net\.context_encoder\.weight'"):
        import_checkpoint(file, tmp_path / "out")


def test_scalars_paths_and_namespaces_are_data(tmp_path: Path) -> None:
    sizes = CONFIGS["amn"] | {"input_dim": np.int64(16), "output_dim": torch.tensor(16)}
    args = argparse.Namespace(
        out=Path("/runs/7"), rate=np.float64(1e-3), losses=np.arange(3.0), nested=[np.bool_(True)]
    )
    file = checkpoint(
        tmp_path / "best.pt", "amn", model_config=sizes, args=args, val_cosine=np.float32(0.5), epoch=np.int64(3)
    )
    artifact, _ = import_checkpoint(file, tmp_path / "out")
    assert artifact.manifest.provenance["metrics"]["stored_val_cosine"] == 0.5
    assert artifact.manifest.provenance["training"]["epoch"] == 3


@pytest.mark.parametrize(
    "value", ["0.5", b"0.5", torch.ones(2), {1, 2}, 1j], ids=["text", "bytes", "tensor", "set", "complex"]
)
def test_what_is_no_number_in_the_place_of_one_is_left_out(tmp_path: Path, value: Any) -> None:
    file = checkpoint(tmp_path / "best.pt", "amn", val_cosine=value, epoch=value)
    artifact, _ = import_checkpoint(file, tmp_path / "out")
    assert artifact.manifest.provenance["metrics"] == {"stored_val_cosine": None, "val_cosine": None}
    assert artifact.manifest.provenance["training"]["epoch"] is None
    with pytest.raises(InvalidInput, match="stores no val_cosine"):
        import_checkpoint(file, tmp_path / "out", "synthetic", windows=300)


@pytest.mark.parametrize("value", [None, "16", 16.0, [16]], ids=["none", "text", "float", "list"])
def test_sizes_of_vectors_that_are_no_whole_numbers_are_named(tmp_path: Path, value: Any) -> None:
    file = checkpoint(tmp_path / "best.pt", "amn", model_config=CONFIGS["amn"] | {"input_dim": value})
    with pytest.raises(InvalidInput, match=r"input_dim is .* and output_dim .*, expected whole numbers"):
        import_checkpoint(file, tmp_path / "out")


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "old format"])
def test_other_objects_are_refused_by_name(old_format: bool, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "best.pt", "amn")
    state = torch.load(file, weights_only=True)
    torch.save(state | {"args": Custom()}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ArtifactError, match=r"best\.pt: holds objects .*test_import_checkpoint\.Custom"):
        import_checkpoint(file, tmp_path / "out")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed_and_recorded(prefix: str, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "best.pt", "amn")
    state = torch.load(file, weights_only=True)
    state["model_state_dict"] = {prefix + name: tensor for name, tensor in state["model_state_dict"].items()}
    torch.save(state, file)
    artifact, _ = import_checkpoint(file, tmp_path / "out")
    assert artifact.manifest.provenance["training"]["prefix_removed"] == prefix


def test_weights_of_whole_numbers_are_refused_for_their_scale_is_not_known(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "best.pt", "gru")
    state = torch.load(file, weights_only=True)
    key = "blocks.1.gru.weight_hh_l0"
    state["model_state_dict"][key] = state["model_state_dict"][key].to(torch.int8)
    torch.save(state, file)
    with pytest.raises(ArtifactError, match=rf"'{key}': torch.int8, expected tensors of floats"):
        import_checkpoint(file, tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300], ids=["NaN", "infinity", "too large for float32"])
def test_weights_that_are_no_numbers_are_refused_with_their_key(value: float, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "best.pt", "gru")
    state = torch.load(file, weights_only=True)
    key = "blocks.1.gru.weight_hh_l0"
    state["model_state_dict"][key] = state["model_state_dict"][key].double()
    state["model_state_dict"][key][2, 3] = value
    torch.save(state, file)
    with pytest.raises(InvalidInput, match=rf"best\.pt: {key} has 1 of 192 values that are NaN or infinite"):
        import_checkpoint(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_of_a_billion_layers_is_refused_at_once(tmp_path: Path) -> None:
    for key in ("num_layers", "d_model"):
        file = checkpoint(tmp_path / "best.pt", "gru", model_config=CONFIGS["gru"] | {key: 10**9})
        with pytest.raises(ArtifactError, match="not the weights of this gru"):
            import_checkpoint(file, tmp_path / "out")
