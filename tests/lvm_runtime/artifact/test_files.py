"""Files of an artifact: only plain files inside it are opened, and every one that lies there is listed."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime.artifact.files import StoredFile, describe, read_plain
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.artifact.limits import LARGEST_FILE, LARGEST_MANIFEST
from lvm_runtime.errors import ArtifactError
from tests.artifacts import edit_manifest


@pytest.fixture
def copy(small_artifacts: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the small AMN that a test may damage."""
    return Path(shutil.copytree(small_artifacts("amn"), tmp_path / "amn"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder of the kind that a Core ML package is."""
    (tmp_path / "m.mlpackage/Data").mkdir(parents=True)
    (tmp_path / "m.mlpackage/Data/model").write_bytes(b"model")
    return tmp_path / "m.mlpackage"


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "fingerprint.npz", "onnx/fp32.onnx"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_plain_files_are_opened(copy: Path, name: str, kind: str) -> None:
    (copy / name).rename(copy.parent / "elsewhere")
    if kind == "link":
        (copy / name).symlink_to(copy.parent / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).mkdir()
    with pytest.raises(ArtifactError, match=name):
        Artifact.load(copy)


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))  # a socket's path has at most 107 characters


NAMED = [(b"Data/model", b"model"), (b"\xff", b"more")]

KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (lambda path: path.symlink_to("/etc/hostname"), "a link"),
    "folder": (Path.mkdir, "a folder"),
    "pipe": (os.mkfifo, "a pipe"),
    "socket": (_bind, "a socket"),
    "device": (lambda path: None, "a device"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_not_read_and_named(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    make, named = KINDS[kind]
    path = Path("/dev/zero") if kind == "device" else tmp_path / "file"
    make(path)
    advice = "; copy the artifact with its links resolved: cp -RL" if kind == "link" else ""
    with pytest.raises(ArtifactError, match=f"^{path}: is {named}, expected a plain file{advice}$"):
        read_plain(path, 10)


@pytest.mark.parametrize(("kind", "message"), [("link", "cannot be read"), ("pipe", "is a pipe"), ("folder", "is a f")])
def test_a_file_that_is_exchanged_before_it_is_opened_is_not_read(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe would wait for a writer, and a link would be followed."""
    plain, path = tmp_path / "plain", tmp_path / "file"
    plain.touch()
    KINDS[kind][0](path)
    status = os.lstat(plain)
    monkeypatch.setattr(os, "lstat", lambda asked: status)
    with pytest.raises(ArtifactError, match=f"{path}: {message}"):
        read_plain(path, 10)


def test_a_file_of_just_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read_plain(tmp_path / "file", 10) == b"x" * 10
    with pytest.raises(ArtifactError, match="10 bytes, expected at most 9"):
        read_plain(tmp_path / "file", 9)


def test_a_folder_that_is_a_link_is_refused(copy: Path) -> None:
    (copy / "onnx").rename(copy.parent / "onnx")
    (copy / "onnx").symlink_to(copy.parent / "onnx")
    with pytest.raises(ArtifactError, match=r"amn/onnx: .*or a link"):
        Artifact.load(copy)


@pytest.mark.parametrize("name", ["weights.data", "onnx/fp32.onnx.data", "extra/deep/file", "onnx/link"])
def test_a_stray_is_named(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("link"):
        (copy / name).symlink_to(copy.parent)
    else:
        (copy / name).write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"amn/{name}: not listed in manifest.json"):
        Artifact.load(copy)


def test_what_finder_and_writers_leave_is_no_stray(copy: Path) -> None:
    for name in (".DS_Store", "onnx/._fp32.onnx", "onnx/.DS_Store"):
        (copy / name).write_bytes(b"")
    (copy / ".tmp-abc").mkdir()
    (copy / ".tmp-abc/half").write_bytes(b"")
    Artifact.load(copy)


def test_a_file_that_a_writer_is_about_to_list_is_no_stray(copy: Path) -> None:
    (copy / "onnx/.tmp-new.onnx").mkdir()
    (copy / "onnx/new.onnx").write_bytes(b"")
    Artifact.load(copy)
    (copy / "onnx/other.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"onnx/other\.onnx: not listed"):
        Artifact.load(copy)


@pytest.mark.parametrize(("missing", "found"), [("onnx", "onnx/fp32.onnx: missing"), ("extra", None)])
def test_a_folder_that_a_writer_takes_away_during_a_look_is_nothing_else_than_missing(
    copy: Path, monkeypatch: pytest.MonkeyPatch, missing: str, found: str | None
) -> None:
    def scan(folder: Path) -> Any:
        if folder == copy / missing:
            (copy / missing).rename(copy.parent / "away")
        return scan_it(folder)

    scan_it = os.scandir
    (copy / missing).mkdir(exist_ok=True)
    monkeypatch.setattr("lvm_runtime.artifact.files.os.scandir", scan)
    if found is None:
        Artifact.load(copy)
    else:
        with pytest.raises(ArtifactError, match=found):
            Artifact.load(copy)
    assert not (copy / missing).exists()


def test_a_folder_that_cannot_be_listed_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(folder: Path) -> Any:
        if Path(folder).name == "onnx":
            raise PermissionError(13, "Permission denied")
        return scan_it(folder)

    scan_it = os.scandir
    monkeypatch.setattr("lvm_runtime.artifact.files.os.scandir", scan)
    with pytest.raises(ArtifactError, match=r"amn/onnx: cannot be read \(Permission denied\)"):
        Artifact.load(copy)


def test_sizes_are_compared_before_anything_is_hashed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvm_runtime.artifact.files._sha256", lambda path: pytest.fail(f"{path} was read"))
    os.truncate(copy / "model.safetensors", 1 << 40)  # a sparse file, of no blocks
    with pytest.raises(ArtifactError, match=f"more than {LARGEST_FILE:,} bytes"):
        Artifact.load(copy)
    os.truncate(copy / "model.safetensors", 10)
    with pytest.raises(ArtifactError, match="10 bytes, expected"):
        Artifact.load(copy)


def test_a_manifest_of_100_mb_is_not_read(copy: Path) -> None:
    os.truncate(copy / "manifest.json", 100_000_000)
    with pytest.raises(ArtifactError, match=f"100,000,000 bytes, expected at most {LARGEST_MANIFEST:,}"):
        Artifact.load(copy)


def test_a_batch_of_a_million_is_refused(copy: Path) -> None:
    edit_manifest(copy, lambda m: m["compiled"][0].update(batch_sizes=[1_000_000]))
    with pytest.raises(ArtifactError, match="batch_sizes has 1000000"):
        Artifact.load(copy)


def test_the_hash_of_a_package_knows_its_empty_folders(package: Path) -> None:
    before = describe(package.parent, package.name)
    (package / "._model").write_bytes(b"a note of Finder's")
    assert describe(package.parent, package.name) == before
    (package / "Data/empty").mkdir()
    after = describe(package.parent, package.name)
    assert after.bytes == before.bytes
    assert after.sha256 != before.sha256
    (package / "Data/empty").rename(package / "Data/other")
    assert describe(package.parent, package.name).sha256 != after.sha256


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_the_hash_of_a_package_takes_names_that_are_no_text(package: Path) -> None:
    (package / os.fsdecode(b"\xff")).write_bytes(b"more")
    (package / "Data/empty").mkdir()
    lines = [b"Data/empty/\0\n"]
    lines += [name + b"\0" + sha256(data).hexdigest().encode() + b"\n" for name, data in NAMED]
    assert describe(package.parent, package.name).sha256 == sha256(b"".join(lines)).hexdigest()


def test_the_hash_of_a_package_is_the_one_that_schema_1_wrote(package: Path) -> None:
    (package / "Info.plist").write_bytes(b"")
    assert describe(package.parent, package.name).sha256 == (
        "cd3e0dfdc818efee752d7bea77564fc83dfad81d87e62c1d17eea44533de1d02"
    )


def test_a_package_of_nothing_has_the_hash_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert describe(tmp_path, "p") == StoredFile("p", 0, sha256(b"").hexdigest())


@pytest.mark.parametrize("target", ["model", "/etc/hostname", "nowhere", ".."])
def test_a_link_in_a_package_is_refused(package: Path, target: str) -> None:
    (package / "Data/link").symlink_to(target)
    with pytest.raises(ArtifactError, match="Data/link: is a link"):
        describe(package.parent, package.name)


@pytest.mark.parametrize("nested", [False, True], ids=["beside each other", "in each other"])
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["files", "folders"])
def test_a_package_has_as_many_files_and_folders_as_it_may(
    make: Callable[[Path], object], nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lvm_runtime.artifact.files.MOST_PACKAGE_FILES", 4)
    package = tmp_path / "p"
    inner = package / "inner" if nested else package
    inner.mkdir(parents=True)
    for i in range(4):
        make(inner / f"{i}")
    describe(tmp_path, "p")
    make(inner / "4")
    with pytest.raises(ArtifactError, match="p: more than 4 files"):
        describe(tmp_path, "p")


def test_the_files_of_a_package_count_together(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvm_runtime.artifact.files.LARGEST_FILE", 9)
    (package / "more").write_bytes(b"more")
    assert describe(package.parent, package.name).bytes == 9
    (package / "more").write_bytes(b"more.")
    with pytest.raises(ArtifactError, match="more than 9 bytes"):
        describe(package.parent, package.name)
