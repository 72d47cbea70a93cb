"""The layer at which two computations part: the one that differs, in few measurements, on graphs that branch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from foveola.export.bisect import (
    QUANTISERS,
    Growth,
    Parting,
    Step,
    first_parting,
    growth,
    points_of,
    sharpest,
    steps_of,
)
from foveola.export.compare import distance
from foveola.export.cut import CutGraph, CutOnnx, open_graph
from foveola.export.nncf_int8 import nncf_int8
from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import write_ir
from foveola.export.quantize import quantize_onnx
from foveola.runtime.engine import open_session
from foveola.runtime.manifest import EngineOptions, InputSpec, OnnxRuntimeOptions, OpenVinoOptions

ORT = OnnxRuntimeOptions(threads=1)
OPENVINO = OpenVinoOptions(threads=1)
SPEC = InputSpec(height=96, width=64, channels=1)


def step(output: str, *inputs: str, operator: str = "Conv") -> Step:
    return Step(node=f"node_{output}", operator=operator, module=f"module.{output}", output=output, inputs=inputs)


def computed(steps: Sequence[Step], faults: dict[str, float]) -> dict[str, float]:
    """A toy computation: each tensor is one more than the sum of its inputs, and more where there is a fault."""
    values = {"image": 1.0}
    for one in steps:
        values[one.output] = 1 + sum(values[name] for name in one.inputs) + faults.get(one.output, 0.0)
    return values


def measuring(steps: Sequence[Step], faults: dict[str, float], seen: list[str] | None = None) -> Callable[[str], float]:
    clean, broken = computed(steps, {}), computed(steps, faults)

    def measure(tensor: str) -> float:
        if seen is not None:
            seen.append(tensor)
        return distance(np.array(clean[tensor]), np.array(broken[tensor]))

    return measure


def random_network(random: np.random.Generator, size: int) -> list[Step]:
    """Layers in a row with short and long ways around, and dead ends."""
    names = ["image"]
    steps = []
    for index in range(size):
        recent = names[-4:]
        count = min(len(names), int(random.integers(1, 4)))
        inputs = {str(random.choice(recent if random.random() < 0.9 else names)) for _ in range(count)}
        steps.append(step(f"t{index}", *sorted(inputs)))
        names.append(f"t{index}")
    return steps


def above(steps: Sequence[Step], output: str) -> list[str]:
    makers = {one.output: one for one in steps}
    found: dict[str, None] = {}
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in found:
            found[name] = None
            waiting += makers[name].inputs
    return list(found)


@pytest.mark.parametrize("seed", range(40))
def test_on_any_network_the_one_faulty_layer_is_named(seed: int) -> None:
    random = np.random.default_rng(seed)
    steps = random_network(random, 60)
    output = steps[-1].output
    fault = str(random.choice(above(steps, output)))

    parting = first_parting(steps, output, measuring(steps, {fault: 1e6}), [s.output for s in steps], tolerance=1e-9)

    assert parting is not None
    assert (parting.tensor, parting.node, parting.module) == (fault, f"node_{fault}", f"module.{fault}")
    assert parting.before == 0 < parting.at
    assert parting.kind == "jump"


@pytest.mark.parametrize("seed", range(10))
def test_of_several_faults_one_is_named_whose_inputs_agree(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    steps = random_network(random, 60)
    output = steps[-1].output
    faults = {str(name): 1e6 for name in random.choice(above(steps, output), 3)}
    measure = measuring(steps, faults)

    parting = first_parting(steps, output, measure, [s.output for s in steps], tolerance=1e-9)

    assert parting is not None
    assert parting.tensor in faults
    made = next(s for s in steps if s.output == parting.tensor)
    assert all(name == "image" or measure(name) == 0 for name in made.inputs)


def test_a_row_of_a_thousand_layers_takes_a_dozen_measurements() -> None:
    names = ["image", *(f"t{i}" for i in range(1000))]
    steps = [step(after, before) for before, after in pairwise(names)]
    seen: list[str] = []

    parting = first_parting(steps, "t999", measuring(steps, {"t617": 1e6}, seen), names, tolerance=1e-9)

    assert parting is not None
    assert parting.tensor == "t617"
    assert len(seen) == len(set(seen)) == parting.measured <= 12


def test_a_fault_beside_a_residual_is_found_though_the_other_branch_agrees() -> None:
    steps = [step("a", "image"), step("b", "a"), step("c", "b"), step("d", "a"), step("sum", "c", "d", operator="Add")]

    parting = first_parting(steps, "sum", measuring(steps, {"b": 5.0}), ["a", "b", "c", "d", "sum"], tolerance=1e-9)

    assert parting is not None
    assert parting.tensor == "b"


def test_nan_parts_and_equal_nan_agrees() -> None:
    nan, one = np.array([np.nan, 1.0]), np.array([1.0, 1.0])

    assert distance(nan, nan) == 0
    assert distance(one, nan) == distance(nan, one) == math.inf
    assert distance(np.array([np.inf]), np.array([-np.inf])) == math.inf
    assert distance(np.array([np.inf, 1.0]), np.array([np.inf, 1.5])) == 0.5


def test_a_slow_growth_is_a_drift_and_no_jump() -> None:
    steps = [step("a", "image"), step("b", "a"), step("c", "b")]
    measure = {"a": 0.02, "b": 0.04, "c": 0.06}.__getitem__

    parting = first_parting(steps, "c", measure, ["a", "b", "c"], tolerance=0.03)

    assert parting is not None
    assert (parting.tensor, parting.kind, parting.before, parting.at) == ("b", "drift", 0.02, 0.04)


def test_where_the_output_agrees_nothing_is_named() -> None:
    steps = [step("a", "image"), step("b", "a")]

    assert first_parting(steps, "b", lambda _: 0.01, ["a", "b"], tolerance=0.01) is None


def test_inside_a_fused_segment_the_step_that_parts_by_itself_is_named_else_the_layer() -> None:
    steps = [step("conv", "image"), step("relu", "conv", operator="Relu")]
    points = points_of(steps, ["conv", "relu"], quantised=["relu"])

    alone = first_parting(
        steps, "relu", lambda _: 1.0, points, tolerance=0.1, bare={"conv": lambda: 0.0, "relu": lambda: 1.0}
    )
    only_fused = first_parting(
        steps, "relu", lambda _: 1.0, points, tolerance=0.1, bare={"conv": lambda: 0.0, "relu": lambda: 0.0}
    )

    assert points == {"relu"}
    assert alone is not None
    assert only_fused is not None
    assert (alone.node, alone.fused) == ("node_relu", False)
    assert (only_fused.node, only_fused.fused) == ("node_conv", True)


def test_growth_is_told_for_every_layer() -> None:
    steps = [step("a", "image"), step("b", "a"), step("c", "a"), step("d", "b", "c")]
    measure = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.1}.__getitem__

    lines = growth(steps, measure, ["a", "b", "c", "d"])

    assert [(one.step.output, one.before, one.at) for one in lines] == [
        ("a", 0, 0.1), ("b", 0.1, 0.2), ("c", 0.1, 0.3), ("d", 0.3, 0.1),
    ]  # fmt: skip


def test_equal_layers_are_no_jump_even_where_every_distance_counts() -> None:
    same, grown = (
        Growth(step=step(name, "image"), tensor=name, before=0.0, at=at) for name, at in (("a", 0), ("b", 1))
    )

    assert sharpest([same], 0.0) is None
    assert sharpest([same, grown], 0.0) == grown


# Real graphs on real engines.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers, one of them beside a residual; few, since every layer is measured."""
    import torch
    from torch import Tensor, nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU())
            self.body = nn.ModuleList(
                nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1)) for _ in range(3)
            )
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.stem((x - 0.5) / 0.25)
            for block in self.body:
                x = torch.relu(x + block(x))
            return {"findings": self.head(x.mean((2, 3)))}

    folder = tmp_path_factory.mktemp("small")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = Net().eval()
    export_onnx(network, SPEC, ["findings"], folder / "float.onnx", opset=20)
    random = np.random.default_rng(6)
    images = [random.random((1, 1, 96, 64), dtype=np.float32) for _ in range(4)]
    quantize_onnx(folder / "float.onnx", folder / "int8.onnx", images, min_images=4)
    return folder


