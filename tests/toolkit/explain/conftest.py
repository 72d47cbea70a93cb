"""An untrained student of the squares, quantised, as a finished step in a run with its data beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from small import SPEC, TASKS, silent, squares

from foveola.toolkit.compress.lessons import write_taught
from foveola.toolkit.compress.quantise import quantise_student
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.explain.gather import explain_student
from foveola.toolkit.explain.record import Explained
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Shape
from foveola.toolkit.models.network import save_network
from foveola.toolkit.plan import RECORD, Identity, Record

TINY = Shape(backbone="test_efficientnet", input=SPEC, width=8)  # the exporter is quick with it
ASKED = tuple(task for task in TASKS if task.name in ("bright", "square", "things"))
DATA_DIGEST = "da" + 62 * "0"


class Run(msgspec.Struct, frozen=True, eq=False):
    """A run with its student in float and quantised."""

    runs: Path
    student: Path
    int8: Path
    cache: Path
    data: Dataset


def finish(folder: Path, stage: str, **knobs: object) -> None:
    """Write the record of a finished step."""
    identity = Identity(stage=stage, version=1, knobs=knobs, seed=0, uses={}, outside="", inputs={"data": DATA_DIGEST})
    record = Record(step=folder.name.partition("-")[0], digest=identity.digest, identity=identity, files={})
    (folder / RECORD).write_bytes(msgspec.json.encode(record))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("explain")
    root = runs / "tiny"
    student, int8, cache = root / "student-aaaa", root / "int8-bbbb", root / "cache"
    for folder in (student, int8, cache):
        folder.mkdir(parents=True)
    data = squares(root / f"data-{DATA_DIGEST[:12]}", ASKED)
    with torch.random.fork_rng():
        network = new_network("student", data, TINY, 0).train()
        for name, one in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(one, std=0.01)  # the exporter drops biases of zero
        pictures = prepare_arrays(data.subset("train"), TINY.input, cache=cache).images
        with torch.no_grad():
            for _ in range(5):
                network(torch.from_numpy(np.array(pictures)))  # statistics for the normalisation layers
    save_network(network.eval(), student)
    write_taught(student, "0" * 64)
    finish(student, "distill")
    quantise_student(
        student, data, split="calibration", images=2, min_images=2, method="minmax", opset=20, weight_bits=8,
        float_layers=("conv_2",), folder=int8, cache=cache, progress=silent,
    )  # fmt: skip
    finish(int8, "quantize", float_layers=["conv_2"])
    return Run(runs, student, int8, cache, data)


@pytest.fixture(scope="session")
def explained(tiny_run: Run) -> Explained:
    return explain_student(tiny_run.int8, "tiny", tiny_run.data, cache=tiny_run.cache, progress=silent)
