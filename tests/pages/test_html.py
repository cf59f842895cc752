import base64
import hashlib
import json
import re

import pytest
from bokeh.plotting import figure

from actlab.pages.figures import detail_figures
from actlab.pages.html import Page, Section, render, safe_json

HOSTILE = "</script><script>alert(1)</script><!-- {{7*7}} & \u2028 <img src=x onerror=alert(1)>"


def page(title="A page"):
    context = {"title": title, "notes": HOSTILE, "facts": [("Model", HOSTILE)], "missing": [], "lanes": []}
    return Page(title, (Section("top", "", "facts.html.j2", context, {"name": HOSTILE}, ("AAAA",)),))


def test_json_in_a_script_element_cannot_end_it():
    text = safe_json({"name": HOSTILE})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": HOSTILE}


def test_json_refuses_what_no_browser_reads():
    with pytest.raises(ValueError, match="not JSON compliant"):
        safe_json([float("nan")])


def test_user_text_stays_text():
    html = render(page(HOSTILE))
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "{{7*7}}" in html
    assert html.count("<script") == render(page()).count("<script")


def test_the_policy_names_the_hash_of_every_script_and_allows_nothing_else():
    html = render(page())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1].replace(
        "&#39;", "'"
    )
    rules = dict(part.split(" ", 1) for part in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in rules["script-src"]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert html.index("Content-Security-Policy") < html.index("<script")


def test_the_same_page_gives_the_same_bytes_whatever_was_drawn_before():
    def drawn():
        section = page().sections[0]
        frames = detail_figures(10, -1.0, 1.0)
        return render(
            Page("A page", (Section(section.key, "", section.template, section.context, figures=frames),))
        )

    first = drawn()
    figure().line([1, 2], [3, 4])
    assert drawn() == first
    assert re.search(r'"id":"p\d', first) is None
