from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from small import PLAN, SPEC, STUDENT, TEACHER, silent, squares

from foveola.devices.profile import load_profile
from foveola.runtime.errors import FoveolaError, MissingPartError, UsageError
from foveola.toolkit.compress.go_on import Guide, go_on
from foveola.toolkit.compress.prune import rounds as story
from foveola.toolkit.compress.prune.layers import layer_shapes
from foveola.toolkit.compress.prune.meter import Meter, choose_clock
from foveola.toolkit.compress.prune.record import (
    PRUNED,
    Pruned,
    Reading,
    Target,
    describe,
    pruning_of,
    read_pruned,
)
from foveola.toolkit.compress.prune.rounds import Rule, prune_network
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.finished import finish, teacher_answers
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Lessons
from foveola.toolkit.models.network import Network, load_network
from foveola.toolkit.stages.prune import Prune

DEVICE = load_profile("generic-x86")
PLAN1 = msgspec.structs.replace(PLAN, epochs=1)


class Sums:
    """A clock for which time is the number of multiply-adds; it counts how often it was asked."""

    asked = 0

    def __init__(self, unpruned: Network, *_: object) -> None:
        self.unpruned, self.before = unpruned, _macs(unpruned)

    def read(self, network: Network, *, rounds: int = 15) -> Reading:
        Sums.asked += 1
        return Reading(
            before_ms=self.before / 1e6,
            after_ms=_macs(network) / 1e6,
            source="predicted",
            engine="onnxruntime",
            arithmetic="float32",
            machine="sums",
        )


