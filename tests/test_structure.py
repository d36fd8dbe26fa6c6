"""The package as it is meant to be: rooms that know those to their left, in small modules."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("slides", "annotations", "nuclei", "markers", "bundles", "cells", "export", "predict",
         "batch", "cli")  # fmt: skip
"""From left to right, as far as slides become results."""


@cache
def imports() -> dict[str, set[str]]:
    """By module the modules of the package that it imports, at any place, for types alone too."""
    modules = {}
    for path in (ROOT / "lymphinfer").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts).removesuffix(".__init__")] = path
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
                found[name] |= inner or {node.module}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & modules.keys()
    return found


def room_of(module: str) -> str:
    """The folder below the package, or the module at its bottom."""
    return [*module.split("."), ""][1]


@cache
def rooms() -> dict[str, set[str]]:
    """By room the other rooms that it knows."""
    known: dict[str, set[str]] = {}
    for module, all_needed in imports().items():
        room = room_of(module)
        known.setdefault(room, set()).update({room_of(needed) for needed in all_needed} - {room})
    # What the package offers it finds when it is asked for.
    known.pop("")
    return known


def circles(graph: dict[str, set[str]]) -> set[str]:
    """All that need themselves, over however many others."""
    return {start for start in graph if start in reached(graph, start)}


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """All that one needs, itself too where it goes in a circle."""
    seen: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += graph.get(name, ())
    return seen


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}
    assert len(imports()) > 200 and len(rooms()) > 15


def test_no_module_needs_itself():
    assert not circles(imports())


def test_no_room_needs_itself():
    assert not circles(rooms())


@pytest.mark.parametrize("room", ["slides", "annotations", "nuclei", "cells", "predict", "batch"])
def test_a_room_knows_none_to_its_right(room):
    right = ROOMS[ROOMS.index(room) + 1 :]
    known = {
        (module, needed)
        for module, all_needed in imports().items()
        if module.startswith(f"lymphinfer.{room}")
        for needed in all_needed
        if needed.split(".")[1:2] and needed.split(".")[1] in right
    }
    assert not known


def test_modules_are_small_and_one_slide_is_a_small_room():
    lines = {
        path: path.read_text("utf-8").count("\n")
        for top in ("lymphinfer", "recipes", "benchmarks")
        for path in (ROOT / top).rglob("*.py")
    }
    assert not [path for path, n in lines.items() if n > 400]
    assert sum(n for path, n in lines.items() if path.parent.name == "predict") < 1500


def test_a_life_knows_no_process_file_or_clock():
    tree = ast.parse((ROOT / "lymphinfer" / "batch" / "life.py").read_text("utf-8"))
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert names == {"math"}
