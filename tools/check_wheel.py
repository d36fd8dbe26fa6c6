"""What a wheel of this package must hold: ``python tools/check_wheel.py dist/*.whl``.

Needs nothing but Python. Prints what was found; ends with 1 and every problem where there is one.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 100e6
"""The most that package indexes take of a file without being asked."""
MOST_WEIGHTS_BYTES = 64e6
NOT_SHIPPED = {"__pycache__"}


def version() -> str:
    """The software's version, as its one place says it."""
    text = (ROOT / "lymphinfer" / "version.py").read_text("utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("lymphinfer/version.py states no version")
    return found[1]


def wanted_files() -> set[str]:
    """Names in the wheel of all that the package and its bundles have in the checkout."""
    tops = {"lymphinfer": ROOT / "lymphinfer", "lymphinfer/weights": ROOT / "weights"}
    return {
        f"{name}/{path.relative_to(top).as_posix()}"
        for name, top in tops.items()
        for path in top.rglob("*")
        if path.is_file() and not NOT_SHIPPED & set(path.parts)
    }


def problems(path: Path) -> list[str]:
    """All that is wrong with a wheel."""
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
        info = next((n.partition("/")[0] for n in names if n.endswith(".dist-info/METADATA")), "")
        if not info:
            return [f"{path.name}: no METADATA"]
        metadata = HeaderParser().parsestr(wheel.read(f"{info}/METADATA").decode())
        found = []
        if metadata["Version"] != version():
            found.append(f"version {metadata['Version']}, lymphinfer/version.py has {version()}")
        inside = {name for name in names if not name.startswith(f"{info}/")}
        found += [f"{name} is missing" for name in sorted(wanted_files() - inside)]
        found += [f"{name} does not belong here" for name in sorted(inside - wanted_files())]
        found += [f"{info}/{n} is missing" for n in ("entry_points.txt", "licenses/LICENSE")
                  if f"{info}/{n}" not in names]  # fmt: skip
        # Windows takes none of these, and no two names that differ in case alone.
        found += [f"{n}: no name for Windows" for n in names if re.search(r'[<>:"\\|?*]', n)]
        if len({name.casefold() for name in names}) < len(names):
            found.append("two names differ in case alone")
        found += _bundles(wheel, inside)
        weights = sum(i.file_size for i in wheel.infolist() if i.filename.endswith(".safetensors"))
    size = path.stat().st_size
    print(
        f"{path.name}: {size / 1e6:.1f} MB, {len(names)} files, {weights / 1e6:.1f} MB of weights"
    )
    if size > MOST_BYTES:
        found.append(f"{size / 1e6:.0f} MB: at most {MOST_BYTES / 1e6:.0f}")
    if weights > MOST_WEIGHTS_BYTES:
        found.append(f"{weights / 1e6:.1f} MB of weights: at most {MOST_WEIGHTS_BYTES / 1e6:.0f}")
    return found


def _bundles(wheel: zipfile.ZipFile, inside: set[str]) -> list[str]:
    found = []
    manifests = sorted(name for name in inside if name.endswith("/bundle.toml"))
    if not manifests:
        return ["no bundle"]
    for manifest in manifests:
        folder = manifest.removesuffix("bundle.toml")
        if f"{folder}CARD.md" not in inside:
            found.append(f"{folder} has no card")
        for name, sha256 in tomllib.loads(wheel.read(manifest).decode())["files"].items():
            file = f"{folder}{name}"
            if file not in inside or hashlib.sha256(wheel.read(file)).hexdigest() != sha256:
                found.append(f"{file} is not what its bundle.toml hashes")
    print(f"bundles: {', '.join(name.split('/')[-2] for name in manifests)}")
    return found


def main() -> None:
    """Check the wheels that are named."""
    wheels = [Path(name) for name in sys.argv[1:]]
    if not wheels:
        raise SystemExit("usage: python tools/check_wheel.py dist/*.whl")
    wrong = [f"{path.name}: {problem}" for path in wheels for problem in problems(path)]
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
