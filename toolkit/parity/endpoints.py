"""Which endpoints a kind of task has, and who measures them.

| kind | endpoints | method |
|---|---|---|
| binary | auc, sensitivity, specificity; brier, logloss, critical_loss | `label_endpoints.py` |
| multilabel | the macro means of these; each for every label | the same |
| multiclass | accuracy; brier, logloss, critical_loss | `class_endpoints.py` |
| ordinal | kappa, quadratic weights; critical_loss | the same |
| regression | mae, bias of each measure | `regression_endpoints.py` |
| segmentation | dice, nsd, hd95, means over classes; each for every class | `mask_endpoints.py` |
| embedding | pair_percentile, recall_at_1; probe_auc, the mean over conditions and each | `embedding_endpoints.py` |
| detection | map50, sensitivity_at_fp, froc, means over classes; each for every class | `box_endpoints.py` |

Only what the rules name is measured. No width of zero is believed, see `proportion.py` and `tilted.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from ...runtime.task import Kind
from .box_endpoints import measure_boxes
from .class_endpoints import measure_accuracy, measure_kappa
from .embedding_endpoints import measure_embeddings
from .label_endpoints import measure_labels
from .mask_endpoints import measure_masks
from .measured import Measured, Setting
from .pairing import Pair
from .regression_endpoints import measure_values

Measure = Callable[[Pair, Setting], tuple[list[Measured], list[str]]]
MEASURES: dict[Kind, Measure] = {
    "binary": measure_labels,
    "multilabel": measure_labels,
    "multiclass": measure_accuracy,
    "ordinal": measure_kappa,
    "regression": measure_values,
    "segmentation": measure_masks,
    "detection": measure_boxes,
    "embedding": measure_embeddings,
}


def measure(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Measure all endpoints of one task on one engine, and notes for the reader."""
    every, notes = MEASURES[pair.task.kind](pair, setting)
    measured = [one for one in every if one.metric in setting.rules.endpoints]
    if pair.missing.any():
        notes.append(
            f"{pair.task.name}: {int(pair.missing.sum())} answers of the student are missing; each counts as the worst"
        )
    if pair.left_out:
        notes.append(f"{pair.task.name}: {pair.left_out} answers are left out because the teacher gave none")
    return measured, notes
