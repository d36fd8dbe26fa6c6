"""README and manual as tests read them: pages, commands, inline code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .source_text import ROOT

PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
)
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Command(NamedTuple):
    """A line of a ``sh`` block."""

    page: Path
    line: int
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """As a person types it."""
        return shlex.join(self.words)

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> Iterator[Command]:
    """Every command of a page, in order."""
    text = page.read_text("utf-8")
    for match in _FENCE.finditer(text):
        if match[2] not in ("sh", "bash", "shell", "console"):
            continue
        first = text.count("\n", 0, match.start(3)) + 1
        whole = ""
        for offset, line in enumerate(match[3].splitlines()):
            whole += line.removesuffix("\\")
            if line.endswith("\\"):
                continue
            words = shlex.split(whole, comments=True)
            whole = ""
            if words:
                yield Command(page, first + offset, tuple(words))


def inline_code(page: Path) -> Iterator[str]:
    """Every piece of code within a sentence or table, its line breaks closed."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    for match in _CODE.finditer(text):
        yield " ".join(match[1].split())
