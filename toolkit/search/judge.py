"""How much of its margins a candidate has left against the TEACHER, on the validation images: the worst task decides.

The proof asks the same on other images. Both are scored as their own preprocessing shows them the images; the scores
are those of `score.py`, the scale that of `variants.slack`: 1 as good as the teacher, 0 the whole margin lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from ...runtime.manifest import InputSpec
from ..answers import RawAnswers
from ..data.arrays import Arrays, prepare_arrays
from ..data.dataset import Dataset
from ..finished import teacher_answers
from ..json_files import write_json
from ..models.network import Network
from ..score import score_answers
from ..stage import digest_of
from ..supervision import labelled
from ..teachers.load import load_teacher, read_scale
from ..variants.slack import slack_of


class Reference:
    """The teacher's scores on the labelled validation images, and the images.

    Args:
        dataset: holds the split.
        teacher: folder of the teacher's step.
        digest: its identity, by which the scores are kept.
        cache: where scores and decoded images are kept.
    """

    def __init__(self, dataset: Dataset, teacher: Path, digest: str, cache: Path) -> None:
        val = dataset.subset("val")
        self.dataset, self.cache = val.take(labelled(val)), cache
        no_images = np.zeros((0, 1, 1, 1), np.float32)
        self.targets = Arrays(
            images=no_images, scalars=dict(self.dataset.scalars), masks={}, boxes={}, geometries=(), samples=()
        )
        name = digest_of([digest, dataset.digest, msgspec.to_builtins(dataset.tasks)])[:24]
        kept = cache / f"validated-{name}.json"
        if not kept.exists():
            write_json(kept, self._ask(teacher))
        self.scores = msgspec.json.decode(kept.read_bytes(), type=dict[str, float])

    def _ask(self, folder: Path) -> dict[str, float]:
        teacher = load_teacher(folder)
        answers = teacher_answers(teacher, self.dataset, cache=self.cache, hint=False)
        return score_answers(teacher.tasks, answers, self.arrays(teacher.input), read_scale(folder)).by_task

    def arrays(self, spec: InputSpec) -> Arrays:
        """The images and targets as a network sees them."""
        return prepare_arrays(self.dataset, spec, cache=self.cache)

    def slacks(self, network: Network, answers: RawAnswers, val: Arrays) -> dict[str, float]:
        """Slack of each task that the teacher answers too."""
        scores = score_answers(network.tasks, answers, val, network.target_scale).by_task
        return self.slacks_of(scores)

    def slacks_of(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The same from scores that are there, as a training's history has them."""
        return slack_of(self.dataset.tasks, self.scores, scores, self.targets)
