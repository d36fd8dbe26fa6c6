"""What computes a bundle's networks: a device, a number type and a library, in plain words.

Nothing here loads torch where OpenVINO on the CPU will do.
"""

from __future__ import annotations

import sys
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lymphinfer.cpu_precision import has_bf16, prefers_bf16, prefers_int8
from lymphinfer.errors import LymphinferError

INT8 = "int8"
PRECISIONS = {"fp32": "fp32", "bf16": "bfloat16", "fp16": "float16", INT8: INT8}
"""What a user may ask for, and its name in results."""
RUNTIMES = ("auto", "torch", "openvino")
TORCH_FIX = "pip install 'lymphinfer[torch]'"

# A driver leaves one of these: NVIDIA's, AMD's, and NVIDIA's under Windows' Linux.
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True)
class Engine:
    """What computes networks.

    Attributes
    ----------
    device : str
        As torch names it: ``cpu``, ``cuda:0``, ``mps``.
    precision : str
        Number type of the convolutions: ``fp32``, ``bfloat16``, ``float16``, or ``int8``, which
        only bundles can be computed in that say how.
    runtime : str
        ``torch``, or ``openvino`` on the CPU for the networks that it computes.
    bytes_preferred : bool
        Whether bundles that can be computed in int8 are, in the place of `precision`.
    """

    device: str = "cpu"
    precision: str = "fp32"
    runtime: str = "torch"
    bytes_preferred: bool = False


def choose_engine(device: str = "auto", precision: str = "auto", runtime: str = "auto") -> Engine:
    """The engine that a user's words come to on this machine.

    Parameters
    ----------
    device, precision, runtime : str
        As `choose_device`, `choose_precision` and `choose_runtime` take them.

    Returns
    -------
    Engine

    Raises
    ------
    LymphinferError
        One of them is unknown or not to be had here.
    """
    where = choose_device(device)
    number, library = choose_precision(where, precision), choose_runtime(where, runtime)
    if number == INT8 and library != "openvino":
        raise LymphinferError(
            f"precision int8: OpenVINO computes it on the CPU, not {library} on {where}. Leave "
            "--precision out, or --runtime and --device"
        )
    if number == "bfloat16" and library == "openvino" and not has_bf16():
        raise LymphinferError(
            "precision bf16: this CPU has no instructions for it, and OpenVINO would compute "
            "float32 in its name. Leave --precision out, or take fp32"
        )
    small = precision == "auto" and library == "openvino" and prefers_int8()
    return Engine(where, number, library, small)


def choose_device(name: str = "auto") -> str:
    """Device by name; ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    Raises
    ------
    LymphinferError
        The device is unknown or not there; the message lists what is.
    """
    if name == "cpu" or (name == "auto" and not (has_torch() and may_have_gpu())):
        return "cpu"
    if not has_torch():
        raise LymphinferError(
            f"device {name!r}: without torch there is the CPU alone. Run `{TORCH_FIX}`, or leave "
            "--device out"
        )
    from lymphinfer.torch_devices import find_device

    return find_device(name)


def may_have_gpu() -> bool:
    """Whether a look for a GPU is worth loading torch: False where no driver of one is there."""
    if sys.platform == "darwin":
        return True
    if sys.platform == "win32":
        return find_library("nvcuda") is not None
    return any(Path(path).exists() for path in _GPU_FILES)


def has_torch() -> bool:
    """Whether torch is installed."""
    return find_spec("torch") is not None


def choose_precision(device: str, precision: str = "auto") -> str:
    """Number type of the convolutions.

    ``auto`` takes bfloat16 on GPUs and CPUs that are faster in it, float16 on older GPUs, and
    full precision elsewhere; whether a bundle is computed in int8 is for `choose_engine`.

    Raises
    ------
    LymphinferError
        The precision is unknown.
    """
    if precision == "auto":
        if device == "cpu":
            return "bfloat16" if prefers_bf16() else "fp32"
        from lymphinfer.torch_devices import gpu_precision

        return gpu_precision(device)
    if precision not in PRECISIONS:
        known = ", ".join(("auto", *PRECISIONS))
        raise LymphinferError(f"precision {precision!r}: choose one of {known}")
    return PRECISIONS[precision]


def choose_runtime(device: str, name: str = "auto") -> str:
    """``"torch"`` or ``"openvino"``; ``auto`` takes OpenVINO on the CPU where it is installed.

    Raises
    ------
    LymphinferError
        The name is unknown, or it is asked for where it cannot run.
    """
    if name not in RUNTIMES:
        raise LymphinferError(f"runtime {name!r}: choose one of {', '.join(RUNTIMES)}")
    installed = find_spec("openvino") is not None
    if name == "auto":
        name = "openvino" if installed and device == "cpu" else "torch"
    elif name == "openvino" and device != "cpu":
        raise LymphinferError(
            f"runtime openvino runs on the CPU, not on {device}: leave --runtime out, or add "
            "--device cpu"
        )
    elif name == "openvino" and not installed:
        raise LymphinferError(
            "runtime openvino is not installed: pip install openvino, or choose --runtime torch"
        )
    if name == "torch" and not has_torch():
        raise LymphinferError(f"runtime torch is not installed. Run `{TORCH_FIX}`")
    return name
