"""The templates of what is live, which use the style of the report page."""

from __future__ import annotations

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

__all__ = ["template"]


@cache
def template(name: str) -> Template:
    """Return a template of `assets/`; it may include files of the report page."""
    folders = [PackageLoader("actlab.live", "assets"), PackageLoader("actlab.pages", "assets")]
    environment = Environment(
        loader=ChoiceLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
