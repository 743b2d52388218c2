"""Artifacts: what is written is checked, what is damaged is named, and nothing is half there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lvm_runtime import Predictor
from lvm_runtime.artifact import files
from lvm_runtime.artifact.folder import _ATTEMPTS, Artifact, read_config, require_place, resolve
from lvm_runtime.errors import ArtifactError, InvalidInput, WriteFailed
from lvm_runtime.models import save_model
from lvm_runtime.system import atomic
from tests.artifacts import edit_manifest, flip, randomised, with_other_heads

FILES = ("manifest.json", "model.safetensors", "fingerprint.npz", "onnx/fp32.onnx", "torchscript/fp32.pt")


@pytest.fixture
def copy(small_artifacts: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the small AMN that a test may damage."""
    return Path(shutil.copytree(small_artifacts("amn"), tmp_path / "amn"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_one_flipped_byte_is_found(copy: Path, name: str, place: float) -> None:
    flip(copy / name, place)
    with pytest.raises(ArtifactError, match=name):
        Artifact.load(copy)


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("auto", "manifest.json"),
        ("auto", "fingerprint.npz"),
        ("auto", "onnx/fp32.onnx"),
        ("onnx", "onnx/fp32.onnx"),
        ("torchscript", "torchscript/fp32.pt"),
        ("eager", "model.safetensors"),
    ],
)
def test_one_flipped_byte_in_what_is_served_from_is_an_error(copy: Path, backend: str, name: str) -> None:
    """And no reason to serve from something else, though other forms are whole."""
    flip(copy / name, 0.9)
    with pytest.raises(ArtifactError, match=f"{name}: (SHA-256|not valid JSON)"):
        Predictor(copy, backend=backend)


def test_a_damaged_form_is_not_measured(int8: Path) -> None:
    """Nor passed over, where several are measured against each other."""
    flip(int8 / "onnx/int8.onnx", 0.9)
    with pytest.raises(ArtifactError, match=r"onnx/int8.onnx: SHA-256"):
        Predictor(int8, max_drift=1e-3)


def test_a_form_that_was_damaged_since_it_was_measured_is_an_error(int8: Path) -> None:
    with Predictor(int8, max_drift=1e-3) as predictor:
        fastest = predictor.explain().running.file
    flip(int8 / fastest, 0.9)
    with pytest.raises(ArtifactError, match=f"{fastest}: SHA-256"):
        Predictor(int8, max_drift=1e-3)


