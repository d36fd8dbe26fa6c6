"""What the source can say: every text in it, with a gap where a value is put in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GAP, END = "\0", "\1"


class Message(NamedTuple):
    """Text of an error where it is raised."""

    place: str
    text: str


def flat(node: ast.expr) -> str:
    """Text of an expression; what is only known when it runs is a gap."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else GAP
    if isinstance(node, ast.JoinedStr):
        return "".join(flat(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return flat(node.left) + flat(node.right)
    return GAP


@cache
def _trees() -> dict[str, ast.Module]:
    files = sorted((ROOT / "lymphinfer").rglob("*.py"))
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text("utf-8")) for p in files}


@cache
def texts() -> tuple[str, ...]:
    """Every text in the package, docstrings aside."""
    return tuple({text for tree in _trees().values() for text in _spoken(tree)})


def _spoken(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            node.value = ast.Constant(None) if isinstance(node.value, ast.Constant) else node.value
        elif isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp):
            yield flat(node)


def raised() -> Iterator[Message]:
    """Every error of ours that is raised with a text of its own."""
    for place, tree in _trees().items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            name = ast.unparse(node.exc.func)
            if name not in own_errors() or not node.exc.args:
                continue
            text = flat(node.exc.args[0])
            if len(re.findall(r"[A-Za-z]{2,}", text)) >= 2:
                yield Message(f"{place}:{node.lineno}", text)


@cache
def own_errors() -> set[str]:
    """Names of our exceptions."""
    tree = _trees()["lymphinfer/errors.py"]
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def pattern(quoted: str) -> re.Pattern[str]:
    """A quoted message as a pattern: … stands for anything in the same text."""
    return re.compile(f"[^{END}]*?".join(re.escape(part) for part in quoted.split("…")))
