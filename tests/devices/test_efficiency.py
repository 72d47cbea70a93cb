"""The calibrated roofline by hand: shares that layers were given are found again, and foretell other networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.optimize import nnls

from foveola.devices.efficiency import (
    Efficiency,
    Measured,
    Reach,
    fit_efficiency,
    kind_of,
    layer_ms,
    predict_calibrated,
)
from foveola.devices.efficiency import _not_negative as not_negative
from foveola.devices.profile import Profile, load_profile
from foveola.devices.roofline import LayerWork

PEAKS: dict[Any, float] = {"float32": 100.0, "int8": 400.0}
BANDWIDTH = 20.0
# kind -> call in microseconds, share of the peak, share of the bandwidth
TRUTH = {"dense": (2.0, 0.8, 2.0), "pointwise": (1.0, 0.5, 1.0), "depthwise": (3.0, 0.1, 0.5)}


def conv(name: str, macs: int, moved: int, kind: str = "dense", arithmetic: Any = "float32") -> LayerWork:
    channels = (0, 0) if kind == "depthwise" else (16, 16)
    kernel = 1 if kind == "pointwise" else 9
    return LayerWork(
        name=name,
        operator="Conv",
        arithmetic=arithmetic,
        macs=macs,
        bytes_moved=moved,
        channels=channels,
        kernel=kernel,
    )


def true_ms(layer: LayerWork) -> float:
    call, compute, bandwidth = TRUTH[kind_of(layer)]
    operations = 2 * layer.macs / (PEAKS[layer.arithmetic] * 1e3 * compute)
    return (call + operations + layer.bytes_moved / (BANDWIDTH * 1e3 * bandwidth)) / 1e3


def network(name: str, seed: int, arithmetic: Any = "float32", overhead: float = 1.0) -> Measured:
    random = np.random.default_rng(seed)
    layers = tuple(
        conv(
            f"{kind}_{number}", int(random.integers(10**5, 10**8)), int(random.integers(10**4, 10**6)), kind, arithmetic
        )
        for number in range(6)
        for kind in TRUTH
    )
    ms = {layer.name: true_ms(layer) for layer in layers}
    return Measured(name=name, layers=layers, ms=ms, whole_ms=overhead * sum(ms.values()))


def fitted(measured: Sequence[Measured]) -> Efficiency:
    return fit_efficiency(measured, PEAKS, BANDWIDTH, machine="made up", engine="onnxruntime", threads=1)


def device(gops: dict[str, float], gb_s: float | None = 10.0, **derate: float) -> Profile:
    base = msgspec.to_builtins(load_profile("generic-x86"))
    base["cpu"]["peak_gops"], base["memory"]["bandwidth_gb_s"], base["derate"] = gops, gb_s, derate
    return msgspec.convert(base, Profile)


def test_shares_that_layers_were_given_are_found_again() -> None:
    found = fitted([network("a", 1), network("b", 2), network("c", 3, "int8")])

    for reach in found.reaches:
        call, compute, bandwidth = TRUTH[reach.kind]
        assert (reach.call_us, reach.compute, reach.bandwidth) == pytest.approx((call, compute, bandwidth), rel=2e-3)
    assert {(one.kind, one.arithmetic) for one in found.reaches} >= {(kind, "int8") for kind in TRUTH}
    assert found.overhead == {"float32": 1.0, "int8": 1.0}


def test_networks_of_one_law_foretell_each_other_and_the_factor_of_the_whole() -> None:
    found = fitted([network(name, seed, overhead=1.25) for name, seed in (("a", 1), ("b", 2), ("c", 3))])

    assert found.error < 0.002
    assert found.worst_error < 0.002
    assert found.overhead["float32"] == pytest.approx(1.25, rel=1e-3)


def test_a_network_of_another_law_shows_in_the_error() -> None:
    odd = network("odd", 4)
    odd = msgspec.structs.replace(odd, whole_ms=2 * odd.whole_ms)

    found = fitted([*(network(name, seed) for seed, name in enumerate("abcd")), odd])

    assert found.worst_error == pytest.approx(0.5, abs=0.01)
    assert found.error < 0.01


def test_a_layer_that_was_disturbed_moves_the_shares_little() -> None:
    disturbed = network("a", 1)
    ms = {**disturbed.ms, "dense_0": 30 * disturbed.ms["dense_0"]}

    found = fitted([msgspec.structs.replace(disturbed, ms=ms), network("b", 2), network("c", 3)])

    dense = found.reach("dense", "float32")
    assert dense.compute == pytest.approx(0.8, rel=0.1)


def test_least_squares_without_negative_factors_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        matrix, wanted = random.normal(size=(12, 3)), random.normal(size=12)

        found = not_negative(matrix, wanted)

        assert found == pytest.approx(nnls(matrix, wanted)[0], abs=1e-9)


def test_a_prediction_is_the_sum_by_hand_and_says_what_it_is() -> None:
    efficiency = fitted([network("a", 1), network("b", 2)])
    layers = [conv("one", 50_000_000, 1_000_000), conv("two", 1_000_000, 2_000_000, "depthwise")]

    found = predict_calibrated(layers, device({"float32": 200.0}, compute=0.5), efficiency)

    # dense: 2 + 2 * 50e6 / (200e3 * 0.5 * 0.8) + 1e6 / (10e3 * 2) microseconds;
    # depthwise: 3 + 2e6 / (1e5 * 0.1) + 2e6 / (10e3 * 0.5).
    assert found is not None
    assert found.ms == pytest.approx((2 + 1250 + 50 + 3 + 200 + 400) / 1e3, rel=5e-3)
    assert (found.source, found.error, found.layers) == ("calibrated", efficiency.error, 2)
    assert found.compute_bound == 1
    assert found.peak_gops == 200.0


def test_this_machines_own_peaks_give_back_its_own_times() -> None:
    measured = [network("a", 1), network("b", 2), network("c", 3, "int8")]
    efficiency = fitted(measured)

    for one in measured:
        found = predict_calibrated(one.layers, efficiency.on_this(device({}, None)), efficiency)
        assert found is not None
        assert found.ms == pytest.approx(one.whole_ms, rel=5e-3)


@pytest.mark.parametrize("profile", [device({}), device({"float32": 10.0}, None)], ids=["no peak", "no bandwidth"])
def test_nothing_is_predicted_where_the_profile_knows_too_little(profile: Profile) -> None:
    efficiency = fitted([network("a", 1), network("b", 2)])

    assert predict_calibrated([conv("one", 1000, 1000)], profile, efficiency) is None
    assert predict_calibrated([], device({"float32": 10.0}), efficiency) is None


def test_a_kind_that_was_not_measured_takes_the_shares_of_wider_numbers_then_of_other_operations() -> None:
    other = Reach(kind="other", arithmetic="float32", compute=1.0, bandwidth=1.0, call_us=9.0, layers=4, error=0.0)
    efficiency = fitted([network("a", 1), network("b", 2)])
    efficiency = msgspec.structs.replace(efficiency, reaches=(*efficiency.reaches, other))

    assert efficiency.reach("dense", "int8") == efficiency.reach("dense", "float32")
    assert efficiency.reach("matrix", "float32") is other


@pytest.mark.parametrize(
    ("operator", "channels", "kernel", "kind"),
    [
        ("Conv", (8, 16), 9, "dense"),
        ("Conv", (8, 16), 1, "pointwise"),
        ("Conv", (0, 0), 25, "depthwise"),
        ("Gemm", (8, 4), 1, "matrix"),
        ("Add", (0, 0), 1, "elementwise"),
        ("HardSwish", (0, 0), 1, "activation"),
        ("ReduceMean", (0, 0), 1, "pool"),
        ("Resize", (0, 0), 1, "other"),
    ],
)
def test_every_operation_has_its_kind(operator: str, channels: tuple[int, int], kernel: int, kind: str) -> None:
    layer = LayerWork(
        name="l", operator=operator, arithmetic="float32", macs=0, bytes_moved=1, channels=channels, kernel=kernel
    )

    assert kind_of(layer) == kind


def test_between_integer_layers_other_operations_are_filed_under_integers() -> None:
    efficiency = fitted([network("a", 1), network("b", 2)])
    shares = (("float32", 5.0), ("int8", 1.0))
    reaches = tuple(
        Reach(kind="elementwise", arithmetic=name, compute=None, bandwidth=None, call_us=call, layers=4, error=0.0)  # type: ignore[arg-type]
        for name, call in shares
    )
    efficiency = msgspec.structs.replace(efficiency, reaches=reaches)
    add = LayerWork(name="add", operator="Add", arithmetic="float32", macs=0, bytes_moved=100)

    assert layer_ms(add, efficiency, "int8", PEAKS, BANDWIDTH) == pytest.approx(1e-3)
    assert layer_ms(add, efficiency, "float32", PEAKS, BANDWIDTH) == pytest.approx(5e-3)