@pytest.mark.parametrize(
    ("backend", "name"), [("onnx", "fp32.onnx"), ("torchscript", "fp32.pt"), ("eager", "model.safetensors")]
)
def test_only_what_is_served_from_is_read_and_hashed_once(
    copy: Path, backend: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A form may be hundreds of megabytes, on a disk that is not fast."""
    hashed: list[str] = []
    hash_of = files._sha256
    monkeypatch.setattr(files, "_sha256", lambda path: hashed.append(path.name) or hash_of(path))
    Predictor(copy, backend=backend).close()
    assert hashed == ["fingerprint.npz", name]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found(copy: Path, name: str) -> None:
    os.truncate(copy / name, (copy / name).stat().st_size // 2)
    with pytest.raises(ArtifactError, match=name):
        Artifact.load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Artifact.load(copy)


def test_a_path_out_of_the_artifact_is_refused(copy: Path) -> None:
    edit_manifest(copy, lambda m: m["compiled"][0]["file"].update(path="../secret"))
    with pytest.raises(ArtifactError, match="leaves the artifact"):
        Artifact.load(copy)


@pytest.mark.parametrize("step", ["write", "verify", "commit"])
def test_a_killed_export_leaves_what_was_there(copy: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.load(copy)
    before = sorted(str(p.relative_to(copy)) for p in copy.rglob("*"))

    def export() -> None:
        with artifact.adding("onnx/int8.onnx") as temporary:
            if step == "write":
                raise KeyboardInterrupt
            temporary.write_bytes(b"model")
            if step == "verify":
                raise KeyboardInterrupt
            monkeypatch.setattr("lvm_runtime.system.atomic.sync_tree", _interrupt)
            artifact.commit(temporary, "onnx/int8.onnx", format="onnx", precision="int8", drift=1e-4)

    with pytest.raises(KeyboardInterrupt):
        export()
    assert sorted(str(p.relative_to(copy)) for p in copy.rglob("*")) == before
    assert Artifact.load(copy).manifest == artifact.manifest


def test_a_kill_between_file_and_manifest_leaves_a_whole_artifact(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.load(copy)
    with artifact.adding("onnx/fp32.onnx") as temporary:
        temporary.write_bytes(b"another model")
        monkeypatch.setattr("lvm_runtime.system.atomic.move", _interrupt)  # the old form is no longer listed
        with pytest.raises(KeyboardInterrupt):
            artifact.commit(temporary, "onnx/fp32.onnx", format="onnx", precision="fp32", drift=0.0)
    monkeypatch.undo()
    assert "onnx/fp32.onnx" not in [c.file.path for c in Artifact.load(copy).manifest.compiled]


def test_the_leftovers_of_a_kill_are_no_strays_and_the_next_export_removes_them(copy: Path) -> None:
    (copy / "onnx/.tmp-int8.onnx").mkdir()
    (copy / "onnx/.tmp-int8.onnx/int8.onnx").write_bytes(b"half")
    (copy / "onnx/int8.onnx").write_bytes(b"moved here, and not yet listed")
    artifact = Artifact.load(copy)
    with artifact.adding("onnx/int8.onnx") as temporary:
        assert not temporary.exists()
    assert not (copy / "onnx/int8.onnx").exists()
    assert Artifact.load(copy) == artifact


def test_two_writers_of_one_form_do_not_meet(copy: Path) -> None:
    artifact = Artifact.load(copy)
    with artifact.adding("onnx/fp32.onnx") as temporary:
        temporary.write_bytes(b"the first")
        with pytest.raises(WriteFailed, match="another writer is at work there"), artifact.adding("onnx/fp32.onnx"):
            pass
        with artifact.adding("onnx/int8.onnx") as other:
            other.write_bytes(b"of another form")
        assert temporary.read_bytes() == b"the first"
        artifact.commit(temporary, "onnx/fp32.onnx", format="onnx", precision="fp32", drift=0.0)
    assert (copy / "onnx/fp32.onnx").read_bytes() == b"the first"
    assert not list(copy.rglob(".tmp-*"))


def test_committing_replaces_the_form_of_the_same_name(copy: Path) -> None:
    artifact = Artifact.load(copy)
    with artifact.adding("onnx/fp32.onnx") as temporary:
        temporary.write_bytes(b"another model")
        details: dict[str, Any] = {"batch_sizes": (1, 8), "details": {"opset": 20}}
        after = artifact.commit(temporary, "onnx/fp32.onnx", format="onnx", precision="fp32", drift=2e-9, **details)
    (listed,) = after.find("onnx")
    assert (listed.file.path, listed.drift, listed.batch_sizes) == ("onnx/fp32.onnx", 2e-9, (1, 8))
    assert listed.details == {"opset": 20}
    assert len(after.manifest.compiled) == len(artifact.manifest.compiled)
    assert Artifact.load(copy).manifest == after.manifest


@pytest.mark.parametrize(
    "relative",
    ["../out.onnx", "{absolute}", "model.safetensors", "manifest.json", "onnx", "onnx/fp32.onnx/x", "", ".", "a\\b", 3],
    ids=str,
)
def test_a_form_lies_inside_and_on_nothing_else(copy: Path, tmp_path: Path, relative: Any) -> None:
    (tmp_path / "somebodys.txt").write_text("theirs")
    relative = str(tmp_path / "somebodys.txt") if relative == "{absolute}" else relative
    artifact, made = Artifact.load(copy), tmp_path / "made"
    made.write_bytes(b"a form")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidInput, match="relative"), artifact.adding(relative):
        pass
    with pytest.raises(InvalidInput, match="relative"):
        artifact.commit(made, relative, format="onnx", precision="fp32", drift=0.0)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "somebodys.txt").read_text() == "theirs"
    assert Artifact.load(copy) == artifact


@pytest.mark.parametrize("value", [{1}, b"x"], ids=["set", "bytes"])
def test_details_that_a_manifest_cannot_hold_change_nothing(copy: Path, tmp_path: Path, value: Any) -> None:
    (tmp_path / "made").write_bytes(b"a form")
    artifact = Artifact.load(copy)
    how: dict[str, Any] = {"format": "onnx", "precision": "fp32", "drift": 0.0, "details": {"value": value}}
    with pytest.raises(InvalidInput, match="cannot hold this"):
        artifact.commit(tmp_path / "made", "onnx/fp32.onnx", **how)
    assert Artifact.load(copy) == artifact


def test_exporting_into_retrained_weights_is_refused(copy: Path) -> None:
    artifact = Artifact.load(copy)
    save_model(randomised("amn", seed=1), copy)
    with artifact.adding("onnx/int8.onnx") as temporary:
        temporary.write_bytes(b"model of the old weights")
        with pytest.raises(ArtifactError, match="weights changed"):
            artifact.commit(temporary, "onnx/int8.onnx", format="onnx", precision="int8", drift=0.0)


def test_exporting_into_equal_weights_with_other_heads_is_refused(tmp_path: Path) -> None:
    model = randomised("transformer")
    artifact = save_model(model, tmp_path / "t")
    save_model(with_other_heads(model), tmp_path / "t")
    with artifact.adding("onnx/fp32.onnx") as temporary:
        temporary.write_bytes(b"model of the other heads")
        with pytest.raises(ArtifactError, match="config or weights changed"):
            artifact.commit(temporary, "onnx/fp32.onnx", format="onnx", precision="fp32", drift=0.0)


@pytest.mark.parametrize("other", ["commits", "begins"])
def test_exporters_at_the_same_time_take_turns(copy: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one commits a form, or begins with the same one, just before the manifest names the first one's."""
    artifact = Artifact.load(copy)

    def commit(relative: str) -> None:
        with artifact.adding(relative) as temporary:
            temporary.write_bytes(b"model")
            artifact.commit(temporary, relative, format="onnx", precision="int8", drift=1e-4)

    def begin() -> None:
        artifact._remove_unlisted("onnx/one.onnx")  # `adding` does so first: a writer that was killed may have left it

    second = Thread(target=begin if other == "begins" else lambda: commit("onnx/two.onnx"))
    move = atomic.move

    def move_slowly(*paths: Path) -> None:
        monkeypatch.setattr(atomic, "move", move)
        move(*paths)
        second.start()
        second.join(0.5)  # in vain, if it waits for its turn

    monkeypatch.setattr(atomic, "move", move_slowly)
    commit("onnx/one.onnx")
    second.join()
    expected = {"onnx/one.onnx"} | ({"onnx/two.onnx"} if other == "commits" else set())
    assert {c.file.path for c in Artifact.load(copy).find("onnx", precision="int8")} == expected


def test_training_again_drops_the_old_forms(copy: Path) -> None:
    save_model(randomised("amn", seed=1), copy)
    assert Artifact.load(copy).manifest.compiled == ()
    assert sorted(p.name for p in copy.iterdir()) == ["fingerprint.npz", "manifest.json", "model.safetensors"]


def test_an_artifact_that_is_replaced_while_it_is_read_is_read_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, writers = Artifact._check_hashes, [1, 2]

    def check_late(artifact: Artifact) -> None:
        if writers:
            save_model(randomised("amn", seed=writers.pop()), copy)
        check(artifact)

    monkeypatch.setattr(Artifact, "_check_hashes", check_late)
    artifact = Artifact.load(copy)
    assert artifact.manifest.compiled == ()
    check(artifact)


def test_an_artifact_that_is_replaced_again_and_again_is_an_error(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def check(artifact: Artifact) -> None:
        looks.append(artifact)
        if len(looks) < 2 * _ATTEMPTS:
            edit_manifest(copy, lambda m: m.update(created=f"at look {len(looks)}"))
        raise ArtifactError("half of it is new")

    monkeypatch.setattr(Artifact, "_check_hashes", check)
    with pytest.raises(ArtifactError, match="half of it is new"):
        Artifact.load(copy)
    assert len(looks) == _ATTEMPTS


def test_a_fingerprint_that_is_damaged_later_is_named(copy: Path) -> None:
    artifact = Artifact.load(copy)
    (copy / "fingerprint.npz").write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"^{copy}/fingerprint.npz: 0 bytes, expected"):
        artifact.read_fingerprint()


def test_a_place_is_free_unless_an_artifact_there_is_to_be_kept(copy: Path, tmp_path: Path) -> None:
    require_place(copy, overwrite=True)
    require_place(tmp_path / "nothing", overwrite=False)
    (tmp_path / "empty").mkdir()
    require_place(tmp_path / "empty", overwrite=False)
    with pytest.raises(ArtifactError, match=f"^{copy}: holds an artifact; choose another --out, or give --overwrite$"):
        require_place(copy, overwrite=False)
    for place in (copy / "onnx", copy / "manifest.json"):
        with pytest.raises(ArtifactError, match=f"^{place}: exists and is not an artifact; choose another output"):
            require_place(place, overwrite=True)


def test_a_folder_with_a_manifest_of_something_else_is_not_an_artifact(copy: Path, tmp_path: Path) -> None:
    """Folders of bulk predictions and of web pages have a `manifest.json` too, and would be gone."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="site: exists and is not an artifact"):
        require_place(tmp_path / "site", overwrite=True)
    (copy / "manifest.json").write_text("{")
    require_place(copy, overwrite=True)  # a damaged one can be made again


def test_sizes_are_read_without_the_other_files(copy: Path) -> None:
    config = Artifact.load(copy).config
    (copy / "model.safetensors").unlink()
    assert read_config(copy) == read_config(str(copy)) == config


@pytest.mark.parametrize("target", [".", "thesis.txt"], ids=["folder", "file"])
def test_something_else_is_not_replaced(target: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="exists and is not an artifact"):
        save_model(randomised("amn"), tmp_path / target)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(WriteFailed):
        save_model(randomised("amn"), tmp_path / ("long" * 99))


def test_an_empty_folder_becomes_the_artifact_of_a_model_made_now(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    save_model(randomised("amn"), tmp_path, provenance={"data": {"n": 3}})
    manifest = Artifact.load(tmp_path).manifest
    assert manifest.provenance["data"] == {"n": 3}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.created)
    assert before <= datetime.fromisoformat(manifest.created) <= datetime.now(timezone.utc)


@pytest.mark.parametrize("name", [3, None, b"amn"], ids=str)
def test_an_artifact_of_no_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^artifact is .*, expected a folder or one of lstm, "):
        resolve(name)
    with pytest.raises(InvalidInput, match=r"^path is .*, no name of a file"):
        Artifact.load(name)
    with pytest.raises(InvalidInput, match=r"^path is .*, no name of a file"):
        save_model(randomised("amn"), name)


@pytest.mark.parametrize("name", ["amn", "nowhere/at/all"])
def test_a_missing_artifact_names_the_command_that_makes_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="lvm-runtime train --model amn --out"):
        resolve(name)


def test_advice_fits_what_is_there(small_artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    """`train --out` would refuse a folder of something else, and gru is no AMN."""
    shutil.copytree(small_artifacts("amn"), tmp_path / "amn")
    with pytest.raises(ArtifactError, match=f"{tmp_path} has no manifest.json; .*; there is {tmp_path}/amn$"):
        resolve(tmp_path)
    with pytest.raises(ArtifactError, match=f"lvm-runtime train --model gru --out {tmp_path}/gru"):
        resolve(tmp_path / "gru")


def test_a_file_is_told_from_a_folder_without_an_artifact(copy: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json is a file; expected an artifact") as raised:
        resolve(copy / "manifest.json")
    assert "--out" not in str(raised.value)  # training cannot write there


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=["long", "NUL"])
def test_an_impossible_name_is_an_error(name: str) -> None:
    with pytest.raises(ArtifactError, match="expected an artifact folder"):
        resolve(name)


def test_an_architecture_means_the_artifact_of_that_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy.parent / "artifacts").mkdir()
    shutil.move(copy, copy.parent / "artifacts" / "amn")
    monkeypatch.chdir(copy.parent)
    assert resolve("amn") == Path("artifacts/amn")


def _interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt
