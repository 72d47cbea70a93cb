from __future__ import annotations

import pytest

from foveola.toolkit.recipe import parse_recipe
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.yaml12 import FaultsError

RECIPE = """
name: order
device: generic-x86
data: {stage: phantom}
tasks: {findings: {kind: multilabel, classes: [nodule], columns: [finding_nodule]}}
steps:
  teacher: {stage: train, backbone: resnet18, input: {height: 64, width: 64, channels: 1}}
  student: {stage: distill, teacher: teacher, backbone: resnet18, input: {height: 64, width: 64, channels: 1}}
  int8: {stage: quantize, of: student}
  warm: {stage: calibrate, of: int8}
  slim: {stage: prune, of: OF, teacher: teacher, speedup: 2}
  again: {stage: quantize, of: slim}
"""


@pytest.mark.parametrize("of", ["student", "teacher"])
def test_students_and_teachers_are_pruned_and_quantised_afterwards(of: str) -> None:
    assert parse_recipe(RECIPE.replace("OF", of).encode(), STAGES).steps[4].kind == "prune"


@pytest.mark.parametrize("of", ["int8", "warm"])
def test_pruning_after_quantisation_is_refused_with_the_reason(of: str) -> None:
    with pytest.raises(FaultsError, match="whose integers were chosen for the channels that pruning would take"):
        parse_recipe(RECIPE.replace("OF", of).encode(), STAGES)
