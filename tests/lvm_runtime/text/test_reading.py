"""Which files are found, and what is said of those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvm_runtime.errors import InvalidInput
from lvm_runtime.text.reading import find_files, read_text


def test_a_folder_is_walked_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("b/c/2.md", "b/1.txt", "b/other.pdf", "b/.git/3.txt", "b/.4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert find_files([tmp_path, tmp_path / "b/1.txt"]) == [tmp_path / "b/1.txt", tmp_path / "b/c/2.md"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"empty: no file below it ends in \.txt"):
        find_files([tmp_path / "empty"])
    with pytest.raises(InvalidInput, match=r"absent\.txt: no such file"):
        find_files([tmp_path / "absent.txt"])


def test_a_file_of_several_names_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.txt").write_text("text")
    (tmp_path / "a/2.txt").symlink_to("1.txt")
    (tmp_path / "b").symlink_to("a")
    names = ["a/../a/1.txt", "a", "b", "b/1.txt", str(tmp_path / "a/1.txt")]
    assert find_files([Path(name) for name in names]) == [Path("a/../a/1.txt")]


@pytest.mark.parametrize(("name", "content"), [("a.pdf", b"x"), ("a.txt", b"\xff\xfe\x00")], ids=["suffix", "bytes"])
def test_unreadable_files_are_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=name):
        read_text(tmp_path / name)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.txt: cannot be read \(No such file or directory\)$"):
        read_text(tmp_path / "absent.txt")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_bytes("\ufeffOne.".encode())
    assert read_text(tmp_path / "a.TXT") == "One."


def test_a_file_with_two_names_is_one_document(tmp_path: Path) -> None:
    for name in ("a.txt", "c.txt"):
        (tmp_path / name).write_text("the same words")
    (tmp_path / "b.txt").hardlink_to(tmp_path / "a.txt")
    (tmp_path / "d.txt").symlink_to("b.txt")
    assert find_files([tmp_path]) == [tmp_path / "a.txt", tmp_path / "c.txt"]
    assert find_files([tmp_path / "d.txt", tmp_path / "a.txt"]) == [tmp_path / "d.txt"]
