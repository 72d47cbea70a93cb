"""The little of CUDA that an engine needs: what GPU is here, memory on it, and copies; by NVIDIA's own Python bindings.

The bindings are `cuda.bindings.runtime` (cuda-python 12.6 and newer) or `cuda.cudart` (older); neither needs torch.
Every call gives an error code first; one that is not zero becomes a one-line error.
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FoveolaError, MissingPartError

_BINDINGS = ("cuda.bindings.runtime", "cuda.cudart")
INSTALL = "pip install cuda-python"
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
_DRIVER = re.compile(r"Kernel Module.*?\b(\d{3,}\.\d[\d.]*)")


class Gpu:
    """The first CUDA device, with one stream.

    Raises:
        MissingPartError: the bindings are not installed.
        FoveolaError: there is no NVIDIA GPU, or its driver does not serve these bindings.
    """

    def __init__(self) -> None:
        self._cuda = _bindings()
        count = self._call("cudaGetDeviceCount", mend="run where an NVIDIA GPU and its driver are")
        if count < 1:
            raise FoveolaError("CUDA", "there is no NVIDIA GPU", "run where one is")
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name
        self.name = name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name)
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self._call("cudaSetDevice", 0)
        newest = self._call("cudaDriverGetVersion")  # 12060 for 12.6
        self.cuda = f"{newest // 1000}.{newest % 1000 // 10}"
        self._stream = self._call("cudaStreamCreate")

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """Take memory on the GPU and give its address.

        Raises:
            FoveolaError: there is not enough.
        """
        return int(self._call("cudaMalloc", size, mend="free memory on the GPU"))

    def free(self, address: int) -> None:
        """Give memory back; an error on the way out is of no use to anyone."""
        self._cuda.cudaFree(address)

    def upload(self, address: int, values: NDArray[np.float32]) -> None:
        """Queue a copy of a contiguous array to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, values.ctypes.data, values.nbytes, kind, self._stream)

    def download(self, values: NDArray[np.float32], address: int) -> None:
        """Queue a copy from the GPU into a contiguous array; the values are there after `wait`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", values.ctypes.data, address, values.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Wait until all that was queued is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def _call(self, name: str, *arguments: Any, mend: str = "see the driver's log (dmesg)") -> Any:
        try:
            error, *results = getattr(self._cuda, name)(*arguments)
        except RuntimeError as problem:  # the bindings found no CUDA library when they first needed it
            raise FoveolaError("CUDA", " ".join(str(problem).split())[:300], mend) from None
        if int(error) != 0:
            word = str(getattr(error, "name", error))
            raise FoveolaError("CUDA", f"{name} says {word}", mend)
        return results[0] if results else None


def _bindings() -> Any:
    for module in _BINDINGS:
        with suppress(ImportError):  # also where the bindings find no CUDA library
            return import_module(module)
    raise MissingPartError("cuda-python", "is not installed", INSTALL)


def driver_version(root: Path = Path("/")) -> str:
    """Read the release of NVIDIA's kernel module; empty where it does not tell."""
    found = _DRIVER.search(_first_line(root / "proc/driver/nvidia/version"))
    return found[1] if found else ""


def jetpack_release(root: Path = Path("/")) -> str:
    """Read the release of Jetson's system, as `L4T R36.4.3`; empty on another machine."""
    found = _RELEASE.search(_first_line(root / "etc/nv_tegra_release"))
    return f"L4T R{found[1]}.{found[2]}" if found else ""


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(1000)
    except OSError:
        return ""
