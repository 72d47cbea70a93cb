"""The stage applies the cure of the profile, proves it, and writes down what the lint saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from small import STUDENT, TASKS, silent, squares

from foveola.export.saturation.integer_layers import unproved_layers
from foveola.export.saturation.lint import LayerSaturation, Saturation
from foveola.toolkit.compress.lessons import write_taught
from foveola.toolkit.compress.overflow import SATURATION, SaturationRecord, describe
from foveola.toolkit.compress.quantise import INT8_GRAPH, quantise_student
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.fresh import new_network
from foveola.toolkit.models.network import save_network

BRIGHT = tuple(task for task in TASKS if task.name == "bright")


def layer(name: str, share: float, *, proved: bool = False) -> LayerSaturation:
    return LayerSaturation(
        layer=name, module=f"backbone.{name}", operator="Conv", sums="pairs", order="im2col", products=9, steps=127,
        proved=proved, positions=64, share=share, overshoot=1, error=share, cure="none" if proved else "fit",
    )  # fmt: skip


def report(*shares: float, proved: bool = False) -> Saturation:
    return Saturation(layers=tuple(layer(f"c{i}", one, proved=proved) for i, one in enumerate(shares)), images=2)


def test_the_log_names_the_worst_layers_and_the_cure() -> None:
    record = SaturationRecord(
        weight_bits=7, overflow="fit", written=report(0, 0, proved=True), uncured=report(0.01, 0.2, 0, 0.03, 0.002)
    )

    assert describe(record) == (
        "8-bit weights would overflow without VNNI in c1 (backbone.c1) 20.00% of sums, c3 (backbone.c3) 3.00% of sums, "
        "c0 (backbone.c0) 1.00% of sums and 1 more; cure fit: every layer proved safe"
    )


def test_the_log_says_when_nothing_is_to_be_done() -> None:
    record = SaturationRecord(weight_bits=8, overflow="none", written=report(0.0), uncured=None)

    assert describe(record) == "no 16-bit sum overflows; no matter on this device"


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """A data set and an untrained student of it."""
    folder = tmp_path_factory.mktemp("road")
    (folder / "student").mkdir()
    data = squares(folder / "data", BRIGHT)
    save_network(new_network("student", data, STUDENT, 0), folder / "student")
    write_taught(folder / "student", "0" * 64)
    return data, folder / "student"


def quantise(road: tuple[Dataset, Path], folder: Path, **knobs: Any) -> SaturationRecord:
    folder.mkdir()
    quantise_student(
        road[1], road[0], split="calibration", images=2, min_images=2, method="minmax", opset=20,
        folder=folder, cache=folder.parent / "cache", progress=silent, **knobs,
    )  # fmt: skip
    return msgspec.json.decode((folder / SATURATION).read_bytes(), type=SaturationRecord)


@pytest.fixture(scope="module")
def cured(road: tuple[Dataset, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SaturationRecord]:
    folder = tmp_path_factory.mktemp("cured") / "int8"
    return folder, quantise(road, folder, weight_bits=7)


def test_a_device_without_vnni_gets_fitted_weights_that_are_proved(cured: tuple[Path, SaturationRecord]) -> None:
    folder, record = cured

    assert record.overflow == "fit"
    assert record.uncured is not None
    assert record.written.unproved == unproved_layers(folder / INT8_GRAPH) == ()
    assert len(record.uncured.unproved) > 10
    assert all(one.module for one in record.written.layers)
    depthwise = [one for one in record.written.layers if one.sums == "depthwise"]
    assert depthwise
    assert all(one.steps == 127 for one in depthwise)


def test_a_device_with_vnni_keeps_all_bits_and_is_told_all_the_same(
    road: tuple[Dataset, Path], cured: tuple[Path, SaturationRecord], tmp_path: Path
) -> None:
    record = quantise(road, tmp_path / "int8", weight_bits=8)

    assert (record.overflow, record.uncured) == ("none", None)
    assert {one.steps for one in record.written.layers} == {127}
    assert record.written == cured[1].uncured


def test_a_layer_of_the_record_can_be_kept_in_float(
    road: tuple[Dataset, Path], cured: tuple[Path, SaturationRecord], tmp_path: Path
) -> None:
    first = cured[1].written.layers[0].layer

    record = quantise(road, tmp_path / "int8", weight_bits=7, overflow="seven", float_layers=[first])

    assert first not in {one.layer for one in record.written.layers}
    assert {one.steps for one in record.written.layers} == {63}
