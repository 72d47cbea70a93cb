"""The stage that fits temperatures again after quantisation; see `table.py`."""

from __future__ import annotations

from typing import Literal

from ..stage import Stage
from ..work import Work
from .data import dataset_of


class Calibrate(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fit the temperature of each task's probabilities on the quantised graph; `export` puts them into the bundle.

    Args:
        of: the step of the quantised student.
        split: the images; never those of training or of the proof.
        tasks: by name; empty takes all that have probabilities.
    """

    INPUTS = ("of",)
    ACCEPTS = {"of": ("quantize",)}  # noqa: RUF012
    USES = frozenset({"tasks"})

    of: str
    split: Literal["val", "calibration"] = "val"
    tasks: tuple[str, ...] = ()

    def check_ahead(self, work: Work) -> None:
        """The tasks have probabilities, and enough images a target; training and proof use none of these images."""
        from ..temperature import choose_tasks, fitting_set

        dataset = dataset_of(work)
        fitting_set(dataset, self.split, choose_tasks(dataset.tasks, self.tasks))

    def run(self, work: Work) -> None:
        """Write the student's files again, and `temperature.json`."""
        from ..temperature import calibrate_student

        calibrate_student(
            work.inputs["of"],
            dataset_of(work),
            split=self.split,
            tasks=self.tasks,
            folder=work.folder,
            cache=work.cache,
            progress=work.progress,
        )
