"""What an int8 graph has otherwise than rounding to the nearest would have it: biases and roundings, and their file.

`corrections.safetensors` holds `<layer>.bias` (float32) and `<layer>.up` (uint8, 1 where a weight is rounded up); its
metadata say for which rule of the weights the roundings were learned. `load_corrections` gives back what
`save_corrections` wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..runtime.errors import FoveolaError
from .integer_weights import Rule

CORRECTIONS = "corrections.safetensors"
BIAS, UP, RULE = ".bias", ".up", "rule"


class Corrections(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Corrections by the layer's name.

    Args:
        biases: the bias that a layer gets, quantised or not (see `bias_correction`).
        rounded_up: which of a layer's weights are rounded up, the others down (see `rounding`).
        rule: the rule of the weights for which both were found; by another they do not hold.
    """

    biases: Mapping[str, NDArray[np.float32]] = {}
    rounded_up: Mapping[str, NDArray[np.bool_]] = {}
    rule: Rule = "full"

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.biases or self.rounded_up)

    def under(self, rule: Rule) -> Corrections:
        """Those that hold where weights follow this rule: all or none."""
        return self if rule == self.rule else Corrections(rule=rule)


def save_corrections(corrections: Corrections, path: Path) -> None:
    """Write corrections; see the head of this file."""
    tensors: dict[str, NDArray[np.generic]] = {f"{name}{BIAS}": bias for name, bias in corrections.biases.items()}
    tensors |= {f"{name}{UP}": up.astype(np.uint8) for name, up in corrections.rounded_up.items()}
    plain = {name: np.ascontiguousarray(values) for name, values in sorted(tensors.items())}
    save_file(plain, path, {RULE: corrections.rule})


def load_corrections(path: Path) -> Corrections:
    """Read corrections; none where there is no file.

    Raises:
        FoveolaError: it is no such file.
    """
    if not path.exists():
        return Corrections()
    try:
        with safe_open(path, "numpy") as file:
            rule = msgspec.convert((file.metadata() or {}).get(RULE), type=Rule)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, msgspec.ValidationError, OSError) as error:
        raise FoveolaError(str(path), f"holds no corrections: {error}", "quantise the student anew") from None
    return Corrections(
        biases={name.removesuffix(BIAS): one for name, one in tensors.items() if name.endswith(BIAS)},
        rounded_up={name.removesuffix(UP): one.astype(np.bool_) for name, one in tensors.items() if name.endswith(UP)},
        rule=rule,
    )
