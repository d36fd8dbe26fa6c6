"""Bring the manual's page for pathologists up to date with the default bundle's numbers.

    python -m recipes.he.numbers_page [--weights weights/he-v2]

What stands on the page between two marks is written anew out of ``bundle.toml`` and ``orion.json``;
the words around it are a person's.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from lymphinfer.bundles.evidence import OPERATING_POINTS, MarkerSpec
from lymphinfer.bundles.schema import BundleManifest, read_manifest

BEGIN = "<!-- numbers: begin; `python -m recipes.he.numbers_page` writes what stands between -->"
END = "<!-- numbers: end -->"
PAGE = Path("docs/what-the-numbers-mean.md")


def block(weights: Path) -> str:
    """Text between the marks.

    Parameters
    ----------
    weights : Path
        Folder of the bundle.

    Returns
    -------
    str
        Markdown: a table of the markers, one of the operating points, and what is known of
        children given their parent.
    """
    manifest = read_manifest(weights)
    stain = _stain(weights, manifest)
    parts = [
        f"Bundle `{manifest.name}` {manifest.version}, by its "
        f"[card](card-{manifest.name}.md) and `bundle.toml`:",
        _markers(manifest),
        "Its operating points. Of 100 nuclei that are called, *right* is how many were positive in "
        "the stain; of 100 that were positive, *found* is how many are called. All of it on "
        f"{_tried_on(manifest)}:",
        _points(manifest),
    ]
    if given := _given(stain):
        parts += [
            "How well a child is told *among cells that carry its parent*, which is the question "
            "behind a CD4 to CD8a ratio (AUROC; 0.5 is chance):",
            given,
        ]
    return "\n\n".join(parts)


def rewritten(page: str, text: str) -> str:
    """A page with another text between the marks.

    Raises
    ------
    ValueError
        The page has not both marks, once each.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs these two lines, once each:\n{BEGIN}\n{END}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


def _stain(weights: Path, manifest: BundleManifest) -> dict[str, Any]:
    """Numbers against the stain, where they are of this very bundle."""
    path = weights / "orion.json"
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found if found.get("bundle", {}).get("version") == manifest.version else {}


def _markers(manifest: BundleManifest) -> str:
    rows = ["| marker | evidence | ranks nuclei (AUROC, 95 % interval) | called? |",
            "| --- | --- | --- | --- |"]  # fmt: skip
    for marker in manifest.markers:
        called = "yes" if marker.points or marker.threshold is not None else "never"
        rows.append(f"| {marker.name} | {_word(marker)} | {_auroc(marker)} | {called} |")
    return "\n".join(rows)


def _word(marker: MarkerSpec) -> str:
    patients = {None: "", 1: ", one patient"}.get(marker.patients, f", {marker.patients} patients")
    return f"`{marker.evidence.value}`{patients}"


def _auroc(marker: MarkerSpec) -> str:
    if marker.auroc is None:
        return "not measured"
    interval = marker.auroc_interval
    return f"{marker.auroc:.2f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")


def _points(manifest: BundleManifest) -> str:
    rows = [f"| marker | {' | '.join(f'`{name}`' for name in OPERATING_POINTS)} |",
            f"| --- |{' --- |' * len(OPERATING_POINTS)}"]  # fmt: skip
    for marker in manifest.markers:
        cells = []
        for name in OPERATING_POINTS:
            point = marker.points.get(name)
            if point is None:
                cells.append("never called")
            elif point.precision is None or point.recall is None:
                cells.append(f"from {point.threshold:.2f}")
            else:
                right, found = round(100 * point.precision), round(100 * point.recall)
                cells.append(f"from {point.threshold:.2f}: {right} right, {found} found")
        rows.append(f"| {marker.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _tried_on(manifest: BundleManifest) -> str:
    patients = {marker.patients for marker in manifest.markers}
    return "held-out parts of the slide of **one patient**" if patients == {1} else "held-out data"


def _given(stain: dict[str, Any]) -> str:
    rows = []
    for name, row in stain.get("far", {}).items():
        if " given " in name:
            low, high = row["auroc_interval"]
            rows.append(f"| {name} | {row['auroc']:.2f} ({low:.2f}-{high:.2f}) |")
    return (
        "\n".join(["| question | far scale, held-out columns |", "| --- | --- |", *rows])
        if rows
        else ""
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--weights", type=Path, default=Path("weights/he-v2"))
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    page = arguments.page.read_text("utf-8")
    arguments.page.write_text(rewritten(page, block(arguments.weights)), "utf-8")
    print(arguments.page)


if __name__ == "__main__":
    main()
