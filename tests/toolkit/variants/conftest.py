"""An untrained student of the squares, quantised once for a server, from which all forms are made."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from small import SPEC, TASKS, silent, squares

from foveola.toolkit.compress.lessons import write_taught
from foveola.toolkit.compress.quantise import quantise_student
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Shape
from foveola.toolkit.models.network import Network, load_network, save_network

TINY = Shape(backbone="test_efficientnet", input=SPEC, width=8)  # the exporter is quick with it
ASKED = tuple(task for task in TASKS if task.name in ("bright", "side", "square", "things"))


class Student(msgspec.Struct, frozen=True, eq=False):
    """A finished step `quantize` and what belongs to it."""

    folder: Path
    float_folder: Path  # the step before it
    network: Network
    data: Dataset
    val: Arrays
    cache: Path


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    root = tmp_path_factory.mktemp("forms")
    for name in ("student", "int8", "cache"):
        (root / name).mkdir()
    data = squares(root / "data", ASKED)
    with torch.random.fork_rng():
        network = new_network("student", data, TINY, 0).train()
        pictures = prepare_arrays(data.subset("train"), TINY.input, cache=root / "cache").images
        with torch.no_grad():
            for _ in range(5):
                network(torch.from_numpy(np.array(pictures)))  # statistics for the normalisation layers
    save_network(network.eval(), root / "student")
    write_taught(root / "student", "0" * 64)
    quantise_student(
        root / "student", data, split="calibration", images=2, min_images=2, method="minmax", opset=20,
        weight_bits=8, folder=root / "int8", cache=root / "cache", progress=silent,
    )  # fmt: skip
    val = prepare_arrays(data.subset("val"), TINY.input, cache=root / "cache")
    return Student(root / "int8", root / "student", load_network(root / "int8"), data, val, root / "cache")