@pytest.fixture(scope="module")
def small_float(small: Path) -> Path:
    return small / "float.onnx"


@pytest.fixture(scope="module")
def small_int8(small: Path) -> Path:
    return small / "int8.onnx"


def layers(path: Path) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm")]


def with_fault(path: Path, node: str, *, nan: bool = False) -> onnx.ModelProto:
    """The graph with one weight of one layer changed: in sign and tenfold, or to NaN."""
    model = onnx.load(path)
    layer = next(one for one in model.graph.node if one.name == node)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantise = next((one for one in model.graph.node if one.output[0] == layer.input[1]), None)
    tensor = constants[layer.input[1] if dequantise is None else dequantise.input[0]]
    values = numpy_helper.to_array(tensor).copy()
    place = np.unravel_index(np.argmax(np.abs(values.astype(np.float64))), values.shape)
    if values.dtype == np.int8:
        values[place] = -127 if values[place] > 0 else 127
    else:
        values[place] = np.nan if nan else -10 * values[place]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


class Between:
    """Two graphs on their engines, measured at their tensors."""

    def __init__(
        self,
        reference: tuple[EngineOptions, CutGraph],
        other: tuple[EngineOptions, CutGraph],
        inputs: Sequence[NDArray[np.float32]],
    ) -> None:
        self.sides, self.inputs = (reference, other), inputs
        ours, theirs = reference[1], other[1]
        self.common, self.quantised = ours.tensors & theirs.tensors, ours.quantised | theirs.quantised

    def measure(self, tensor: str) -> float:
        values = []
        for options, graph in self.sides:
            session = open_session(options, graph.cut(tensor))
            values.append(np.concatenate([next(iter(session.run(x).values())) for x in self.inputs]))
        return distance(*values)

    def locate(self, steps: Sequence[Step], tolerance: float) -> Parting | None:
        points = points_of(steps, self.common, self.quantised)
        return first_parting(steps, "findings", self.measure, points, tolerance=tolerance)

    def sharpest(self, steps: Sequence[Step], floor: float) -> Growth | None:
        return sharpest(growth(steps, self.measure, points_of(steps, self.common, self.quantised)), floor)


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(8)
    return [random.random((1, 1, 96, 64), dtype=np.float32) for _ in range(2)]


