"""The manual builds, asks other hosts for nothing, and says what the program says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.export.browser import open_page

from .pages import inline_code
from .source_text import END, GAP, ROOT, pattern, raised, texts

TROUBLES = ROOT / "docs" / "troubleshooting.md"
NOT_FOR_USERS = (
    # What a caller of the page's own addresses can be told, not who looks at the page.
    "lymphinfer/web/app.py",
)
LOADED = re.compile(
    r"""(?:<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=|url\(|@import\s+|fetch\()"""
    r"""["']?(https?:)?//""",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_built(site):
    pages = {p.stem for p in (ROOT / "docs").glob("*.md")}
    assert pages <= {p.stem for p in site.glob("*.html")}
    text = (site / "qupath.html").read_text("utf-8")
    assert "import_detections.groovy" in text and "--8&lt;--" not in text


def test_nothing_is_loaded_from_another_host(site):
    bad = [
        f"{path.relative_to(site)}: {match[0]}"
        for path in site.rglob("*")
        if path.suffix in (".html", ".css", ".js")
        for match in LOADED.finditer(path.read_text("utf-8"))
        if not _is_a_link(match[0])
    ]
    assert not bad


def _is_a_link(text: str) -> bool:
    """Whether it is only named, as a canonical address is."""
    return "canonical" in text


def test_a_browser_asks_for_files_alone_and_searches(site):
    with open_page(site / "index.html") as (page, asked, said):
        page.set_default_timeout(120_000)
        for name in ("index", "api", "troubleshooting"):
            page.goto((site / f"{name}.html").as_uri())
            assert "LymphInfer" in page.title()
        # Key by key: the page reads the field when a key is let go, which `fill` never does.
        page.locator("input.md-search__input").press_sequentially("pixel size")
        page.wait_for_selector(".md-search-result__item a")
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in asked), asked
    assert said == []


def quoted() -> list[str]:
    """Messages in the first column of the page's tables."""
    rows = re.findall(r"^\| `([^`]+)` \|", TROUBLES.read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 100
    return rows


def test_every_quoted_message_is_in_the_source():
    said = END.join(texts())
    assert not [q for q in quoted() if not pattern(q).search(said)]


def test_every_error_has_a_row_in_troubleshooting():
    """A new message fails here: give it a row in docs/troubleshooting.md."""
    known = [pattern(q) for q in quoted()]
    missing = [
        f"{place}: {text.replace(GAP, '…')}"
        for place, text in raised()
        if not place.startswith(NOT_FOR_USERS) and not any(k.search(text) for k in known)
    ]
    assert not missing, "\n".join(missing)


def test_every_page_of_the_manual_is_in_readme_or_its_index():
    index = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f" {page.name}" in index, page.name


def test_the_manual_knows_every_extra():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = set(inline_code(ROOT / "docs" / "install.md"))
    assert set(project["optional-dependencies"]) <= named
