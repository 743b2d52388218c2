"""What the lint has to say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad a finding is; the lowest is the worst."""

    ERROR = 0
    WARNING = 1
    NOTE = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about `count` operations of one type, the first of which is `operation`: why, and what to do."""

    level: Level
    rule: str
    operation: str
    why: str
    remedy: str
    count: int = 1

    def __str__(self) -> str:
        times = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{self.level.name.lower():7s} {self.rule}: {self.operation}{times}: {self.why}; {self.remedy}"
