"""The text of HTML, Markdown and reStructuredText, as their parsers see it; blocks become paragraphs."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from lvm_runtime.system import extras

_BLOCKS = (
    "address,article,aside,blockquote,br,caption,center,dd,details,dialog,div,dl,dt,fieldset,figcaption,figure,footer,"
    "form,h1,h2,h3,h4,h5,h6,header,hr,legend,li,main,menu,nav,noscript,ol,option,p,pre,search,section,select,summary,"
    "table,textarea,tr,ul"
)
_CELLS = "td,th,button"
"""Elements beside each other in a line, whose texts are words apart."""

_SILENT = "script,style,template,head"
_FRONT_MATTER = re.compile(
    r"\A---[ \t]*\n"
    r"(?=(?:[ \t]*(?:#[^\n]*)?\n)*(?:[^\s:][^\n:]*:|---))"  # after empty lines and comments a key, or the end
    r"(?:.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)",
    re.DOTALL,
)
"""YAML between two lines of dashes. A page may begin with a rule too, and what follows it is text."""


def text_of_html(html: str) -> str:
    """Return the visible text of a page as browsers parse it; block elements become paragraph borders, cells tabs.

    A `nav` is left out unless it holds most of the text: then it is one that was never closed.
    """
    tree = extras.require("text", "reading HTML", "selectolax.lexbor").LexborHTMLParser(html)
    for node in reversed(tree.css(_SILENT)):  # an outer one takes the inner ones with it
        node.decompose()
    whole = len(tree.text())
    for node in reversed(tree.css("nav")):
        if 2 * len(node.text()) < whole:
            node.insert_before("\n\n")
            node.decompose()
    for kind, border in ((_BLOCKS, "\n\n"), (_CELLS, "\t")):
        for node in tree.css(kind):
            node.insert_before(border)
            node.insert_after(border)
    return str(tree.text())


def text_of_markdown(markdown: str) -> str:
    """Return the text of a CommonMark page with tables; links keep their words, images their descriptions."""
    MarkdownIt = extras.require("text", "reading Markdown", "markdown_it").MarkdownIt
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(_FRONT_MATTER.sub("", markdown.removeprefix("\ufeff").replace("\r\n", "\n")))
    return "\n\n".join(_blocks_of_markdown(tokens))


def _blocks_of_markdown(tokens: list[Any]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            html = any(child.type == "html_inline" for child in token.children)
            yield text_of_html(_inline(token.children, html=True)) if html else _inline(token.children)
        elif token.type in ("fence", "code_block"):
            yield token.content
        elif token.type == "html_block":
            yield text_of_html(token.content)


def _inline(tokens: list[Any], *, html: bool = False) -> str:
    """Return the text of inline tokens; with `html`, as HTML in which text is escaped and tags are not."""
    parts = []
    for token in tokens:
        if token.type == "html_inline":
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        else:
            text = _inline(token.children) if token.type == "image" else token.content
            parts.append(text.replace("&", "&amp;").replace("<", "&lt;") if html else text)
    return "".join(parts)


def text_of_rst(source: str) -> str:
    """Return the text of a reStructuredText page; directives and roles that only Sphinx knows keep their text.

    Nothing is included from other files and no raw output is let through, whatever the page says.
    """
    extras.require("text", "reading reStructuredText", "docutils")
    from docutils import nodes
    from docutils.core import publish_doctree

    _learn_unknown(source)
    settings = {
        "report_level": 5,
        "halt_level": 6,
        "warning_stream": io.StringIO(),
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,
        "line_length_limit": len(source) + 1,
    }
    tree = publish_doctree(source, settings_overrides=settings)
    for node in list(tree.findall(nodes.system_message)):
        kept = [_contents_of_directive(block.astext()) for block in node.findall(nodes.literal_block)]
        node.parent.replace(node, [nodes.literal_block(text, text) for text in kept])
    blocks = (node.astext() for node in tree.findall(nodes.TextElement) if not _is_inside_text(node, nodes))
    return "\n\n".join(block for block in blocks if block.strip())


def _is_inside_text(node: Any, nodes: Any) -> bool:
    """Say whether the node's text is part of its parent's text, or is not shown."""
    return isinstance(node.parent, nodes.TextElement) or isinstance(node, nodes.Invisible)


def _contents_of_directive(block: str) -> str:
    """Return what a directive that docutils refuses, for an option that only Sphinx knows say, holds."""
    if block.startswith(".. raw::"):
        return ""
    lines = textwrap.dedent("\n".join(block.splitlines()[1:])).splitlines()
    while lines and (not lines[0].strip() or lines[0].startswith(":")):
        lines.pop(0)
    return "\n".join(lines)


_ROLE = re.compile(r":([A-Za-z][\w.+:-]*):`|`:([A-Za-z][\w.+:-]*):")
_DIRECTIVE = re.compile(r"^\s*\.\.\s+(?:\|[^|]+\|\s+)?([A-Za-z][\w.+:-]*)::", re.MULTILINE)
_NAMES_ONLY = ("toctree", "index", "currentmodule", "module", "py:module", "py:currentmodule", "highlight")
_TARGET = re.compile(r"^[!~]?(.*?)\s*<[^<>]*>$", re.DOTALL)


def _learn_unknown(source: str) -> None:
    """Teach docutils the roles and directives of `source` that it does not know: they are what they hold.

    Docutils keeps one table of each for the process. Only names that are not in it are added.
    """
    from docutils import nodes, utils
    from docutils.parsers.rst import Directive, directives, languages, roles

    class AnyOption(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return directives.unchanged

    class Contents(Directive):
        """A directive that is replaced by its arguments and its contents."""

        optional_arguments, final_argument_whitespace, has_content = 1, True, True
        option_spec = AnyOption(name=directives.unchanged)

        def run(self) -> list[Any]:
            if self.name in _NAMES_ONLY:
                return []
            holder = nodes.Element()
            self.state.nested_parse(self.content, self.content_offset, holder)
            title = [nodes.paragraph("", "", *self.state.inline_text(text, self.lineno)[0]) for text in self.arguments]
            return [*title, *holder.children]

    def text_role(
        name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None
    ) -> tuple[list[Any], list[Any]]:
        shown = _TARGET.sub(r"\1", utils.unescape(text)).lstrip("!~")
        return [nodes.inline(rawtext, shown)], []

    document = utils.new_document("", None)
    document.reporter.report_level = 5
    language = languages.get_language("en", document.reporter)
    for name in {(first or second).lower() for first, second in _ROLE.findall(source)}:
        if roles.role(name, language, 0, document.reporter)[0] is None:
            roles.register_local_role(name, text_role)
    for name in {name.lower() for name in _DIRECTIVE.findall(source)}:
        if directives.directive(name, language, document)[0] is None:
            directives.register_directive(name, Contents)
