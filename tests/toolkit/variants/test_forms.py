"""Every form is written, held against torch and told of; what ships is what the bundle holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from small import silent

from foveola.devices.profile import Profile, load_profile
from foveola.devices.roofline import predict
from foveola.export.graph_facts import layer_work
from foveola.runtime.engine import is_installed, open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import TaskOutput
from foveola.toolkit.answers import RawAnswers, answer_images
from foveola.toolkit.models.outputs import task_outputs
from foveola.toolkit.score import lock_thresholds
from foveola.toolkit.variants import form, make, timing, write
from foveola.toolkit.variants.candidates import candidates
from foveola.toolkit.variants.make import Made, make_variants
from foveola.toolkit.variants.pick import Variant
from foveola.toolkit.variants.slack import ask, slacks, worst
from foveola.toolkit.variants.sources import find_sources

from .conftest import Student


def locked(student: Student) -> Callable[[RawAnswers], tuple[TaskOutput, ...]]:
    network = student.network
    return lambda answers: task_outputs(network, lock_thresholds(network.tasks, answers, student.val))


def made(student: Student, device: str | Profile, *, of: Path | None = None, **knobs: Any) -> Made:
    profile = load_profile(device) if isinstance(device, str) else device
    return make_variants(
        of or student.folder, student.network, student.data, student.val, profile,
        **{"engines": (), "pick": "roofline", "compare": 4, **knobs},
        outputs=locked(student), cache=student.cache, progress=silent,
    )  # fmt: skip


@pytest.fixture(scope="module")
def on_server(student: Student) -> Made:
    """All forms, timed here whatever this machine is."""
    return made(student, "generic-x86", pick="measure")


def named(found: Made, name: str) -> Variant:
    return next(one for one in found.variants if one.name == name)


def test_every_form_of_the_device_is_told_of_and_one_of_each_engine_ships(on_server: Made) -> None:
    assert [one.name for one in on_server.variants] == [
        "openvino int8", "openvino int8 nncf", "openvino float32", "onnxruntime int8", "onnxruntime float32",
    ]  # fmt: skip
    chosen = [one for one in on_server.variants if one.chosen]
    assert [one.engine for one in chosen] == ["openvino", "onnxruntime"]
    assert all(one.why for one in on_server.variants)
    assert {name for options in on_server.options for name in options.files} == set(on_server.members)
    assert [len(on_server.members[options.files[0]]) > 1000 for options in on_server.options] == [True, True]


def test_the_float_forms_answer_as_torch_and_lose_nothing(on_server: Made) -> None:
    for name in ("openvino float32", "onnxruntime float32"):
        one = named(on_server, name)
        assert one.slack is not None
        assert one.slack > 0.99
        assert one.difference is not None
        assert one.difference < 1e-3


def test_integers_differ_from_torch_and_that_is_counted(on_server: Made) -> None:
    for engine in ("openvino", "onnxruntime"):
        whole, small = named(on_server, f"{engine} float32"), named(on_server, f"{engine} int8")
        assert whole.difference is not None
        assert small.difference is not None
        assert small.difference > 10 * whole.difference


def test_one_engine_s_times_are_all_measured_or_all_predicted(
    student: Student, on_server: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "at_hand", lambda *_: False)

    elsewhere = made(student, "intel-n100", pick="auto", nncf="off")

    assert {one.timing.source for one in on_server.variants} == {"measured"}
    assert {one.timing.source for one in elsewhere.variants} == {"predicted"}
    assert all("measured" not in one.why and "here" not in one.why for one in elsewhere.variants)


def test_a_measured_time_is_never_held_against_a_predicted_one(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenVINO is not here: its forms have no measured time, and are judged among themselves alone.
    from foveola.toolkit.variants import form

    monkeypatch.setattr(form, "is_installed", lambda name: name != "openvino" and is_installed(name))
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)

    found = made(student, "intel-n100", pick="measure", nncf="off")

    sources = {one.name: one.timing.source for one in found.variants}
    assert {source for name, source in sources.items() if name.startswith("onnx")} == {"measured"}
    assert {source for name, source in sources.items() if name.startswith("openvino")} == {"predicted"}
    assert named(found, "openvino int8").slack is None
    assert list(found.sessions) == ["onnxruntime"]


def test_a_predicted_time_is_the_roofline_of_the_form_s_own_graph(student: Student) -> None:
    device = load_profile("intel-n100")

    found = made(student, device, nncf="off", engines=("onnxruntime",))

    for name, path in (("int8", "model.onnx"), ("float32", "float.onnx")):
        wanted = predict(layer_work(student.folder / path), device)
        assert wanted is not None
        assert named(found, f"onnxruntime {name}").timing.ms == pytest.approx(wanted.ms)


def test_int8_that_was_measured_slower_does_not_ship(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_integers(sessions: Any, *_: Any, **__: Any) -> dict[str, timing.Timing]:
        return {name: timing.Timing(ms=3.0 if "int8" in name else 1.0, source="measured") for name in sessions}

    monkeypatch.setattr(make, "measure", slow_integers)

    found = made(student, "generic-x86", pick="measure", nncf="off")

    assert [one.name for one in found.variants if one.chosen] == ["openvino float32", "onnxruntime float32"]
    assert "3.0 times slower" in named(found, "openvino int8").why
    assert found.calibration.method == "none"


def test_a_form_that_loses_a_margin_does_not_ship_though_it_is_the_fastest(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveola.toolkit.variants import form

    left = iter([-0.5, 0.9, -2.0, 0.0])  # of the forms, in their order
    monkeypatch.setattr(form, "slacks", lambda *_: {"bright": 1.0, "square": next(left)})

    found = made(student, "generic-x86", nncf="off", pick="first")

    assert [(one.slack, one.chosen) for one in found.variants] == [(-0.5, False), (0.9, True), (-2, False), (0, True)]
    assert named(found, "openvino int8").why == "square loses 1.5 times its margin on the validation images"
    assert {options.arithmetic for options in found.options} == {"float32"}
    assert found.calibration.method == "none"


def test_slack_is_one_without_loss_and_nought_at_the_margin(student: Student) -> None:
    from foveola.toolkit.parity.metrics import margin_of
    from foveola.toolkit.variants import slack as tested

    reference = answer_images(student.network, student.val.images)

    same = slacks(student.network, reference, reference, student.val)
    assert set(same.values()) == {1.0}
    assert worst(same)[1] == 1.0
    assert worst({}) == ("", 1.0)

    task = next(one for one in student.network.tasks if one.kind == "segmentation")
    scores = iter([0.9, 0.9 - margin_of(task.metric, task.margins)])

    class Scores:
        def __init__(self, value: float) -> None:
            self.by_task = {task.name: value}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tested, "score_answers", lambda *_: Scores(next(scores)))
        assert slacks(student.network, reference, reference, student.val)[task.name] == pytest.approx(0, abs=1e-9)


def test_asked_one_by_one_torch_answers_as_in_a_batch(student: Student) -> None:
    graph = student.network

    def run(x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {name: raw.numpy() for name, raw in graph(torch.from_numpy(x.copy())).items()}

    one_by_one, batch = ask(run, graph, student.val.images), answer_images(graph, student.val.images)

    assert one_by_one.raw.keys() == batch.raw.keys()
    for name, value in batch.raw.items():
        np.testing.assert_allclose(one_by_one.raw[name], value, atol=1e-4)
    assert [len(boxes) for boxes in one_by_one.boxes["things"]] == [len(boxes) for boxes in batch.boxes["things"]]


def npu(**unit: Any) -> Profile:
    """A device whose portable graph must suit an NPU of few operators."""
    plain = msgspec.to_builtins(load_profile("kria-k26"))
    plain["accelerators"] = [one | {"falls_back": False, **unit} for one in plain["accelerators"]]
    return msgspec.convert(plain, Profile)


def test_an_operator_that_the_device_lacks_is_refused_with_the_module_that_it_comes_from(student: Student) -> None:
    # SiLU is a Sigmoid and a Mul in ONNX; this NPU has everything but the first.
    device = npu(operators=(), activations=("Relu", "Clip"))

    with pytest.raises(FoveolaError, match="operator Sigmoid of ") as refusal:
        made(student, device, pick="first")

    line = str(refusal.value)
    assert "\n" not in line
    assert "the DPU of kria-k26 does not have it; build the student from its activations: Relu, Clip" in line
    place = line.partition("operator Sigmoid of ")[2].partition(":")[0]
    modules = dict(student.network.named_modules())
    named = place.partition(" and ")[0].split(", ")
    assert len(named) == 3
    assert {type(modules[one]).__name__ for one in named if one in modules} == {"SiLU"}, place


def test_a_form_that_cannot_be_written_loses_with_its_reason_and_the_others_ship(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise FoveolaError("quantize", "no layer can be quantised: each is the last of a head", "use a deeper network")

    monkeypatch.setattr(write, "nncf_int8", refuse)

    found = made(student, "generic-x86", pick="first")

    assert named(found, "openvino int8 nncf").why.startswith("cannot be written: no layer can be quantised")
    assert named(found, "openvino int8").chosen
    assert msgspec.json.decode(msgspec.json.encode(found.variants), type=tuple[Variant, ...]) == found.variants


def test_a_form_that_its_engine_refuses_here_loses_with_its_reason(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(options: Any, members: Any) -> Any:
        if getattr(options, "quantiser", "") == "nncf":
            raise FoveolaError("openvino", "the session runs otherwise than it was validated", "update it")
        return open_session(options, members)

    monkeypatch.setattr(form, "open_session", refuse)

    found = made(student, "generic-x86", pick="measure")

    assert named(found, "openvino int8 nncf").why.startswith("does not open here: the session runs otherwise")
    assert {one.engine for one in found.variants if one.chosen} == {"openvino", "onnxruntime"}


def test_a_device_with_tensorrt_is_told_what_it_would_say_of_a_bundle_without(student: Student) -> None:
    found = made(student, "jetson-orin-nano-8gb", engines=("onnxruntime",))

    assert named(found, "tensorrt int8").why == "not asked for, and it passes TensorRT's static rules"
    assert {one.engine for one in found.variants if one.chosen} == {"onnxruntime"}
    assert "tensorrt.onnx" not in found.members


def test_where_no_form_of_an_engine_can_be_written_that_is_the_refusal(student: Student, tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match=r"tensorrt.*TensorRT knows no 16-bit integers") as refusal:
        made(student, "jetson-orin-nano-8gb", input_type="uint16")

    assert "\n" not in str(refusal.value)


def test_without_the_calibration_images_no_form_is_blamed(student: Student) -> None:
    lost = student.data.take([i for i, one in enumerate(student.data.samples) if one.split != "calibration"])
    without = msgspec.structs.replace(student, data=lost)

    with pytest.raises(FoveolaError, match="are not among its data"):
        made(without, "generic-x86")


@pytest.mark.parametrize(
    ("device", "tensor"), [("generic-x86", "float32"), ("generic-x86", "uint16"), ("jetson-orin-nano-8gb", "float32")]
)
def test_every_graph_passes_the_checker_with_no_unused_import_and_static_shapes(
    student: Student, tmp_path: Path, device: str, tensor: Literal["float32", "uint16"]
) -> None:
    profile = load_profile(device)
    sources, _ = find_sources(
        student.folder, student.network, student.data, profile, tmp_path, student.cache, input_type=tensor
    )
    graphs: dict[str, bytes] = {}
    for one in candidates(profile, (), quantised=True, nncf=False):
        (tmp_path / one.name).mkdir()
        members = write.write_variant(one, sources, tmp_path / one.name)
        graphs |= {f"{one.name} {name}": data for name, data in members.items() if name.endswith(".onnx")}

    assert len(graphs) >= 2
    for name, data in graphs.items():
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        assert {entry.domain for entry in model.opset_import} == {node.domain for node in model.graph.node}, name
        for value in (*model.graph.input, *model.graph.output):
            assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim), name
        # The exporter's own names change with its releases.
        assert not [node.name for node in model.graph.node if node.name.startswith("node_")], name
