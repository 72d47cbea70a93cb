"""Device profiles: what is shipped is whole, what is wrong is refused with its mend."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from foveola.devices.facts import facts
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


SHIPPED = (
    "generic-cuda", "generic-x86", "imx8m-plus", "intel-core-ultra-155h", "intel-core-ultra-258v", "intel-n100",
    "intel-n97", "jetson-agx-orin-64gb", "jetson-orin-nano-8gb", "jetson-orin-nano-8gb-super", "jetson-orin-nx-16gb",
    "kria-k26", "qcs6490", "rk3588", "rpi5-8gb", "x86-avx2-legacy", "x86-sse42-legacy",
)  # fmt: skip


def unit(**changes: object) -> Plain:
    return {"name": "gpu", "kind": "gpu", "precisions": ["int8"], **changes}


def test_the_shipped_profiles_are_these() -> None:
    assert profile_ids() == SHIPPED


@pytest.mark.parametrize("name", profile_ids())
def test_every_shipped_profile_is_valid_and_gives_engine_options(name: str) -> None:
    profile = load_profile(name)

    options = engine_options(profile)

    assert profile.id == name
    assert [option.arithmetic for option in options] == [engine.precisions[0] for engine in profile.engines]
    assert all(engine.threads <= profile.cpu.cores for engine in profile.engines)


def test_options_carry_the_profiles_settings_in_its_order() -> None:
    first, second = engine_options(load_profile("rpi5-8gb"))

    assert first == OnnxRuntimeOptions(threads=4, spinning=False)
    assert second == OpenVinoOptions(threads=4)


@pytest.mark.parametrize("name", profile_ids())
def test_only_processors_that_saturate_get_seven_bit_weights(name: str) -> None:
    profile = load_profile(name)

    assert profile.export.weight_bits == (7 if profile.cpu.saturates else 8)


@pytest.mark.parametrize("name", profile_ids())
def test_every_fact_has_a_source_and_every_source_a_fact(name: str) -> None:
    plain = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    profile = load_profile(name)

    assert set(profile.provenance) <= {*facts(profile), "cpu.instructions"}
    assert f"cpu.instructions.{plain['cpu']['instructions'][0]}" in facts(profile)
    assert all(source.source == "chosen" for path, source in profile.provenance.items() if path.startswith("budget"))


def test_paths_of_facts_name_the_parts_of_a_list() -> None:
    names = facts(load_profile("jetson-agx-orin-64gb"))

    assert {"accelerators.dla.peak_tops.int8", "power_modes.15W.peak_tops.gpu.int8", "power_modes.15W.watts"} <= set(
        names
    )
    assert "accelerators.gpu.compute_capability" in names
    assert not [name for name in names if name.startswith(("export", "engines"))]


def test_a_strict_reader_refuses_general_knowledge_and_names_it() -> None:
    assert load_profile("x86-avx2-legacy", strict=True).unverified() == ()

    with pytest.raises(FoveolaError, match=r"cpu\.instructions\.avx_vnni, memory\.gib are only general knowledge"):
        load_profile("intel-n100", strict=True)


def test_peaks_are_dense_so_a_mode_never_exceeds_the_whole() -> None:
    profile = load_profile("jetson-agx-orin-64gb")
    whole = {unit.name: unit.peak_tops["int8"] for unit in profile.accelerators}

    for mode in profile.power_modes.values():
        for unit, peaks in mode.peak_tops.items():
            assert peaks["int8"] <= whole[unit]


def test_the_derived_peaks_follow_their_formulas() -> None:
    n97, pi, nano = (load_profile(name) for name in ("intel-n97", "rpi5-8gb", "jetson-orin-nano-8gb-super"))

    # cores x operations a cycle x GHz, as the notes of the files say
    assert n97.cpu.peak_gops == pytest.approx({"float32": 4 * 16 * 2.9, "int8": 4 * 64 * 2.9})
    assert pi.cpu.peak_gops == pytest.approx({"float32": 4 * 16 * 2.4, "int8": 4 * 64 * 2.4}, rel=0.01)
    assert n97.accelerators[0].peak_tops["int8"] == pytest.approx(24 * 64 * 1.2e-3, rel=0.01)
    assert nano.accelerators[0].peak_tops["float32"] == pytest.approx(1024 * 2 * 1.02e-3, rel=0.01)


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
    ("source, no number", lambda p: p["provenance"].update({"cpu.watts": {"source": "known"}}), "which is no fact"),
    ("unknown source", lambda p: p["provenance"]["cpu.cores"].update(source="hearsay"), "hearsay"),
    ("too many threads", lambda p: p["engines"][0].update(threads=64), "64 threads on 2 cores"),
    ("engine twice", lambda p: p["engines"].append(dict(p["engines"][0])), "once each"),
    ("no engine", lambda p: p["engines"].clear(), "one at least"),
    ("saturating integers", lambda p: p["cpu"].update(instructions=["avx2"]), "weight_bits to 7"),
    ("misspelt field", lambda p: p["cpu"].update(coers=2), "no field in cpu: 'coers' (did you mean 'cores'?)"),
    ("another unit", lambda p: p["memory"].update(bandwidth_mb_s=38400),
     "'bandwidth_mb_s' is in another unit: give 'bandwidth_gb_s'"),
    ("a bare unit", lambda p: p["memory"].update(mib=4096), "'mib' is in another unit: give 'gib'"),
    ("wrong type", lambda p: p["cpu"].update(cores="two"), "cpu.cores: expected `int`, got `str`"),
    ("no mapping", lambda p: p.update(cpu=[1]), "cpu is a list, not a mapping"),
    ("instruction of another house", lambda p: p["cpu"]["instructions"].append("asimddp"), "asimddp on x86_64"),
    ("instruction without source", lambda p: (p["provenance"].pop("cpu.instructions")),
     "no provenance for cpu.instructions.avx2"),
    ("no such specifier", lambda p: p["engines"][0].update(versions="~=2"), "'~=2' is no version specifier"),
    ("plugin without unit", lambda p: p["engines"][0].update(plugin="NPU"), "needs an accelerator of kind npu"),
    ("tensorrt without GPU", lambda p: p["engines"].append({"engine": "tensorrt"}), "tensorrt needs an accelerator"),
    ("foreign plugin", lambda p: p["engines"][1].update(plugin="GPU"), "onnxruntime has no plugin GPU"),
    ("no precision", lambda p: p["engines"][0].update(precisions=[]), "openvino has no precision"),
    ("cores among cores", lambda p: p["cpu"].update(performance_cores=3), "3 performance cores among 2 cores"),
    ("no such mode", lambda p: p.update(power_mode="15W"), "power_mode '15W' is none of none"),
    ("no such accelerator", lambda p: p["export"].update(accelerator="npu"), "'npu' is no accelerator here"),
    ("float8 on Orin", lambda p: p.update(accelerators=[unit(precisions=["float8"], compute_capability="8.7")]),
     "of compute capability 8.7 has no float8"),
    ("a bare capability", lambda p: p.update(accelerators=[unit(compute_capability=8.7)]), "got `float`"),
    ("peak in nothing", lambda p: p.update(accelerators=[unit(peak_tops={"int4": 1})]), "has a peak for int4"),
    ("units alike", lambda p: p.update(accelerators=[unit(), unit()]), "two accelerators are named gpu"),
    ("lost activation", lambda p: p.update(accelerators=[unit(operators=["Conv"], activations=["Relu"])]),
     "has the activations Relu but not the operators"),
    ("derate above one", lambda p: p.update(derate={"compute": 1.5}), "<= 1.0"),
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


def test_all_wrong_fields_are_told_at_once(tmp_path: Path) -> None:
    def change(plain: Plain) -> None:
        plain["cpu"]["coers"] = 2
        plain["memory"]["bandwidth_mb_s"] = 1
        plain["budget"]["latency_ms"] = "quick"

    with pytest.raises(FoveolaError, match=r"coers.*bandwidth_mb_s.*budget\.latency_ms: expected") as refusal:
        load_profile(str(written(tmp_path, change)))

    assert "\n" not in str(refusal.value)


def test_all_contradictions_are_told_at_once(tmp_path: Path) -> None:
    def change(plain: Plain) -> None:
        plain["provenance"].pop("memory.gib")
        plain["engines"][0]["threads"] = 8

    with pytest.raises(FoveolaError, match=r"memory\.gib.*8 threads"):
        load_profile(str(written(tmp_path, change)))


TEXTS = {
    "not YAML": ("id: [unclosed", "not YAML"),
    "a key twice": ("id: a\nid: b", "'id' stands twice"),
    "an alias": ("id: &a x\ntitle: *a", "anchors and aliases are not read"),
    "a tag": ("id: !!python/object:os.system x", "not YAML"),
    "nothing": ("", "the profile is empty, not a mapping"),
    "too large": ("# " + "x" * 70_000, "larger than 65536 bytes"),
    "no text": (b"\xff\xfe", "not YAML"),
    "too deep": ("[" * 5000, "not YAML"),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_profile_is_refused_in_one_line(text: str | bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(FoveolaError, match=rf"odd\.yaml.*{re.escape(words)}") as refusal:
        load_profile(str(tmp_path / "odd.yaml"))

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["../devices/intel-n100", "a" * 300, "", "."])
def test_an_id_never_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(FoveolaError, match="there is no such profile; (known are|did you mean)"):
        load_profile(name)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["a folder", "nothing"])
def test_a_file_that_cannot_be_read_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "mine.yaml")

    with pytest.raises(FoveolaError, match=r"cannot be read: .*; give a YAML file"):
        load_profile(str(tmp_path / "mine.yaml"))


def test_a_figure_without_end_is_refused(tmp_path: Path) -> None:
    def change(plain: Plain) -> None:
        plain["memory"]["gib"] = plain["budget"]["latency_ms"] = float("inf")

    with pytest.raises(
        FoveolaError, match=r"memory\.gib: expected `float` <= 1000000000.0, budget\.latency_ms: expected"
    ):
        load_profile(str(written(tmp_path, change)))


def test_a_misspelt_device_gets_the_right_name_back() -> None:
    with pytest.raises(FoveolaError, match="did you mean 'intel-n100'"):
        load_profile("intel-n10")
    with pytest.raises(FoveolaError, match="known are generic-cuda, generic-x86"):
        load_profile("toaster")
