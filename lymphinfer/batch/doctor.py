"""Is this machine fit to predict? Each problem comes with its fix."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil

from lymphinfer.batch.job import Job
from lymphinfer.batch.locks import FolderLock
from lymphinfer.batch.options import BatchOptions, device_names
from lymphinfer.batch.run import worker_processes
from lymphinfer.batch.single import run_slide
from lymphinfer.bundles.registry import DEFAULT_BUNDLE, ENVIRONMENT, list_bundles
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.engine import TORCH_FIX, has_torch
from lymphinfer.errors import LymphinferError, ResultError
from lymphinfer.export.summary import versions
from lymphinfer.extras import IMPORTED, missing_packages
from lymphinfer.predict.settings import PredictSettings

MIN_FREE_GB = 2.0
MIN_MEMORY_GB = 4.0
SELF_TEST_S = 300.0
_PYTHONS = ((3, 11), (3, 14))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    found : str
        What there is.
    fix : str
        What to do; empty where nothing is wrong.
    """

    name: str
    found: str
    fix: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.fix


def examine(folder: Path, bundle: str = DEFAULT_BUNDLE) -> Iterator[Check]:
    """Look at everything that a prediction needs.

    Parameters
    ----------
    folder : Path
        Where results would be written.
    bundle : str
        Bundle of the self-test.

    Yields
    ------
    Check
        One after the other, as they are made.
    """
    yield _versions()
    yield _torch()
    yield _openslide()
    yield _extras()
    yield _memory()
    yield _disk(folder)
    yield _locking(folder)
    yield from _bundles()
    devices, check = _devices()
    yield check
    for device in devices:
        yield self_test(device, bundle)


def self_test(device: str, bundle: str = DEFAULT_BUNDLE) -> Check:
    """Predict a made slide of one tile on a device, in a worker process.

    Parameters
    ----------
    device : str
    bundle : str

    Returns
    -------
    Check
    """
    name = f"self-test on {device}"
    options = BatchOptions(slide_timeout=SELF_TEST_S, stall_timeout=SELF_TEST_S)
    settings = PredictSettings(bundle=bundle, device=device, workers=1)
    with tempfile.TemporaryDirectory(prefix="lymphinfer-") as place:
        job = Job(_write_slide(Path(place) / "self-test.tif"), Path(place) / "out")
        try:
            workers = worker_processes(settings, options)
            result = run_slide(job, settings, options, place=workers)
        except LymphinferError as error:
            return Check(name, str(error), _device_fix(device))
    return Check(name, f"{result.n_nuclei} nuclei in {result.seconds:.1f} s")


def _device_fix(device: str) -> str:
    if device == "cpu":
        return "install again: pip install --force-reinstall lymphinfer"
    return (
        f"end what else uses {device}, update its driver, or predict with another --device "
        "(--device cpu always works)"
    )


def _versions() -> Check:
    words = ", ".join(f"{name} {version}" for name, version in versions().items())
    if not _PYTHONS[0] <= sys.version_info[:2] < _PYTHONS[1]:
        return Check("versions", words, "use Python 3.11, 3.12 or 3.13")
    return Check("versions", words)


def _torch() -> Check:
    """Not there, it is no problem: predictions on the CPU do without."""
    if not has_torch():
        return Check("torch", f"not installed: for GPUs and training, {TORCH_FIX}")
    try:
        import torch

        words = str(torch.__version__)
        if find_spec("torchvision") is not None:
            import torchvision

            words += f", torchvision {torchvision.__version__}"
    except (ImportError, RuntimeError) as error:
        return Check(
            "torch", str(error).splitlines()[0],
            "take both from one source: pip install --force-reinstall torch torchvision",
        )  # fmt: skip
    return Check("torch", words)


def _openslide() -> Check:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return Check("OpenSlide", str(error).splitlines()[0], "pip install openslide-bin")
    return Check("OpenSlide", f"library {openslide.__library_version__}")


