"""Which forms a device can run: its engines in its precisions, in order of preference, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from foveola.devices.profile import Engine, Profile, load_profile, profile_ids
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import OpenVinoOptions, TensorRtOptions
from foveola.toolkit.variants.candidates import Candidate, candidates


def names(device: str | Profile, *engines: Any, **knobs: Any) -> list[str]:
    profile = load_profile(device) if isinstance(device, str) else device
    return [one.name for one in candidates(profile, engines, **{"quantised": True, "nncf": True, **knobs})]


def with_engines(*engines: Engine) -> Profile:
    return msgspec.structs.replace(load_profile("generic-x86"), engines=engines)


def test_a_server_has_every_form_of_both_engines_with_the_portable_int8_before_nncf_s() -> None:
    assert names("generic-x86") == [
        "openvino int8", "openvino int8 nncf", "openvino float32", "onnxruntime int8", "onnxruntime float32",
    ]  # fmt: skip
    assert names("generic-x86", "onnxruntime", "openvino", nncf=False) == [
        "onnxruntime int8", "onnxruntime float32", "openvino int8", "openvino float32",
    ]  # fmt: skip


def test_the_order_of_precisions_is_the_profile_s_not_the_asker_s() -> None:
    assert names("kria-k26") == ["onnxruntime float32", "onnxruntime int8"]
    assert names("kria-k26", precisions=("int8", "float32")) == ["onnxruntime float32", "onnxruntime int8"]


def test_a_jetson_has_typed_forms() -> None:
    found = candidates(load_profile("jetson-orin-nano-8gb"), ("tensorrt",), quantised=True, nncf=True)

    assert [(type(one.options), one.arithmetic, one.quantiser, one.target) for one in found] == [
        (TensorRtOptions, "int8", "portable", "gpu"),
        (TensorRtOptions, "float16", "none", "gpu"),
        (TensorRtOptions, "float32", "none", "gpu"),
    ]


def test_the_hint_of_openvino_follows_the_precision_on_every_plugin() -> None:
    every = ("int8", "float16", "float32")
    for plugin, target in (("CPU", "cpu"), ("GPU", "gpu"), ("NPU", "npu")):
        device = with_engines(Engine(engine="openvino", precisions=every, plugin=plugin))  # type: ignore[arg-type]

        found = candidates(device, (), quantised=True, nncf=True)

        hints = {one.name: one.options.inference_precision for one in found if isinstance(one.options, OpenVinoOptions)}
        assert hints == {
            "openvino int8": "f32", "openvino int8 nncf": "f32", "openvino float16": "f16", "openvino float32": "f32",
        }  # fmt: skip
        assert {one.target for one in found} == {target}


def test_the_manifest_tells_which_int8_it_is() -> None:
    portable, own = candidates(
        load_profile("intel-n100"), ("openvino",), precisions=("int8",), quantised=True, nncf=True
    )

    assert (portable.options.quantiser, own.options.quantiser) == ("portable", "nncf")  # type: ignore[union-attr]
    assert portable.options.threads == own.options.threads == 4  # type: ignore[union-attr]


def test_a_float_student_has_float_forms_alone() -> None:
    assert names("generic-x86", quantised=False) == ["openvino float32", "onnxruntime float32"]


@pytest.mark.parametrize(
    ("engines", "knobs", "words"),
    [
        (("tensorrt",), {}, r"generic-x86: has no tensorrt.*its engines: openvino, onnxruntime"),
        ((), {"precisions": ("float16",)}, r"nothing to write for openvino, onnxruntime.*name another precision"),
        ((), {"precisions": ("int8",), "quantised": False}, r"nothing to write.*quantise the student first"),
    ],
    ids=["an engine of another device", "a precision of another device", "int8 of a float student"],
)
def test_what_the_device_cannot_run_is_refused_in_one_line(engines: Any, knobs: Any, words: str) -> None:
    with pytest.raises(FoveolaError, match=words) as refusal:
        names("generic-x86", *engines, **knobs)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("device", profile_ids())
def test_every_profile_has_forms_with_names_of_their_own(device: str) -> None:
    found = names(device)

    assert found
    assert len(found) == len(set(found))
    assert all(isinstance(one, Candidate) for one in candidates(load_profile(device), (), quantised=False, nncf=False))
