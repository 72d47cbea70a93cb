"""The face of the runtime: a signed bundle in, answers about images out; numpy, msgspec, Pillow and one engine.

    from foveola.runtime import open_predictor

    predictor = open_predictor(Path("chest.foveola"), key=Path("maker.pub"))
    prediction = predictor.predict(Path("chest.png"))

Names are loaded when they are first used, so that importing this package costs next to nothing and loads no engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmark.record import Bench
    from .benchmark.run import bench
    from .bundle import Bundle, open_bundle, read_unverified
    from .dicom.rule import SourceRule
    from .errors import ExitCode, FoveolaError, MissingPartError, NotVouchedError, UsageError
    from .image import Geometry, prepare, read_image
    from .manifest import InputSpec, Manifest, TaskOutput
    from .measure import Latency, latency
    from .predict import Predictor, open_predictor
    from .prediction import Box, Choice, Finding, Mask, Measurement, Prediction, prediction_json
    from .selftest import SelfTest, self_test
    from .source import Source, open_source
    from .task import Task

_HOMES = {
    "benchmark.record": ("Bench",),
    "benchmark.run": ("bench",),
    "bundle": ("Bundle", "open_bundle", "read_unverified"),
    "dicom.rule": ("SourceRule",),
    "errors": ("ExitCode", "FoveolaError", "MissingPartError", "NotVouchedError", "UsageError"),
    "image": ("Geometry", "prepare", "read_image"),
    "manifest": ("InputSpec", "Manifest", "TaskOutput"),
    "measure": ("Latency", "latency"),
    "predict": ("Predictor", "open_predictor"),
    "prediction": ("Box", "Choice", "Finding", "Mask", "Measurement", "Prediction", "prediction_json"),
    "selftest": ("SelfTest", "self_test"),
    "source": ("Source", "open_source"),
    "task": ("Task",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Bench",
    "Box",
    "Bundle",
    "Choice",
    "ExitCode",
    "Finding",
    "FoveolaError",
    "Geometry",
    "InputSpec",
    "Latency",
    "Manifest",
    "Mask",
    "Measurement",
    "MissingPartError",
    "NotVouchedError",
    "Prediction",
    "Predictor",
    "SelfTest",
    "Source",
    "SourceRule",
    "Task",
    "TaskOutput",
    "UsageError",
    "bench",
    "latency",
    "open_bundle",
    "open_predictor",
    "open_source",
    "prediction_json",
    "prepare",
    "read_image",
    "read_unverified",
    "self_test",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value  # the next look does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