def ir_of(model: onnx.ModelProto, folder: Path) -> dict[str, bytes]:
    onnx.save(model, folder / "faulty.onnx")
    xml = folder / "openvino.xml"
    write_ir(folder / "faulty.onnx", xml)
    return {"openvino.xml": xml.read_bytes(), "openvino.bin": xml.with_suffix(".bin").read_bytes()}


@pytest.mark.parametrize("number", [0, 3, 6, -1])
def test_one_changed_weight_of_a_small_float_is_found_between_two_engines(
    small_float: Path, tmp_path: Path, pictures: list[NDArray[np.float32]], number: int
) -> None:
    node = layers(small_float)[number].name
    model = onnx.load(small_float)
    members = ir_of(with_fault(small_float, node), tmp_path)

    between = Between((ORT, CutOnnx(model)), (OPENVINO, open_graph(OPENVINO, members)), pictures)
    parting = between.locate(steps_of(model, {}), 1e-4)

    assert parting is not None
    assert (parting.node, parting.kind, parting.fused) == (node, "jump", False)
    assert parting.before < 1e-5


@pytest.mark.parametrize("number", [2, 5])
def test_one_changed_integer_of_an_int8_graph_is_found_under_the_rounding_of_two_engines(
    small_int8: Path, tmp_path: Path, pictures: list[NDArray[np.float32]], number: int
) -> None:
    node = layers(small_int8)[number].name
    model = onnx.load(small_int8)
    members = ir_of(with_fault(small_int8, node), tmp_path)

    between = Between((ORT, CutOnnx(model)), (OPENVINO, open_graph(OPENVINO, members)), pictures)
    found = between.sharpest(steps_of(model, {}), 0.025)

    assert found is not None
    assert found.step.node == node


