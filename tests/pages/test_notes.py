"""Notes: Markdown is shown, and nothing in it reaches the page as markup or leads anywhere strange."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.pages.notes import render_notes

TAGS = {
    *("p", "em", "strong", "code", "pre", "a", "ul", "ol", "li", "blockquote", "hr", "br"),
    *("table", "thead", "tbody", "tr", "th", "td", "h2", "h3", "h4", "h5", "h6"),
}
PIECES = st.sampled_from(
    [
        *("<script>", "</div>", "<img src=x onerror=a>", "[a](", ")", "![", "]", "<", ">", '"', "'"),
        *("javascript:a", "https://a.b", "&#106;avascript:", "data:x", "//a", "&lt;"),
        *("\n", "\n\n", "# ", "> ", "* ", "`", "```", "|", "|-|", "**"),
    ]
)


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *each) for each in attrs]

    def handle_data(self, data):
        self.text += data


@given(st.lists(PIECES | st.text(max_size=8), max_size=30).map("".join))
def test_no_text_becomes_markup_or_a_strange_link(text):
    seen = Seen(render_notes(text))
    assert seen.tags <= TAGS
    for tag, name, value in seen.attributes:
        assert (tag, name) in {("a", "href"), ("a", "rel"), ("a", "title"), ("ol", "start")} or (
            (tag, name) in {("code", "class"), ("th", "style"), ("td", "style")}
        )
        if name == "href":
            assert value.lower().startswith(("https://", "mailto:", "#"))
        if name == "style":
            assert value in {"text-align:left", "text-align:right", "text-align:center"}


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a *b* **c** `d`", "<p>a <em>b</em> <strong>c</strong> <code>d</code></p>\n"),
        ("# a", "<h2>a</h2>\n"),
        ("* a\n* b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"),
        ("[a](https://b.c)", '<p><a href="https://b.c" rel="noopener noreferrer">a</a></p>\n'),
        ("[a](#wall)", '<p><a href="#wall" rel="noopener noreferrer">a</a></p>\n'),
        ("[a](http://b.c)", "<p>[a](http://b.c)</p>\n"),
        ("[a](javascript:b)", "<p>[a](javascript:b)</p>\n"),
        ("![a](https://b.c)", '<p>!<a href="https://b.c" rel="noopener noreferrer">a</a></p>\n'),
        ("<b>a</b>", "<p>&lt;b&gt;a&lt;/b&gt;</p>\n"),
        ("{{ 7*7 }}", "<p>{{ 7*7 }}</p>\n"),
        ("", ""),
    ],
)
def test_markdown_is_rendered(text, html):
    assert render_notes(text) == html
