"""The text of pages: what a reader sees is kept, and markup, scripts and other files are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvm_runtime.text.markup import text_of_html, text_of_markdown, text_of_rst

HTML = {
    "head and script": "<head><title>no</title></head><p>One &amp; two.</p><script>no()</script>",
    "no head end": "<head><title>no</title><p>One &amp; two.",
    "no head": "<title>no</title><p>One &amp; two.",
    "nav": "<nav><a>menu</a></nav><p>One &amp; two.",
    "unclosed nav": "<body><nav>One &amp; <p>two.",
    "unclosed script": "<p>One &amp; two.<script>no()",
    "blocks": "<td>One<li>&amp;</td><div>two.",
}

MARKDOWN = {
    "front matter": ("---\ntitle: no\n---\n# One\n\ntwo", "One two"),
    "front matter with comments": ("---\n# no\n\ntitle: no\nlist:\n- no\n...\nOne", "One"),
    "front matter and no more": ("---\ntitle: no\n---", ""),
    "empty front matter": ("---\n---\nOne", "One"),
    "rule first": ("---\n\nOne two.\n\n---\n\nthree", "One two. three"),
    "link, image, emphasis": ("[One](http://no) ![*two*](no.png) **three**", "One two three"),
    "code": ("```python\nx < 1\n```\n\n    y = 2\n\n`z`", "x < 1 y = 2 z"),
    "HTML": ("<div>One<script>no()</script></div>\n\nA <b>b</b> &lt;i&gt; & `<c>`", "One A b <i> & <c>"),
    "table": ("| a | b |\n|---|---|\n| 1 | 2 |", "a b 1 2"),
    "list": ("- One\n  two\n\n  three\n1. four", "One two three four"),
    "unclosed": ("**One [two](", "**One [two]("),
    "empty": ("", ""),
}

SPHINX = """
Title
=====

.. function:: open(path, mode='r')
   :noindex:

   Open :file:`x` by :func:`~os.open`, see :ref:`a label <no>`.

   .. versionadded:: 3.4
      New |name| thing.

.. |name| replace:: shiny

.. toctree::

   no

.. code-block:: python
   :linenos:

   print("hi")

.. a comment

.. note:: Take *care*. `unfinished
"""
SPHINX_TEXT = (
    "Title open(path, mode='r') Open x by os.open, see a label. 3.4 New shiny thing. "
    'print("hi") Take care. `unfinished'
)


@pytest.mark.parametrize("page", HTML.values(), ids=HTML.keys())
def test_html_is_read_as_browsers_read_it(page: str) -> None:
    assert text_of_html(page).split() == ["One", "&", "two."]


@pytest.mark.parametrize(("page", "text"), MARKDOWN.values(), ids=MARKDOWN.keys())
def test_markdown(page: str, text: str) -> None:
    assert " ".join(text_of_markdown(page).split()) == text


@pytest.mark.parametrize(
    "page",
    [
        "<table><tr><td>One<td>two<tr><th>three<th>four</table>",
        "<main>One<header>two</header>three</main>four",
        "One<hr>two<aside>three</aside>four",
        "<footer>One</footer>two<form>three<button>four</button></form>",
        "<figure>One<figcaption>two</figcaption></figure><select><option>three<option>four</select>",
        "<details><summary>One</summary>two</details><address>three</address>four",
    ],
    ids=["table", "main", "rule", "footer and form", "figure and select", "details"],
)
def test_words_of_elements_side_by_side_stay_apart(page: str) -> None:
    """A cell's last word and the next one's first were one, which no reader sees."""
    assert text_of_html(page).split() == ["One", "two", "three", "four"]


def test_rst_keeps_the_text_of_what_only_sphinx_knows(capfd: pytest.CaptureFixture[str]) -> None:
    assert " ".join(text_of_rst(SPHINX).split()) == SPHINX_TEXT
    assert capfd.readouterr() == ("", "")


def test_rst_lets_nothing_in_from_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    for directive in ("include", "literalinclude", "csv-table:: t\n   :file", "raw:: html\n   :file"):
        page = f"One.\n\n.. {directive}:: {tmp_path / 'secret.txt'}\n\n.. raw:: html\n\n   <b>secret</b>\n\ntwo.\n"
        assert "secret" not in text_of_rst(page).replace("secret.txt", "")