def _macs(network: Network) -> int:
    return sum(one.macs for one in layer_shapes(network).values())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, an untrained teacher and an untrained student, as finished steps."""
    root = tmp_path_factory.mktemp("prune")
    dataset = squares(root / "data")
    for name, shape in (("teacher", TEACHER), ("student", STUDENT)):
        (root / name).mkdir()
        network = new_network(name, dataset, shape, 0)  # type: ignore[arg-type]
        finish(network, dataset, [], root / name, root / "cache")
    return root


def prune(
    house: Path, folder: Path, target: Target, rule: Rule, *, guided: bool = False, of: str = "student"
) -> Pruned:
    dataset = squares(house / "data")
    guide = _guide(house, dataset) if guided else None
    clock = None if target.goal == "ratio" else choose_clock(DEVICE, "float32", "onnxruntime", "roofline")
    return prune_network(
        house / of,
        dataset,
        target,
        rule,
        clock=clock,
        device=DEVICE,
        plan=PLAN1,
        guide=guide,
        folder=folder,
        cache=house / "cache",
        seed=0,
        report=silent,
        say=lambda _: None,
    )


def _guide(house: Path, dataset: Dataset) -> Guide:
    answers = teacher_answers(load_network(house / "teacher"), dataset.subset("train"))
    return Guide(answers=answers, input=SPEC, scale={}, lessons=Lessons())


def test_a_student_is_pruned_recovers_and_is_a_finished_step(house: Path, tmp_path: Path) -> None:
    found = prune(house, tmp_path, Target("ratio", 0.5), Rule(importance="taylor", rounds=2, multiple=4), guided=True)

    pruned, whole = load_network(tmp_path), load_network(house / "student")
    assert pruned.tasks == whole.tasks
    assert pruned.input == whole.input
    assert found == read_pruned(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "history.json",
        "locked.json",
        "model.json",
        "model.safetensors",
        PRUNED,
    ]
    assert 0.3 < 1 - found.channels[1] / found.channels[0] < 0.6
    assert found.parameters == tuple(sum(x.numel() for x in one.parameters()) for one in (whole, pruned))
    assert len(found.rounds) == 2
    assert found.rounds[0].pruned.keys() == found.rounds[0].recovered.keys() == found.unpruned.keys()
    assert "in 2 rounds" in describe(found)


def test_a_teacher_is_pruned_on_the_reference_standard(house: Path, tmp_path: Path) -> None:
    found = prune(house, tmp_path, Target("ratio", 0.5), Rule(importance="hessian", gradient_images=2), of="teacher")

    assert any("fpn" in one.path for one in found.layers)
    assert found.parameters[1] < 0.5 * found.parameters[0]


def test_the_target_is_met_on_what_is_timed(house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "Meter", Sums)

    found = prune(house, tmp_path, Target("speedup", 1.8), Rule(rounds=2, multiple=4))

    assert found.reading is not None
    assert abs(found.reading.speedup / 1.8 - 1) <= 0.1
    assert found.rounds[1].speedup == found.reading.speedup
    assert abs(found.reading.speedup - found.macs[0] / found.macs[1]) < 1e-6


def test_a_latency_is_met_in_milliseconds(house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "Meter", Sums)
    wanted = _macs(load_network(house / "student")) / 1e6 / 1.6

    found = prune(house, tmp_path, Target("latency_ms", wanted), Rule(multiple=4))

    assert found.reading is not None
    assert abs(found.reading.after_ms / wanted - 1) <= 0.12


@pytest.mark.parametrize(
    ("target", "rule", "fault"),
    [
        pytest.param(Target("speedup", 500.0), Rule(), "the nearest is .* times faster", id="unreachable"),
        pytest.param(Target("latency_ms", 1e6), Rule(), "nothing to prune: the network takes", id="fast enough"),
        pytest.param(Target("ratio", 0.3), Rule(multiple=4096), "nothing shrank", id="nothing shrank"),
        pytest.param(Target("speedup", 1.02), Rule(), "nothing shrank", id="met by the whole network"),
        pytest.param(Target("ratio", 0.3), Rule(keep=("backbone", "decoder", "heads")), "left alone", id="all kept"),
        pytest.param(Target("ratio", 0.3), Rule(keep=("backbon",)), "did you mean 'backbone'", id="no such layer"),
    ],
)
def test_what_cannot_be_done_is_refused(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target, rule: Rule, fault: str
) -> None:
    monkeypatch.setattr(story, "Meter", Sums)

    with pytest.raises(FoveolaError, match=fault):
        prune(house, tmp_path, target, rule)


def test_a_killed_pruning_goes_on_without_timing_again(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "Meter", Sums)
    whole, real = prune(house, _made(tmp_path / "whole"), Target("speedup", 1.5), Rule(multiple=4)), go_on

    def killed(*_: object, **__: object) -> Network:
        raise KeyboardInterrupt

    monkeypatch.setattr(story, "go_on", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(house, _made(tmp_path / "again"), Target("speedup", 1.5), Rule(multiple=4))
    monkeypatch.setattr(story, "go_on", real)
    before = Sums.asked

    again = prune(house, tmp_path / "again", Target("speedup", 1.5), Rule(multiple=4))

    assert Sums.asked == before
    assert again == whole
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "again")]
    assert files[0] == files[1]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_what_is_timed_is_the_exported_graph(house: Path, arithmetic: str) -> None:
    network = load_network(house / "student")
    images = np.random.default_rng(0).random((2, 1, 64, 64), dtype=np.float32)
    clock = choose_clock(DEVICE, arithmetic, "onnxruntime", "measure")  # type: ignore[arg-type]

    found = Meter(network, clock, DEVICE, images).read(network, rounds=1)

    assert found.source == "measured"
    assert found.before_ms > 0
    assert found.after_ms > 0


def test_a_clock_that_the_device_does_not_have_is_refused() -> None:
    with pytest.raises(FoveolaError, match="has no float16 on onnxruntime; its engines: "):
        choose_clock(DEVICE, "float16", "onnxruntime", "auto")
    with pytest.raises(MissingPartError, match="does not run here; take time: roofline"):
        choose_clock(load_profile("jetson-orin-nano-8gb"), "float16", "tensorrt", "measure")


def test_a_time_that_nobody_can_predict_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(FoveolaError, match="generic-x86 knows no peak or no bandwidth for float32; take time: measure"):
        Prune(of="student", speedup=2.0, arithmetic="float32", time="roofline").check_clock(DEVICE)

    Prune(of="student", ratio=0.5, time="roofline").check_clock(DEVICE)  # nothing is timed
    Prune(of="student", speedup=2.0, time="roofline").check_clock(load_profile("intel-n100"))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        pytest.param({}, "no target is given", id="none"),
        pytest.param({"ratio": 0.5, "speedup": 2.0}, "speedup and ratio are both given", id="both"),
    ],
)
def test_exactly_one_target_is_given(given: dict[str, float], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        Prune(of="student", **given).goal()  # type: ignore[arg-type]


def test_provenance_says_what_was_taken(house: Path, tmp_path: Path) -> None:
    network = load_network(house / "student")
    assert pruning_of(house / "student", network.architecture) == "none"
    found = prune(house, tmp_path, Target("ratio", 0.5), Rule(multiple=4))
    pruned = load_network(tmp_path)

    told = pruning_of(tmp_path, pruned.architecture)
    (tmp_path / PRUNED).unlink()

    assert told == describe(found)
    assert "layers have other channels than mobilenetv4_conv_small_035" in pruning_of(tmp_path, pruned.architecture)


def test_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / PRUNED).write_text("{}")

    with pytest.raises(FoveolaError, match="not a record of pruning"):
        read_pruned(tmp_path)


def test_multiply_adds_are_those_of_a_hand_example(house: Path) -> None:
    shapes = layer_shapes(load_network(house / "student"))

    stem = shapes["backbone.conv_stem"]  # 3x3, stride 2, on 64 x 64
    assert stem.macs == 32 * 32 * stem.outputs * 9 * stem.inputs
    assert stem.parameters == stem.outputs * 9 * stem.inputs
