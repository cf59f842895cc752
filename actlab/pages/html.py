"""A page becomes one HTML file: no request, a strict content security policy, the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from bokeh.document import Document
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["Page", "Section", "render", "safe_json"]

_SCRIPTS = {
    "core.js": "",
    "rebin.js": "",
    "range.js": "",
    "layers.js": "detail",
    "detail.js": "detail",
    "strips.js": "detail",
    "peaks.js": "peaks",
    "classes.js": "classes",
    "compare.js": "compare",
    "compare_peaks.js": "compare_peaks",
    "verdict.js": "",
    "page.js": "",
}
"""The page's own script in the order of use: files, and the section that needs each; "" for every page."""


@dataclass(frozen=True)
class Section:
    """One part of a page. It brings all it needs, so a page is a list of them.

    Parameters
    ----------
    key : str
        Anchor of the section, and key of its data for the script.
    title : str
        Its name in the bar at the top.
    template : str
        File under `assets/` that draws it.
    context : mapping
        Values of the template, escaped there.
    data : object
        What its script needs, as JSON.
    blobs : tuple of str
        Base64 texts that the script inflates one by one, each when it is needed.
    figures : mapping of str to bokeh.plotting.figure
        Bokeh figures by the id of their element, without its ``figure-``.
    """

    key: str
    title: str
    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    data: Any = None
    blobs: tuple[str, ...] = ()
    figures: Mapping[str, figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """A page: its title and its sections, top to bottom."""

    title: str
    sections: tuple[Section, ...]


def safe_json(value: Any) -> Markup:
    """Write JSON that can stand inside a script element.

    Parameters
    ----------
    value : object
        Anything JSON can hold; NaN and infinities are refused.

    Returns
    -------
    markupsafe.Markup
        ASCII without ``<``, ``>`` and ``&``.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - nothing in it can end the element or start another


def _renumber(node: Any, names: dict[str, str]) -> Any:
    """Give models ids in the order they appear: Bokeh counts on from all figures made before."""
    if isinstance(node, dict):
        return {
            key: names.setdefault(value, f"m{len(names)}")
            if key == "id" and isinstance(value, str)
            else _renumber(value, names)
            for key, value in node.items()
        }
    return [_renumber(item, names) for item in node] if isinstance(node, list | tuple) else node


def _embedded(figures: Mapping[str, figure]) -> dict[str, Any]:
    """Return the Bokeh document of the figures and the element each one goes into."""
    document = Document()
    for frame in figures.values():
        document.add_root(frame)
    names: dict[str, str] = {}
    content = _renumber(document.to_json(deferred=False), names)
    document.clear()  # so that the figures may be embedded again
    content["title"] = "actlab"
    roots = {names[frame.id]: f"figure-{key}" for key, frame in figures.items()}
    return {"document": content, "roots": roots}


def _asset(name: str) -> str:
    """Read a file of `assets/`."""
    return files("actlab.pages").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _bokeh_script() -> str:
    """Read BokehJS from the installed package: its core only, no widgets, tables or WebGL."""
    return str(Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0])


def _script(text: str) -> Markup:
    """Return text as the content of a script element, to the letter, so that its hash holds."""
    if "</script" in text.lower() or "<!--" in text or "\r" in text:
        raise AssertionError("a script of the page would end its own element")
    return Markup(text)  # noqa: S704 - our own files and BokehJS, checked in the lines above


def _hash(text: str) -> str:
    """Return the source expression of an inline script for the policy."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def render(page: Page) -> str:
    """Write a page as HTML.

    Parameters
    ----------
    page : Page
        What to show.

    Returns
    -------
    str
        A whole document that asks no network and carries its own content security policy.
    """
    environment = Environment(
        loader=PackageLoader("actlab.pages", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    has = {section.key for section in page.sections}
    own = "\n".join(['"use strict";', *(_asset(name) for name, key in _SCRIPTS.items() if key in has | {""})])
    figures = {key: frame for section in page.sections for key, frame in section.figures.items()}
    scripts = {
        "theme": _asset("theme.js"),
        **({"bokeh": _bokeh_script()} if figures else {}),
        "own": f"(() => {{\n{own}\n}})();",
    }
    return environment.get_template("page.html.j2").render(
        page=page,
        has=has,
        style=Markup(_asset("report.css")),  # noqa: S704 - our own file
        policy="; ".join(
            (
                "default-src 'none'",
                "img-src data:",
                "style-src 'unsafe-inline'",
                "script-src " + " ".join(_hash(text) for text in scripts.values()),
            )
        ),
        scripts={name: _script(text) for name, text in scripts.items()},
        data=safe_json({section.key: section.data for section in page.sections if section.data is not None}),
        bokeh=safe_json(_embedded(figures)) if figures else None,
    )
