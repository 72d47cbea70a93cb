"""Device profiles: what is shipped is whole, what is wrong is refused with its mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from foveola.devices.profile import FOLDER, engine_options, load_profile, profile_ids
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import OnnxRuntimeOptions, OpenVinoOptions

Plain = dict[str, Any]


def written(folder: Path, change: Callable[[Plain], None]) -> Path:
    """A valid profile with one part broken."""
    plain: Plain = yaml.safe_load((FOLDER / "generic-x86.yaml").read_text())
    change(plain)
    path = folder / "generic-x86.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def test_the_shipped_profiles_are_these() -> None:
    assert profile_ids() == ("generic-x86", "intel-n100", "rpi5-8gb", "x86-avx2-legacy")


@pytest.mark.parametrize("name", profile_ids())
def test_every_shipped_profile_is_valid_and_gives_engine_options(name: str) -> None:
    profile = load_profile(name)

    options = engine_options(profile)

    assert profile.id == name
    assert {option.arithmetic for option in options} == {"int8"}
    assert all(option.threads <= profile.cpu.cores for option in options)


def test_options_carry_the_profiles_settings_in_its_order() -> None:
    first, second = engine_options(load_profile("rpi5-8gb"))

    assert first == OnnxRuntimeOptions(threads=4, spinning=False)
    assert second == OpenVinoOptions(threads=4)


def test_only_processors_without_a_byte_dot_product_get_seven_bit_weights() -> None:
    for name in profile_ids():
        profile = load_profile(name)
        assert profile.export.weight_bits == (8 if profile.cpu.int8_dot else 7), name


def test_a_profile_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = written(tmp_path, lambda plain: plain["budget"].update(latency_ms=5.5))

    assert load_profile(str(path)).budget.latency_ms == 5.5


BROKEN: list[tuple[str, Callable[[Plain], Any], str]] = [
    ("unknown field", lambda p: p.update(color="red"), "color"),
    ("missing part", lambda p: p.pop("budget"), "budget"),
    ("unknown instruction", lambda p: p["cpu"]["instructions"].append("mmx9"), "mmx9"),
    ("unknown engine", lambda p: p["engines"][0].update(engine="tflite"), "tflite"),
    ("no latency", lambda p: p["budget"].update(latency_ms=0), "> 0"),
    ("old opset", lambda p: p["export"].update(opset=11), ">= 18"),
    ("number without source", lambda p: p["provenance"].pop("cpu.cores"), "no provenance for cpu.cores"),
    ("source, no number", lambda p: p["provenance"].update({"cpu.watts": {"source": "known"}}), "which is no number"),
    ("unknown source", lambda p: p["provenance"]["cpu.cores"].update(source="hearsay"), "hearsay"),
    ("too many threads", lambda p: p["engines"][0].update(threads=64), "64 threads on 2 cores"),
    ("engine twice", lambda p: p["engines"].append(p["engines"][0]), "once each"),
    ("no engine", lambda p: p["engines"].clear(), "one at least"),
    ("saturating integers", lambda p: p["cpu"].update(instructions=["avx2"]), "weight_bits to 7"),
    ("another id", lambda p: p.update(id="else"), "'else' is not the file's name"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_wrong_profile_is_refused_with_file_and_fault(
    change: Callable[[Plain], Any], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, change)

    with pytest.raises(FoveolaError) as refusal:
        load_profile(str(path))

    assert str(refusal.value).startswith("generic-x86.yaml: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_all_contradictions_are_told_at_once(tmp_path: Path) -> None:
    def change(plain: Plain) -> None:
        plain["provenance"].pop("memory.gib")
        plain["engines"][0]["threads"] = 8

    with pytest.raises(FoveolaError, match=r"memory\.gib.*8 threads"):
        load_profile(str(written(tmp_path, change)))


def test_text_that_is_not_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("id: [unclosed")

    with pytest.raises(FoveolaError, match=r"odd\.yaml: not YAML") as refusal:
        load_profile(str(tmp_path / "odd.yaml"))

    assert "\n" not in str(refusal.value)


def test_a_misspelt_device_gets_the_right_name_back() -> None:
    with pytest.raises(FoveolaError, match="did you mean 'intel-n100'"):
        load_profile("intel-n10")
    with pytest.raises(FoveolaError, match="known are generic-x86, intel-n100"):
        load_profile("toaster")
