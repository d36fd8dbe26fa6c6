"""Templates to pages: one file each, with nothing in it that a browser would have to fetch."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import ResultError
from lymphinfer.version import __version__

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template and write the page, whole or not at all.

    Raises
    ------
    ResultError
        jinja2 is not installed, or the page cannot be written.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ResultError(
            f"reports need jinja2 ({error}): pip install 'lymphinfer[report]'"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "plain": plain}
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = environment.get_template(template).render(made=made, version=__version__, **values)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
    return path


def number(value: float | None, digits: int | None = None) -> str:
    """Number for people: thousands apart, three significant digits below 100; a dash for none.

    Examples
    --------
    >>> number(12345.6), number(12.345), number(0.01234), number(None), number(0.5, 2)
    ('12,346', '12.3', '0.0123', '–', '0.50')
    """
    if value is None:
        return "–"
    if digits is not None:
        return f"{value:,.{digits}f}"
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}"


def plain(value: Any) -> str:
    """Value of a setting for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " × ".join(map(plain, value)) if value else "–"
    return str(value)
