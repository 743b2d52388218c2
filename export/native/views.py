"""Where the values of a plan lie.

A value is a view of a buffer: for window b, row r and element j it is at b · size + offset + r · step + j. So
reshaping, splitting, joining and taking a document's overlapping windows move nothing; they are other numbers.

B batch, R rows per window, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(eq=False)
class Buffer:
    """`size` floats per window (or per vector of a document); it may come to lie inside another one, at `offset`."""

    size: int
    vectors: bool = False
    parent: Buffer | None = None
    offset: int = 0

    def root(self) -> tuple[Buffer, int]:
        """Return the buffer that holds it in the end, and where in there it begins."""
        buffer, offset = self, 0
        while buffer.parent is not None:
            buffer, offset = buffer.parent, offset + buffer.offset
        return buffer, offset


@dataclass(frozen=True)
class View:
    """R rows of `width` floats per window, `step` apart. `windows` of a buffer of vectors overlap, a vector apart."""

    buffer: Buffer
    width: int
    rows: int = 1
    step: int = 0
    offset: int = 0
    vectors: bool = False

    def reshape(self, shape: Sequence[int]) -> View:
        """Return the rows as `[B·R, width]` for `(-1, width)`, as `[B, R, width]` for `(-1, R, width)`."""
        total, width = self.rows * self.width, shape[-1]
        rows = shape[1] if len(shape) == 3 else total // width
        if rows * width != total or (rows != self.rows and self.rows > 1 and self.step != self.width):
            raise ValueError(f"{self.rows} rows of {self.width}, {self.step} apart, cannot be seen as {tuple(shape)}")
        if rows == self.rows:
            return self
        return replace(self, rows=rows, step=width if rows > 1 else 0, width=width)

    def split(self, sizes: Sequence[int]) -> list[View]:
        """Cut the last axis."""
        if sum(sizes) != self.width:
            raise ValueError(f"parts of {list(sizes)} do not make up a width of {self.width}")
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [self.columns(at, at + size) for at, size in zip(starts, sizes, strict=True)]

    def columns(self, start: int, stop: int) -> View:
        """Return a part of the last axis."""
        return replace(self, width=stop - start, offset=self.offset + start)

    def window(self, position: int) -> View:
        """Return the rows of a document's vectors from `position` on: what each window has at that position."""
        return replace(self, vectors=False, offset=self.offset + position * self.buffer.size)

    @property
    def whole(self) -> bool:
        """Whether it is one row, and all that its buffer holds."""
        return self.rows == 1 and not self.offset and self.width == self.buffer.size and self.buffer.parent is None


def join(parts: Sequence[View]) -> View:
    """Join along the last axis: parts that are whole buffers move into a new one, windows of a document stay."""
    first = parts[0]
    if first.buffer.vectors:
        size = first.buffer.size
        expected = [replace(first, offset=first.offset + t * size) for t in range(len(parts))]
        if list(parts) == expected and first.width == size and first.rows == 1:
            return replace(first, width=size * len(parts))
    elif all(part.whole for part in parts):
        joined = Buffer(sum(part.width for part in parts))
        at = 0
        for part in parts:
            part.buffer.parent, part.buffer.offset = joined, at
            at += part.width
        return View(joined, joined.size)
    raise ValueError("only whole buffers, or all positions of a document's windows in order, can be joined")
