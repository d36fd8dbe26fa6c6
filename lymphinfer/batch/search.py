"""Slides below a folder or of a pattern: each once, and what is left out is told."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from lymphinfer.cells.naming import BATCH_JSON, FIGURES, STATE, SUMMARY
from lymphinfer.errors import SlideError
from lymphinfer.slides import SLIDE_SUFFIXES
from lymphinfer.textfiles import shown

# What operating systems and file servers put into every folder.
_SYSTEM_FOLDERS = frozenset(
    ("@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__macosx")
)
_RESULT_FOLDERS = (".lymphinfer", ".spatialdata.zarr")
_RESULT_IMAGES = (".labels.ome.tif",)


class Search:
    """Finds slides below a folder, and remembers what it leaves out.

    Parameters
    ----------
    base : Path
        The folder.
    out : Path
        Root of the results: passed over where it is a folder below `base`. Where it is `base`
        itself or holds it, results are told by what lies in their folders.

    Attributes
    ----------
    left_out : list of str
        A sentence for each thing that a user may miss.
    """

    def __init__(self, base: Path, out: Path):
        self.base = base
        self.root = Path(os.path.realpath(base))
        results = Path(os.path.realpath(out))
        inside = results.is_relative_to(self.root) and results != self.root
        self.results = results if inside else None
        self.left_out: list[str] = []
        self._told = False

    def below(self, base: Path | None = None) -> list[Path]:
        """Slides of a folder and its subfolders, sorted; each file and each folder once.

        Raises
        ------
        SlideError
            The folder cannot be read.
        """
        return self._once(self._walk(base or self.base))

    def matching(self, pattern: Path) -> list[Path]:
        """Slides that a pattern names, sorted; each file once."""
        parts = pattern.parts
        if "**" not in parts:
            found = (Path(name) for name in glob.glob(str(pattern)))  # noqa: PTH207 - absolute too
        else:
            # glob would go round in circles through links.
            first = parts.index("**")
            tops = glob.glob(str(Path(*parts[:first]))) if first else ["."]  # noqa: PTH207
            found = (
                path
                for top in map(Path, tops)
                if top.is_dir()
                for path in self._walk(top)
                if _matches(path.relative_to(top).parts, parts[first:])
            )
        return self._once(path for path in found if self._reached(path))

    def _reached(self, path: Path) -> bool:
        """Whether a search from the base would come to a path."""
        inner = path.relative_to(self.base).parts
        above = [self.base.joinpath(*inner[:n]) for n in range(1, len(inner))]
        return self._takes(path) and all(map(self._enters, above))

    def _walk(self, top: Path) -> Iterator[Path]:
        """Slides below a folder; the folders themselves before the links that lead to them."""
        seen: dict[tuple[int, int], Path] = {}
        folders, links = deque([top]), deque[Path]()
        while folders or links:
            linked = not folders
            folder = links.popleft() if linked else folders.popleft()
            try:
                stat = folder.stat()
                key = (stat.st_dev, stat.st_ino) if stat.st_ino else (0, hash(folder.resolve()))
                if key in seen:
                    self.left_out.append(
                        f"{shown(folder)} leads to {shown(seen[key])}, which is searched already"
                    )
                    continue
                if linked and self.root.is_relative_to(os.path.realpath(folder)):
                    self.left_out.append(
                        f"{shown(folder)} leads to a folder above {shown(self.base)}: not followed"
                    )
                    continue
                seen[key] = folder
                with os.scandir(folder) as entries:
                    listing = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if folder == top:
                    raise SlideError(
                        f"{folder}: the folder cannot be read ({error.strerror or error})"
                    ) from error
                self.left_out.append(f"{shown(folder)} cannot be read ({error.strerror or error})")
                continue
            for entry in listing:
                path = folder / entry.name
                if self._takes(path):
                    yield path
                elif entry.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - never raises
                    self.left_out.append(f"{shown(path)} is a link to nothing")
                if os.path.isdir(path) and self._enters(path):  # noqa: PTH112 - never raises
                    (links if entry.is_symlink() else folders).append(path)

    def _enters(self, folder: Path) -> bool:
        """Whether a folder is searched."""
        name = folder.name.lower()
        if name.startswith(".") or name in _SYSTEM_FOLDERS or name.endswith(_RESULT_FOLDERS):
            return False
        # A Zarr store is one slide of very many files, and so is a MIRAX slide, whose pixels lie in
        # a folder of its name.
        if name.endswith(".zarr") or any(
            folder.with_name(f"{folder.name}{end}").is_file() for end in (".mrxs", ".MRXS")
        ):
            return False
        real = os.path.realpath(folder)
        if self.results is not None and Path(real).is_relative_to(self.results):
            self._tell_of_slides(folder)
            return False
        return not (folder.is_symlink() and real.lower().endswith(_RESULT_FOLDERS))

    def _tell_of_slides(self, folder: Path) -> None:
        if self._told or self.results is None or Path(os.path.realpath(folder)) != self.results:
            return
        self._told = True
        slides = Search(folder, folder).below()
        if slides:
            self.left_out.append(
                f"{shown(folder)} is where the results go: {len(slides)} files in it that may be "
                "slides are passed over; choose another --out to have them"
            )

    @staticmethod
    def _takes(path: Path) -> bool:
        """Whether a path may be a slide, by its name and by what lies beside it."""
        name = path.name.lower()
        if path.suffix.lower() not in SLIDE_SUFFIXES or name.startswith("."):
            return False
        if name.endswith((*_RESULT_IMAGES, *_RESULT_FOLDERS)) and is_result_folder(path.parent):
            return False
        if path.suffix.lower() == ".png" and path.parent.name == FIGURES:
            home = path.parent.parent
            if is_result_folder(home) or (home / BATCH_JSON).is_file():
                return False
        return not (os.path.isdir(path) and is_result_folder(path))  # noqa: PTH112 - never raises

    def _once(self, paths: Iterator[Path]) -> list[Path]:
        """Paths sorted; of several ways to one file the one without links."""
        ways: dict[object, list[Path]] = {}
        for path in dict.fromkeys(paths):
            ways.setdefault(_file_key(path), []).append(path)
        slides = []
        for same in ways.values():
            kept, *others = sorted(same, key=lambda path: (_is_linked(path), path))
            slides.append(kept)
            self.left_out += [f"{shown(path)} is the same file as {shown(kept)}" for path in others]
        return sorted(slides)


def is_result_folder(folder: Path) -> bool:
    """Whether a folder holds the results of a slide."""
    return (folder / STATE).is_file() or (folder / SUMMARY).is_file()


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path has a pattern's parts; ``**`` stands for any number of folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        rest = pattern[1:]
        # At the end it stands for everything below.
        return not rest or any(_matches(path[n:], rest) for n in range(len(path) + 1))
    if not path or not fnmatch.fnmatch(path[0], pattern[0]):
        return False
    return _matches(path[1:], pattern[1:])


def _file_key(path: Path) -> object:
    """Equal for two ways to one file."""
    try:
        stat = path.stat()
    except OSError:
        return path
    # File systems without true file numbers give several files the same one.
    if stat.st_ino and stat.st_nlink > 1:
        return stat.st_dev, stat.st_ino
    return os.path.realpath(path)


def _is_linked(path: Path) -> bool:
    return os.path.realpath(path) != os.path.abspath(path)  # noqa: PTH100 - keeps links
