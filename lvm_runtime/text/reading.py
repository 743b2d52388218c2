"""Text files, found and read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lvm_runtime.errors import InvalidInput
from lvm_runtime.text.markup import text_of_html, text_of_markdown, text_of_rst

READERS: dict[str, Callable[[str], str]] = {
    ".txt": str,
    ".md": text_of_markdown,
    ".html": text_of_html,
    ".htm": text_of_html,
    ".rst": text_of_rst,
}
SUFFIXES = tuple(READERS)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that `paths` mean: themselves, and for a folder every text file below it, by name.

    Each file is there once, whatever paths and links, hard ones too, lead to it: as two documents its text could be
    trained on and validated on.

    Files and folders whose names begin with a dot are not looked at. Raises InvalidInput for a path that is not there
    and for a folder without a text file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(_walk(path))
            if not found:
                raise InvalidInput(f"{path}: no file below it ends in {', '.join(SUFFIXES)}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise InvalidInput(f"{path}: no such file; expected a file that ends in {', '.join(SUFFIXES)}, or a folder")
    unique: dict[object, Path] = {}
    for file in files:
        unique.setdefault(_identity(file), file)
    return list(unique.values())


def _identity(file: Path) -> object:
    """Return what the names of one file have in common. Not every disk numbers its files, but those with links do."""
    try:
        found = file.stat()
    except OSError:  # it went away, and reading it will say so
        return file
    return (found.st_dev, found.st_ino) if found.st_nlink > 1 else os.path.realpath(file)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file():
                yield path


def read_text(path: Path) -> str:
    """Return the text of a file without its markup. Raises InvalidInput for another suffix or no UTF-8."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path}: suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: cannot be read as UTF-8 text ({error}); convert it") from error
    return text_of(text, path.suffix)


def text_of(source: str, suffix: str) -> str:
    """Return the text of `source`, whose markup `suffix` names."""
    return READERS[suffix.lower()](source)
