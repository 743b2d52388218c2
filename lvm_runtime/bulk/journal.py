"""The journal of a bulk run: JSON lines, first what run this is, then each block that is on the disk with its bad rows.

A line is written after the data that it stands for was flushed to the disk, so what a journal names is there after any
kind of crash. A kill costs the blocks since the last flush.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lvm_runtime.errors import InvalidInput, LvmError


def entry(number: int, bad: dict[int, str]) -> str:
    """Return the line for a block; `bad` maps its rows that were not predicted to the reason."""
    return json.dumps({"block": number, "bad": bad}) + "\n"


def heading(identity: dict[str, Any]) -> str:
    """Return the first line, which tells this run from any other."""
    return json.dumps(identity) + "\n"


def read(path: Path, identity: dict[str, Any], block: int, rows: int) -> dict[int, dict[int, str]]:
    """Return the bad rows of each of the blocks, of `block` rows of `rows`, that the journal at `path` names.

    A line that is damaged counts for nothing, and its block is done again. Raises InvalidInput for the journal of
    another run than `identity`.
    """
    try:
        first, *lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LvmError(f"{path}: cannot be read ({error.strerror}); give --restart to begin again") from error
    found = _parse(first)
    if found != identity:
        names = [name for name in sorted(identity) if (found or {}).get(name) != identity[name]]
        whose = "is damaged" if found is None else f"belongs to a run with other {', '.join(names) or 'settings'}"
        raise InvalidInput(f"{path} {whose}; run the same command as before, or give --restart to drop it")
    done = {}
    for line in lines:
        parsed = _parse(line)
        number = None if parsed is None else parsed.get("block")
        if type(number) is int and 0 <= number * block < rows:
            bad = _bad_rows(parsed, range(number * block, min((number + 1) * block, rows)))
            if bad is not None:
                done[number] = bad
    return done


def _bad_rows(parsed: Any, rows: range) -> dict[int, str] | None:
    """Return the bad rows of an entry, None if any is not one of `rows` or has no printable reason."""
    bad = parsed.get("bad")
    if not isinstance(bad, dict):
        return None
    allowed = {str(row) for row in rows} if bad else set()
    if any(row not in allowed or not isinstance(why, str) or not why.isprintable() for row, why in bad.items()):
        return None
    return {int(row): why for row, why in bad.items()}


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None  # the line that was being written when the run was killed
    return found if isinstance(found, dict) else None
