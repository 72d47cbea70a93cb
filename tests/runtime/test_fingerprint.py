from __future__ import annotations

import base64
import platform
from pathlib import Path
from typing import Any

import msgspec
import pytest

from foveola.runtime import fingerprint as module
from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.fingerprint import Fingerprint, changes, fingerprint, jpeg_digest, libraries, openvino_device
from foveola.runtime.manifest import OpenVinoOptions

CPUINFO = "processor : 0\nmodel name : Some CPU N100\nflags : fpu sse4_2 avx2 {more} hypervisor\nserial : 123\n"


@pytest.fixture
def now(tiny_bundle: Bundle) -> Fingerprint:
    return fingerprint(tiny_bundle, tiny_bundle.manifest.engines[0])


def test_the_same_bundle_here_has_the_same_fingerprint(tiny_bundle: Bundle, now: Fingerprint) -> None:
    again = fingerprint(tiny_bundle, tiny_bundle.manifest.engines[0])

    assert again == now
    assert changes(now, again) == []
    assert (now.engine, now.bundle, now.accelerator, now.driver) == ("onnxruntime", tiny_bundle.digest, "", "")
    assert now.engine_version


def test_it_does_not_name_the_machine(now: Fingerprint) -> None:
    text = msgspec.json.encode(now).decode()

    assert platform.node() not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bundle": "0" * 64}, "bundle: "),
        ({"foveola": "99"}, "foveola: "),
        ({"engine": "openvino"}, "engine: onnxruntime -> openvino"),
        ({"engine_version": "0.1"}, "engine's version: "),
        ({"processor": "Other"}, "processor: "),
        ({"architecture": "riscv"}, "architecture: "),
        ({"accelerator": "Orin"}, "GPU or NPU: none -> Orin"),
        ({"driver": "540.3.0"}, "driver: none -> 540.3.0"),
        ({"jpeg": "f" * 64}, "pixels of the same JPEG: "),
        ({"libraries": {}}, "Pillow: "),
    ],
)
def test_a_change_of_any_part_is_named(change: dict[str, Any], words: str, now: Fingerprint) -> None:
    found = changes(now, msgspec.structs.replace(now, **change))

    assert any(line.startswith(words) for line in found), found
    assert len(found) == 1 or "libraries" in change


def test_every_field_counts() -> None:
    assert {*module._NAMES, "format", "instructions", "libraries"} == set(Fingerprint.__struct_fields__)


def test_instructions_that_came_and_went_are_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    prints = []
    for name, more in (("before", "avx512f avx512_vnni"), ("after", "avx_vnni")):
        path = tmp_path / name / "proc" / "cpuinfo"
        path.parent.mkdir(parents=True)
        path.write_text(CPUINFO.format(more=more))
        prints.append(fingerprint(tiny_bundle, tiny_bundle.manifest.engines[0], tmp_path / name))

    assert prints[0].processor == "Some CPU N100"
    assert changes(*prints) == ["instructions: -avx512f -avx512_vnni +avx_vnni"]
    assert "123" not in msgspec.json.encode(prints[0].instructions).decode()


def test_a_board_without_a_processors_name_is_told_from_another(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")

    found = fingerprint(tiny_bundle, tiny_bundle.manifest.engines[0], tmp_path)

    assert found.processor.endswith("NVIDIA Jetson Orin Nano")


def test_an_exchanged_jpeg_decoder_is_seen_by_its_pixels() -> None:
    """A decoder that differs by a rounding differs in some of the 1,728 values."""
    data = bytearray(module._JPEG)
    quantisation = data.index(b"\xff\xdb")
    data[quantisation + 60] += 1

    assert jpeg_digest() == jpeg_digest(module._JPEG)
    assert jpeg_digest(bytes(data)) != jpeg_digest()
    assert base64.b64encode(module._JPEG)[:4] == b"/9j/"


def test_decoders_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DECODERS", ("numpy", "no-such-decoder-anywhere"))

    found = libraries()

    assert "no-such-decoder-anywhere" not in found
    assert {"numpy", "Pillow", "jpg", "libjpeg-turbo", "zlib", "libtiff"} <= set(found)


class Core:
    """What OpenVINO tells of an NPU."""

    def __init__(self, driver: str) -> None:
        self.told = {
            "FULL_DEVICE_NAME": "Intel(R) AI Boost",
            "SUPPORTED_PROPERTIES": {"NPU_DRIVER_VERSION": "RO", "FULL_DEVICE_NAME": "RO"},
            "NPU_DRIVER_VERSION": driver,
        }

    def get_property(self, plugin: str, name: str) -> Any:
        if plugin != "NPU":
            raise RuntimeError(f"Device with {plugin} name\nis not registered")
        return self.told[name]


def test_the_driver_of_an_npu_counts(now: Fingerprint) -> None:
    name, driver = openvino_device(Core("1688"), "NPU")

    assert name == "Intel(R) AI Boost"
    assert driver.startswith("NPU_DRIVER_VERSION 1688 ")
    assert openvino_device(Core("1700"), "NPU")[1] != driver


def test_a_device_that_is_not_there_is_told(tiny_bundle: Bundle) -> None:
    with pytest.raises(FoveolaError, match="GPU: OpenVINO does not tell what it is"):
        openvino_device(Core("1"), "GPU")
    with pytest.raises(FoveolaError, match="NPU: OpenVINO does not tell what it is"):
        fingerprint(tiny_bundle, OpenVinoOptions(plugin="NPU"))