def test_the_rounding_of_two_engines_alone_is_no_jump(
    small_int8: Path, tmp_path: Path, pictures: list[NDArray[np.float32]]
) -> None:
    model = onnx.load(small_int8)

    between = Between((ORT, CutOnnx(model)), (OPENVINO, open_graph(OPENVINO, ir_of(model, tmp_path))), pictures)

    assert between.sharpest(steps_of(model, {}), 0.025) is None


def test_a_weight_that_is_nan_is_found(small_float: Path, tmp_path: Path, pictures: list[NDArray[np.float32]]) -> None:
    node = layers(small_float)[4].name
    model = onnx.load(small_float)
    broken = with_fault(small_float, node, nan=True)

    parting = Between((ORT, CutOnnx(model)), (ORT, CutOnnx(broken)), pictures).locate(steps_of(model, {}), 1e-4)

    assert parting is not None
    assert parting.node == node
    assert parting.at == math.inf


def test_a_cut_graph_is_valid_and_gives_what_the_whole_graph_computes_there(
    small_float: Path, pictures: list[NDArray[np.float32]]
) -> None:
    model = onnx.load(small_float)
    graph = CutOnnx(model)
    chosen = [node.output[0] for node in model.graph.node][::5]
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in chosen)
    expected = open_session(ORT, {"model.onnx": whole.SerializeToString()}).run(pictures[0])

    for name in chosen:
        members = graph.cut(name)
        onnx.checker.check_model(onnx.ModelProto.FromString(members["model.onnx"]), full_check=True)
        answer = open_session(ORT, members).run(pictures[0])
        assert list(answer) == [name]
        np.testing.assert_allclose(answer[name], expected[name], atol=1e-4)


def test_a_cut_int8_graph_ends_behind_the_quantiser_so_that_its_last_layer_is_computed_on_integers(
    small_int8: Path,
) -> None:
    graph = CutOnnx(onnx.load(small_int8))
    tensor = sorted(graph.quantised)[0]

    behind = onnx.ModelProto.FromString(graph.cut(tensor)["model.onnx"]).graph
    bare = onnx.ModelProto.FromString(graph.cut(tensor, bare=True)["model.onnx"]).graph

    assert [node.op_type for node in behind.node][-2:] == ["QuantizeLinear", "DequantizeLinear"]
    assert bare.node[-1].op_type not in QUANTISERS
    assert bare.output[0].name == tensor


def test_an_ir_that_nncf_quantised_is_cut_behind_its_own_quantisers(small: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    xml = tmp_path / "openvino.xml"
    nncf_int8(small / "float.onnx", xml, [random.random((1, 1, 96, 64), dtype=np.float32) for _ in range(4)])
    members = {"openvino.xml": xml.read_bytes(), "openvino.bin": xml.with_suffix(".bin").read_bytes()}
    model = onnx.load(small / "float.onnx")

    between = Between(
        (ORT, CutOnnx(model)),
        (OPENVINO, open_graph(OPENVINO, members)),
        [random.random((1, 1, 96, 64), dtype=np.float32)],
    )

    assert len(between.quantised) >= 7
    assert between.quantised <= between.common | {"image"}
    assert all(0 < between.measure(name) < 0.1 for name in sorted(between.quantised & between.common)[:3])


def test_the_steps_of_an_int8_graph_are_those_of_the_small_float(small_float: Path, small_int8: Path) -> None:
    clean, quantised = (steps_of(onnx.load(path), {}) for path in (small_float, small_int8))

    assert clean == quantised
