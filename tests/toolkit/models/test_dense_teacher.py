"""The dense form of a teacher: the same boxes as torchvision's, on every engine, from a graph of static shapes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torchvision.ops.poolers import initLevelMapper

from foveola.export.compare import Raw, compare_engines
from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import write_ir
from foveola.export.placement import place
from foveola.export.tensorrt.rules import require_tensorrt
from foveola.runtime.answer import boxes_of
from foveola.runtime.box_map import comparable, comparable_outputs
from foveola.runtime.bundle import write_bundle
from foveola.runtime.engine import Session, open_session
from foveola.runtime.errors import UsageError
from foveola.runtime.image import prepare
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    Provenance,
    encode_manifest,
)
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import GOLDEN, make_golden, self_test
from foveola.runtime.task import Task
from foveola.toolkit.models.dense_teacher import DenseTeacher, _area_bounds, as_graph, dense_names
from foveola.toolkit.models.network import Architecture, Network
from foveola.toolkit.models.teacher_heads import FasterRcnnHead

TASKS = (
    Task(name="signs", kind="multilabel", classes=("a", "b")),
    Task(name="lungs", kind="segmentation", classes=("right", "left")),
    Task(name="things", kind="detection", classes=("a", "b", "c")),
)
THINGS = TASKS[2]
# Shapes or branches that follow from the picture have no place in the graph.
DATA_DEPENDENT = {"NonZero", "NonMaxSuppression", "If", "Loop", "Scan", "Compress", "Unique", "Shape", "Range"}


def teacher(height: int = 96, width: int = 128, output_stride: int = 32, *, canonical: int = 32) -> Network:
    """A teacher with random weights whose heads speak up, and whose boxes are pooled on all levels."""
    torch.manual_seed(1)
    spec = InputSpec(height=height, width=width, channels=1)
    plan = {"backbone": "resnet10t", "input": spec, "tasks": TASKS, "width": 16, "output_stride": output_stride}
    network = Network(Architecture(role="teacher", **plan)).eval()  # type: ignore[arg-type]
    head = detector(network)
    head.roi.box_roi_pool.canonical_scale = canonical
    predictor: Any = head.roi.box_predictor
    rpn: Any = head.rpn.head
    for layer, gain in ((rpn.cls_logits, 60), (rpn.bbox_pred, 20), (predictor.cls_score, 8), (predictor.bbox_pred, 8)):
        layer.weight.data.mul_(gain)
    return network


def detector(network: Network) -> FasterRcnnHead:
    head = network.heads["things"]
    assert isinstance(head, FasterRcnnHead)
    return head


def images(network: Network, count: int = 3) -> list[torch.Tensor]:
    spec = network.input
    drawn = torch.Generator().manual_seed(5)
    return [torch.rand(1, spec.channels, spec.height, spec.width, generator=drawn) for _ in range(count)]


def torchvision_boxes(network: Network, x: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return np.asarray(network.answer(x).boxes["things"][0])


@pytest.mark.parametrize(
    ("height", "width", "output_stride"), [(96, 128, 32), (96, 128, 16), (64, 96, 8), (100, 150, 32), (250, 130, 32)]
)
def test_dense_tensors_decode_to_torchvision_s_boxes(height: int, width: int, output_stride: int) -> None:
    network = teacher(height, width, output_stride)
    dense = DenseTeacher(network)
    output = dense.output_of(THINGS)

    for x in images(network):
        with torch.inference_mode():
            raw = {name: value.numpy() for name, value in dense(x).items()}
        found, wanted = boxes_of(output, raw, network.input), torchvision_boxes(network, x)

        assert len(found) > 3
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, DenseTeacher, Path]:
    network = teacher()
    dense, path = DenseTeacher(network), tmp_path_factory.mktemp("dense") / "model.onnx"
    export_onnx(dense, network.input, dense.names, path, opset=18)
    return network, dense, path


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_tensorrt_s_static_check_takes_the_graph_whatever_levels_there_are(output_stride: int, tmp_path: Path) -> None:
    network = teacher(64, 96, output_stride)
    dense, path = DenseTeacher(network), tmp_path / "model.onnx"

    export_onnx(dense, network.input, dense.names, path, opset=19)

    require_tensorrt(path)


def sessions(path: Path) -> dict[str, Session]:
    write_ir(path, path.with_suffix(".xml"))
    graph, weights = path.with_suffix(".xml").read_bytes(), path.with_suffix(".bin").read_bytes()
    return {
        "onnxruntime": open_session(OnnxRuntimeOptions(arithmetic="float32"), {"model.onnx": path.read_bytes()}),
        "openvino": open_session(
            OpenVinoOptions(arithmetic="float32"), {"openvino.xml": graph, "openvino.bin": weights}
        ),
    }


def test_both_engines_give_torchvision_s_boxes_and_every_other_answer(
    exported: tuple[Network, DenseTeacher, Path],
) -> None:
    network, dense, path = exported
    output = dense.output_of(THINGS)

    for engine, session in sessions(path).items():
        assert session.outputs == dense.names
        for x in images(network):
            raw = session.run(x.numpy())
            with torch.inference_mode():
                plain = network(x)

            wanted = torchvision_boxes(network, x)
            assert len(wanted) > 3
            np.testing.assert_allclose(boxes_of(output, raw, network.input), wanted, atol=1e-4, err_msg=engine)
            for name, value in plain.items():
                np.testing.assert_allclose(raw[name], value.numpy(), atol=1e-4, err_msg=f"{engine} {name}")


def test_the_example_pools_on_every_level(exported: tuple[Network, DenseTeacher, Path]) -> None:
    network, dense, _ = exported
    with torch.inference_mode():
        proposals = dense(images(network, 1)[0])["things.proposals"][0]

    sides = (proposals[:, 2:] - proposals[:, :2]).prod(1).sqrt().clamp(min=1e-3)
    levels = torch.floor(4 + torch.log2(sides / 32) + 1e-6).clamp(2, 5)

    assert set(levels.tolist()) == {2.0, 3.0, 4.0, 5.0}


def test_no_shape_of_the_graph_follows_from_the_picture(exported: tuple[Network, DenseTeacher, Path]) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported[2]), strict_mode=True, data_prop=True).graph

    kinds = [node.op_type for node in graph.node]
    assert not DATA_DEPENDENT & set(kinds)
    assert (kinds.count("TopK"), kinds.count("RoiAlign")) == (5, 4)
    sizes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info}
    assert sizes
    assert all(side > 0 for shape in sizes.values() for side in shape)


def test_the_same_teacher_gives_the_same_bytes(exported: tuple[Network, DenseTeacher, Path], tmp_path: Path) -> None:
    _, _, path = exported
    network = teacher()

    export_onnx(as_graph(network), network.input, DenseTeacher(network).names, tmp_path / "again.onnx", opset=18)

    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("after_layers", [True, False])
def test_selection_and_pooling_of_boxes_stay_float_in_int8(
    exported: tuple[Network, DenseTeacher, Path], after_layers: bool
) -> None:
    graph = onnx.load(exported[2]).graph
    maker = {name: node for node in graph.node for name in node.output}

    plan = place(graph, after_layers=after_layers)

    kinds = {maker[name].op_type for name in plan.tensors if name in maker}
    floats = [name.partition("_")[0] for name in plan.float_layers]
    regions = {name for node in graph.node if node.op_type == "RoiAlign" for name in node.input[1:]}
    assert (floats.count("gemm"), floats.count("conv")) == (3, 11)  # signs, classes, offsets; the mask, two a level
    assert not kinds & {"TopK", "Gather", "RoiAlign", "ReduceProd", "Exp", "Sub", "Clip", "Slice"}
    assert not ancestors(graph, regions, until=plan.layers | set(plan.float_layers)) & set(plan.tensors)


def ancestors(graph: onnx.GraphProto, names: set[str], until: frozenset[str]) -> set[str]:
    """Tensors from which others are made, back to the outputs of some nodes."""
    found: set[str] = set()
    for node in reversed(graph.node):
        if node.name not in until and set(node.output) & (names | found):
            found |= set(node.input)
    return found | names


@pytest.mark.parametrize(("scales", "canonical"), [((2, 3, 4, 5), 224), ((2, 3, 4, 4), 224), ((2, 3, 3, 3), 60)])
def test_the_level_of_a_proposal_is_torchvision_s(scales: tuple[int, ...], canonical: int) -> None:
    exact = torch.tensor([canonical * 2.0**k for k in range(-6, 4)])
    sides = torch.cat((exact, torch.logspace(-2, 3.3, 5000)))
    boxes = torch.stack((0 * sides, 0 * sides, sides, sides), 1)

    bounds = _area_bounds([2.0**-k for k in scales], canonical, 4)
    levels = sum((boxes[:, 2] * boxes[:, 3] >= bound).long() for bound in bounds[1:])

    mapper = initLevelMapper(scales[0], scales[-1], canonical_scale=canonical)
    assert torch.equal(torch.as_tensor(levels), mapper([boxes]))


def test_the_manifest_tells_torchvision_s_numbers() -> None:
    network = teacher()
    head = detector(network)

    output = DenseTeacher(network).output_of(THINGS, (0.1, 0.2, 0.3))

    assert output.proposals is not None
    assert (
        output.tensors
        == dense_names(THINGS)
        == tuple(f"things.{part}" for part in ("proposals", "objectness", "classes", "deltas"))
    )
    assert output.thresholds == (0.1, 0.2, 0.3)
    assert output.proposals.levels == (300, 300, 144, 36, 12)  # 300 each, or all anchors of a small level
    assert (output.proposals.kept, output.proposals.nms_iou) == (head.rpn.post_nms_top_n(), head.rpn.nms_thresh)
    assert (output.max_boxes, output.nms_iou, output.score_floor) == (50, 0.5, 0.05)
    assert msgspec.json.decode(msgspec.json.encode(output), type=type(output)) == output


def test_a_student_has_no_dense_form_and_is_its_own_graph() -> None:
    spec = InputSpec(height=64, width=64, channels=1)
    plan = {"backbone": "mobilenetv4_conv_small_035", "input": spec, "tasks": TASKS, "width": 16}
    student = Network(Architecture(role="student", **plan))  # type: ignore[arg-type]

    assert as_graph(student) is student
    with pytest.raises(UsageError, match="the network is a student"):
        DenseTeacher(student)


def test_engines_are_compared_by_boxes_and_not_by_rows(exported: tuple[Network, DenseTeacher, Path]) -> None:
    network, dense, path = exported
    outputs = (dense.output_of(THINGS),)
    session = sessions(path)["openvino"]

    def pairs() -> Iterator[tuple[Raw, Raw]]:
        for x in images(network):
            with torch.inference_mode():
                reference = {name: value.numpy() for name, value in dense(x).items()}
            got = session.run(x.numpy())
            yield comparable(outputs, reference, network.input), comparable(outputs, got, network.input)

    (difference,) = compare_engines("openvino", pairs(), comparable_outputs(outputs)).outputs

    assert difference.tensor == "things.map"
    assert difference.largest < 1e-3
    assert (difference.decisions, difference.flips) == (3 * 3 * 12 * 16, 0)


def test_a_bundle_of_a_teacher_answers_and_passes_its_self_test(
    exported: tuple[Network, DenseTeacher, Path], tmp_path: Path
) -> None:
    network, dense, path = exported
    drawn = np.random.default_rng(0).integers(0, 256, (192, 256), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(drawn).save(stream, "PNG")
    manifest = Manifest(
        format=FORMAT,
        name="teacher",
        version="1",
        device="generic-x86",
        input=network.input,
        outputs=(dense.output_of(THINGS),),
        engines=(OnnxRuntimeOptions(arithmetic="float32"),),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )
    members = {"manifest.json": encode_manifest(manifest), "model.onnx": path.read_bytes()}
    predictor = Predictor(write_bundle(tmp_path / "core.foveola", members))
    members[GOLDEN] = make_golden([predictor], [stream.getvalue()])

    bundle = write_bundle(tmp_path / "teacher.foveola", members)
    boxes = Predictor(bundle).predict(stream.getvalue()).boxes
    report = self_test(bundle)

    wanted = torchvision_boxes(network, torch.from_numpy(prepare(Image.fromarray(drawn), network.input)[0])[None])
    assert [box.score for box in boxes] == pytest.approx(wanted[:, 4].tolist(), abs=1e-4)
    assert [box.x2 for box in boxes] == pytest.approx(
        (2 * wanted[:, 2]).tolist(), abs=1e-3
    )  # the image is twice as large
    assert report.ok, report.faults
    assert [drift.tensor for drift in report.drifts] == ["things.map"]
