"""Notes in Markdown become HTML that can do nothing: no markup of their own, no picture, no strange link."""

from __future__ import annotations

import re
from functools import cache

from markdown_it import MarkdownIt
from markupsafe import Markup

__all__ = ["render_notes"]

_LINK = re.compile(r"https://|mailto:|#", re.IGNORECASE)
# The title of the page is its only h1.
_HEADINGS = {
    "h1": "h2",
    "h2": "h3",
    "h3": "h4",
    "h4": "h5",
    "h5": "h6",
}


def _is_allowed(url: str) -> bool:
    """Tell whether a link may lead there; what may not stays text."""
    return _LINK.match(url) is not None


# The method is named by the library, which has no option for it.
_Parser = type("_Parser", (MarkdownIt,), {"validateLink": staticmethod(_is_allowed)})


@cache
def _parser() -> MarkdownIt:
    """Return the parser: CommonMark and tables, without HTML and pictures."""
    parser: MarkdownIt = _Parser("commonmark", {"html": False}).enable("table").disable("image")
    return parser


def render_notes(text: str) -> Markup:
    """Render notes as HTML.

    Parameters
    ----------
    text : str
        Markdown: CommonMark and tables. HTML in it stays text, pictures are not shown, and a link leads to
        ``https://``, ``mailto:`` or ``#`` only; any other stays text.

    Returns
    -------
    markupsafe.Markup
        Safe to stand in a page.
    """
    parser = _parser()
    tokens = parser.parse(text)
    for token in tokens:
        token.tag = _HEADINGS.get(token.tag, token.tag)
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener noreferrer")
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704 - the parser escapes all text
