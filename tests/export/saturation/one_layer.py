"""One int8 layer as an ONNX graph, and a program that runs such graphs; the program also runs under an emulator.

    python one_layer.py onnxruntime|openvino FOLDER

answers each `NAME.onnx` of the folder about `NAME.image.npy` into `NAME.answer.npy`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 12


def write_layer(
    path: Path,
    weight: NDArray[np.int8],
    image: NDArray[np.uint8],
    output_scale: float,
    *,
    group: int = 1,
    zero: int = 0,
    unsigned: bool = False,
) -> None:
    """Write a graph and its image; scales are 1, so that the answer is the integer sum over `output_scale`.

    Args:
        path: of the graph.
        weight: (N, C, kernel, kernel), or (N, K) for a matrix product.
        image: (1, C, side, side) or (1, K), as bytes.
        output_scale: steps of the output; it is quantised about 128.
        group: of the convolution.
        zero: zero point of the image.
        unsigned: store the weights as unsigned bytes about 128.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    one = np.float32(1)
    stored: NDArray[Any] = (weight.astype(np.int16) + 128).astype(np.uint8) if unsigned else weight
    arrays: dict[str, NDArray[Any]] = {
        "one": np.asarray(one),
        "zero": np.asarray(zero, np.uint8),
        "w": stored,
        "w.scale": np.ones(len(weight), np.float32),
        "w.zero": np.full(len(weight), 128 if unsigned else 0, stored.dtype),
        "out.scale": np.asarray(output_scale, np.float32),
        "out.zero": np.asarray(128, np.uint8),
    }
    pads: dict[str, Any] = {"pads": [weight.shape[2] // 2] * 4, "group": group} if weight.ndim == 4 else {"transB": 1}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "one", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["wd"], name="wd", axis=0),
        helper.make_node("Conv" if weight.ndim == 4 else "Gemm", ["d", "wd"], ["c"], name="layer", **pads),
        helper.make_node("QuantizeLinear", ["c", "out.scale", "out.zero"], ["oq"], name="oq"),
        helper.make_node("DequantizeLinear", ["oq", "out.scale", "out.zero"], ["out"], name="out"),
    ]
    value = helper.make_tensor_value_info
    answer = [1, len(weight), *image.shape[2:]]
    graph = helper.make_graph(
        nodes,
        "one layer",
        [value("image", TensorProto.FLOAT, image.shape)],
        [value("out", TensorProto.FLOAT, answer)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    np.save(path.with_suffix(".image.npy"), image.astype(np.float32) - zero)


def answer(engine: str, path: Path) -> NDArray[np.float32]:
    """Run a graph on its image, on one thread."""
    image = np.load(path.with_suffix(".image.npy"))
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session: Any = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"image": image})[0])
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return np.asarray(next(iter(compiled({"image": image}).values())))


if __name__ == "__main__":
    for graph in sorted(Path(sys.argv[2]).glob("*.onnx")):
        np.save(graph.with_suffix(".answer.npy"), answer(sys.argv[1], graph))
