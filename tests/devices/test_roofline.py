"""The roofline by hand: the longer of operations over peak and bytes over bandwidth, layer by layer, and the calls."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from foveola.devices.profile import Profile, load_profile, profile_ids
from foveola.devices.roofline import CALL_US, LAUNCH_US, LayerWork, peak_gops, predict


def work(macs: int, moved: int, arithmetic: Any = "float32") -> LayerWork:
    return LayerWork(name="l", operator="Conv", arithmetic=arithmetic, macs=macs, bytes_moved=moved)


def device(gops: dict[str, float], gb_s: float | None = 10.0, **derate: float) -> Profile:
    base = msgspec.to_builtins(load_profile("generic-x86"))
    base["cpu"]["peak_gops"] = gops
    base["memory"]["bandwidth_gb_s"] = gb_s
    base["derate"] = derate
    return msgspec.convert(base, Profile)


def test_each_layer_takes_the_longer_of_its_two_times_and_a_call() -> None:
    layers = [work(50_000_000, 1_000_000), work(1_000_000, 20_000_000), work(0, 5_000_000)]

    found = predict(layers, device({"float32": 100.0}))

    # 2 * 50e6 / 100e9 = 1 ms beats 0.1 ms; 20e6 / 10e9 = 2 ms beats 0.02 ms; 0.5 ms.
    assert found is not None
    assert found.ms == pytest.approx(1.0 + 2.0 + 0.5 + 3 * CALL_US / 1000)
    assert (found.compute_bound, found.layers, found.peak_gops, found.bandwidth_gb_s) == (1, 3, 100.0, 10.0)


def test_derates_turn_peaks_into_what_is_reached() -> None:
    layers = [work(50_000_000, 0), work(0, 20_000_000)]

    found = predict(layers, device({"float32": 100.0}, compute=0.25, bandwidth=0.5))

    assert found is not None
    assert found.ms == pytest.approx(4.0 + 4.0 + 2 * CALL_US / 1000)


def test_a_layer_without_a_peak_of_its_own_runs_at_that_of_the_next_wider_numbers() -> None:
    both, wide = device({"float32": 100.0, "int8": 400.0}), device({"float32": 100.0})

    assert [peak_gops(both, kind) for kind in ("int8", "float16", "float32")] == [400.0, 100.0, 100.0]
    assert peak_gops(wide, "int8") == 100.0
    assert peak_gops(device({"int8": 400.0}), "float32") is None


def test_a_mixed_graph_counts_each_layer_in_its_own_arithmetic() -> None:
    layers = [work(200_000_000, 0, "int8"), work(50_000_000, 0)]

    found = predict(layers, device({"float32": 100.0, "int8": 400.0}))

    assert found is not None
    assert found.ms == pytest.approx(1.0 + 1.0 + 2 * CALL_US / 1000)
    assert found.peak_gops == 400.0  # of the arithmetic that most operations have


def test_an_accelerator_has_its_own_peak_and_its_own_cost_of_a_launch() -> None:
    jetson = load_profile("jetson-orin-nano-8gb")
    layers = [work(100_000_000, 0, "float16"), work(0, 6_800_000, "float16")]

    found = predict(layers, jetson, target="gpu")

    # 10 TFLOPS in float16 and 68 GB/s, as the profile has them from NVIDIA.
    compute, memory = jetson.derate.compute, jetson.derate.bandwidth
    assert found is not None
    assert found.ms == pytest.approx(0.02 / compute + 0.1 / memory + 2 * LAUNCH_US / 1000)
    assert found.peak_gops == 10_000


@pytest.mark.parametrize(
    ("profile", "layers", "target"),
    [
        (device({}), [work(1, 1)], "cpu"),
        (device({"float32": 1.0}, None), [work(1, 1)], "cpu"),
        (device({"float32": 1.0}), [], "cpu"),
        (device({"float32": 1.0}), [work(1, 1)], "npu"),
        (device({"int8": 1.0}), [work(1, 1, "int8"), work(1, 1)], "cpu"),
    ],
    ids=["no peak", "no bandwidth", "no layers", "no such accelerator", "no peak for one of the layers"],
)
def test_nothing_is_predicted_where_something_is_not_known(
    profile: Profile, layers: list[LayerWork], target: Any
) -> None:
    assert predict(layers, profile, target=target) is None


@pytest.mark.parametrize("name", profile_ids())
def test_on_every_profile_fewer_bits_are_never_predicted_to_be_slower(name: str) -> None:
    profile = load_profile(name)
    for target in ("cpu", "gpu", "npu"):
        found = [
            predict([work(10**8, width * 10**6, kind)], profile, target=target)
            for kind, width in (("int8", 1), ("float16", 2), ("float32", 4))
        ]
        times = [one.ms for one in found if one is not None]
        assert times == sorted(times)
