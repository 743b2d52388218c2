"""One mistake that somebody could make in the code, and the test that notices it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """In `file`, `old` (which is there once) becomes `new`; then the test with the pytest id `noticed_by` fails.

    `name` says in one line what is wrong.
    """

    name: str
    file: str
    old: str
    new: str
    noticed_by: str
