"""Pages of HTML that need nothing but themselves."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from imagesearch_ingest.atomic_file import atomic_write

# What comes from outside is escaped wherever it stands.
_TEMPLATES = Environment(
    loader=PackageLoader("imagesearch_analysis"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes a page whole or not at all; values are escaped. Raises OSError."""
    text = _TEMPLATES.get_template(template).render(**values)
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
