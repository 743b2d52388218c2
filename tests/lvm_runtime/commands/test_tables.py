"""Tables in both of their forms."""

from __future__ import annotations

import pytest

from lvm_runtime.commands.tables import aligned, markdown


def test_markdown_aligns_figures_to_the_right() -> None:
    assert markdown(("a", "b", "c"), [("x", "y", 1)], left=2) == "| a | b | c |\n| --- | --- | ---: |\n| x | y | 1 |"


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert aligned(("a", "b", "c"), [("long", "1", "2"), ("x", "22", "3")]) == "a     b   c\nlong  1   2\nx     22  3"


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        aligned(("a", "b"), [("x",)])
