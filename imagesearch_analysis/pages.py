"""Renders the HTML pages of all analyses from `templates/`. A page needs no other files and no network."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("imagesearch_analysis"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(template: str, **values: Any) -> str:
    """Return the page of a template; all values are escaped."""
    return _TEMPLATES.get_template(template).render(**values)
