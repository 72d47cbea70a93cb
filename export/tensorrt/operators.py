"""Which ONNX operators and opsets TensorRT's parser takes, by line of releases.

Sources, read in November 2026:

- 11: `docs/operators.md` of onnx/onnx-tensorrt for 10.15 ("opset 9 to opset 24"), which 11 continues, and NVIDIA's
  "ONNX Opset Guide" (11.5 goes to opset 25); `Swish` came with 11.0 (its release notes, "Parsers").
- 10.3: the list for 8.5 with what `docs/Changelog.md` adds up to 10.3: LayerNormalization, GroupNormalization and IsInf
  (8.6), Hardmax (9.2), DeformConv (10.1). The list of 10.3 itself could not be had, so an operator that came without a
  word is missing here. Nor could its newest opset be read: 20 is the cautious one, below the 21 of the ONNX 1.16 of its
  time.

Only what can stand in a feed-forward network of fixed shape is listed: no control flow, sequences or random numbers.
"""

from __future__ import annotations

from typing import Literal

Line = Literal["10.3", "11"]
LINES: tuple[Line, ...] = ("10.3", "11")

OPSETS: dict[Line, tuple[int, int]] = {"10.3": (9, 20), "11": (9, 24)}  # oldest and newest

_SINCE_8_5 = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "AveragePool",
    "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu",
    "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gemm",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "IsNaN", "LRN", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "LogSoftmax", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "Min",
    "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal",
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "RoiAlign", "Round", "ScatterElements", "ScatterND",
    "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign",
    "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK",
    "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
})  # fmt: skip
_SINCE_10_3 = _SINCE_8_5 | {"DeformConv", "GroupNormalization", "Hardmax", "IsInf", "LayerNormalization"}

OPERATORS: dict[Line, frozenset[str]] = {
    "10.3": _SINCE_10_3,
    "11": _SINCE_10_3 | {"CastLike", "Gelu", "Mish", "RMSNormalization", "Swish"},
}

# TensorRT can run some of these, but their results have as many rows as the pixels say, or which branch runs does.
DATA_DEPENDENT = frozenset(
    {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "StringNormalizer", "Unique"}
)
