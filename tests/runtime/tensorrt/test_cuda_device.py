from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foveola.runtime.errors import MissingPartError
from foveola.runtime.tensorrt.cuda import Gpu, driver_version, jetpack_release


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build", "540.4.0"),
        ("something else", ""),
    ],
)
def test_the_driver_s_release_is_read_from_the_kernel(tmp_path: Path, line: str, version: str) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(f"{line}\nGCC version: gcc 12\n")

    assert driver_version(tmp_path) == version


def test_the_release_of_a_jetson_is_read_and_elsewhere_there_is_none(tmp_path: Path) -> None:
    assert (driver_version(tmp_path), jetpack_release(tmp_path)) == ("", "")

    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")

    assert jetpack_release(tmp_path) == "L4T R36.4.3"


def test_without_the_bindings_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(MissingPartError, match="cuda-python: is not installed; pip install cuda-python"):
        Gpu()