def _extras() -> Check:
    """Never a problem: whoever wants what an extra brings reads here how to get it."""
    missing = {extra: missing_packages(extra) for extra in IMPORTED}
    there = ", ".join(extra for extra, names in missing.items() if not names) or "none"
    absent = ", ".join(f"{extra} ({', '.join(names)})" for extra, names in missing.items() if names)
    if absent:
        absent = f"; not installed: {absent}, see pip install 'lymphinfer[NAME]'"
    return Check("extras", f"{there}{absent}")


def _memory() -> Check:
    free = psutil.virtual_memory().available / 1e9
    fix = "" if free >= MIN_MEMORY_GB else f"a slide needs up to {MIN_MEMORY_GB:.0f} GB: free some"
    return Check("memory", f"{free:.1f} GB free, {psutil.cpu_count()} cores", fix)


def _disk(folder: Path) -> Check:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    fix = "" if free >= MIN_FREE_GB else "free some space, or choose another folder with --out"
    return Check("disk", f"{free:,.1f} GB free in {place}", fix)


def _locking(folder: Path) -> Check:
    """Files, renames and locks work in the result folder."""
    existed = folder.exists()
    try:
        lock = FolderLock(folder)
        taken, second = lock.acquire(), FolderLock(folder).acquire()
        lock.release()
    except ResultError as error:
        return Check("result folder", str(error), "choose a writable folder with --out")
    finally:
        if not existed:
            with suppress(OSError):
                folder.rmdir()
    if second or not taken:
        return Check(
            "result folder", f"{folder}: its file system keeps no locks",
            "start one predict at a time there, or choose another folder with --out",
        )  # fmt: skip
    return Check("result folder", f"{folder}: writable, keeps locks")


def _bundles() -> Iterator[Check]:
    from lymphinfer.bundles.loading import verify_files

    found = list_bundles()
    if DEFAULT_BUNDLE not in found:
        fix = f"install again, or set {ENVIRONMENT} to the folder that holds it"
        yield Check(f"bundle {DEFAULT_BUNDLE}", "missing", fix)
    for name, folder in found.items():
        try:
            manifest = read_manifest(folder)
            verify_files(manifest)
        except LymphinferError as error:
            yield Check(f"bundle {name}", str(error), f"install it again, or delete {folder}")
        else:
            yield Check(f"bundle {name}", f"{manifest.version}, its files are whole ({folder})")


def _devices() -> tuple[list[str], Check]:
    try:
        found = device_names(BatchOptions(devices=("auto", "cpu")), "auto")
    except (ImportError, RuntimeError) as error:
        return [], Check("devices", str(error).splitlines()[0], "pip install torch torchvision")
    names = list(dict.fromkeys(found))
    gpus = [name for name in names if name.startswith("cuda")]
    words = ", ".join(f"{name} ({_gpu_name(name)})" if name in gpus else name for name in names)
    if shutil.which("nvidia-smi") and not gpus:
        fix = "update the driver, or install torch's build for it: https://pytorch.org/get-started"
        what = "torch sees no GPU"
        if not has_torch():
            fix, what = TORCH_FIX, "without torch it is not used"
        return names, Check("devices", f"{words}; an NVIDIA driver is there, but {what}", fix)
    return names, Check("devices", words)


def _gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _write_slide(path: Path, side: int = 512) -> Path:
    """A field of view of pale tissue with dark nuclei, at 0.325 µm/px."""
    import tifffile

    rng = np.random.default_rng(0)
    image = np.full((side, side, 3), (225, 170, 200), np.uint8)
    image += rng.integers(0, 20, image.shape, dtype=np.uint8)
    y, x = np.mgrid[:side, :side]
    image[(x % 40 - 20) ** 2 + (y % 40 - 20) ** 2 < 64] = (60, 30, 110)
    per_cm = 1e4 / 0.325
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", metadata=None,
        resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path
