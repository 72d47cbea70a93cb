"""Train SePL's teacher: one network that answers simple factors first and complex ones by their help.

- Each measure is scaled on the train split alone, gaps are masked, patients stay in one split.
- Validation sees the pictures as they are; the epoch with the smallest sum of validation losses is kept.
- Beside what `train_teacher` writes: `sepl.json` and `sepl.html`, how the experts are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import nn

from ....runtime.errors import UsageError
from ....runtime.manifest import InputSpec
from ....runtime.task import Task
from ...answers import answer_images
from ...batches import Batch, TrainingData
from ...checkpoint import Objective
from ...course import Course, Report, Scores
from ...data.arrays import Arrays, prepare_arrays
from ...data.dataset import Dataset
from ...data.faults import did_you_mean
from ...finished import finish
from ...fit import fit
from ...knobs import Plan
from ...score import score_answers
from ...supervision import check_splits, labelled, preparing
from ...workers import leads
from ..continual import labelled_places
from ..start import start_backbone
from .objective import Propagating, factor_loss
from .priors import ClassesAs
from .scaler import Scaling, fit_scalers
from .teacher import KINDS, Prior, SeplPlan, SeplTeacher
from .usage import write_usage
from .views import one_of_four


class Sepl(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of SePL; see `SeplPlan` for those of the network.

    Args:
        simple: names of the factors that are predicted first.
        complex: names of those that are guided; empty means all others that are numbers or classes.
        experts: see `SeplPlan`.
        hidden: see `SeplPlan`.
        prior_hidden: see `SeplPlan`.
        prior: see `SeplPlan`.
        attention: see `SeplPlan`.
        sex_as: see `SeplPlan`.
        scaling: of the measures.
        clip_targets: largest scaled target, both ways, as the loss sees it; 0 leaves outliers as they are.
        prior_epochs: epochs at the start that train the simple factors alone.
        task_weights: `fixed`, those of the tasks, or `learned` beside them.
        keep: the epoch of the smallest validation `loss`, or of the best mean `score`.
        views: `one` of four (see `views.py`), or `affine`, as far as the plan's `augment` says.
    """

    simple: tuple[str, ...]
    complex: tuple[str, ...] = ()
    experts: int = 4
    hidden: int = 512
    prior_hidden: int = 12
    prior: Prior = "guide"
    attention: bool = True
    sex_as: ClassesAs = "logit"
    scaling: Scaling = "robust"
    clip_targets: float = 0.0
    prior_epochs: int = 0
    task_weights: Literal["fixed", "learned"] = "fixed"
    keep: Literal["loss", "score"] = "loss"
    views: Literal["one", "affine"] = "one"


def train_sepl(
    dataset: Dataset,
    backbone: str,
    spec: InputSpec,
    how: Sepl,
    plan: Plan,
    *,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    log: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> SeplTeacher:
    """Train on the reference standard of the train split; images without a target for any factor take no part.

    Args:
        dataset: with at least train and val cases.
        backbone: timm's name.
        spec: how the network is fed.
        how: the knobs of SePL.
        plan: the training.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        weights: a safetensors checkpoint of the backbone (timm's names) to start from.
        log: CSV of the curve.
        say: told in a line what was loaded, and what has an odd scale.

    Raises:
        FoveolaError: no training or validation cases, a factor that no train image has, a measure without scale, a loss
            that is not finite.
        UsageError: a factor that is not there, named twice, or no factor at all.
    """
    dataset = chosen_factors(dataset, how)
    check_splits(dataset)
    teacher = new_sepl(dataset, backbone, spec, how, seed, say)
    if weights is not None:
        started = start_backbone(teacher.backbone, weights, backbone)
        if say is not None:
            say(f"starts with {started}")
    train = dataset.subset("train")
    arrays = prepare_arrays(train, spec, cache=cache, progress=preparing(report))
    data = TrainingData(arrays, teacher.tasks, teacher.sepl.target_mean, teacher.sepl.target_std)
    course = SeplCourse(
        data,
        validation(dataset, spec, how, cache, report),
        plan,
        how,
        names=[sample.key for sample in arrays.samples],
    )
    course.places = labelled(train)
    objective = Propagating(teacher, clip=how.clip_targets, weights=how.task_weights)
    history = fit(objective, course, seed=seed, folder=folder, report=report, log=log)
    finish(teacher, dataset, history, folder, cache)
    if leads():
        write_usage(teacher, dataset, folder, cache)
    return teacher


def new_sepl(
    dataset: Dataset,
    backbone: str,
    spec: InputSpec,
    how: Sepl,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> SeplTeacher:
    """The teacher for a data set's factors, with scalers of its train split and random weights from the seed."""
    plan = plan_of(dataset, backbone, spec, how, say)
    torch.manual_seed(seed)
    return plan.build()


def plan_of(
    dataset: Dataset, backbone: str, spec: InputSpec, how: Sepl, say: Callable[[str], None] | None = None
) -> SeplPlan:
    """What is to be built for a data set's factors, with scalers of its train split.

    Args:
        dataset: its other tasks are left out.
        backbone: timm's name.
        spec: how the network is fed.
        how: the knobs of SePL.
        say: told what has an odd scale.

    Raises:
        FoveolaError: a factor that no train image has, a measure without scale.
        UsageError: see `chosen_factors`; knobs that do not go together.
    """
    dataset = chosen_factors(dataset, how)
    labelled_places(dataset)  # refuses a factor that nothing could teach, and that would guide the others all the same
    centres, ranges = fit_scalers(dataset, how.scaling, say)
    return SeplPlan(
        input=spec,
        tasks=dataset.tasks,
        target_mean=centres,
        target_std=ranges,
        backbone=backbone,
        simple=tuple(dataset.task(name) for name in how.simple),
        experts=how.experts,
        hidden=how.hidden,
        prior_hidden=how.prior_hidden,
        prior=how.prior,
        attention=how.attention,
        sex_as=how.sex_as,
    )


def chosen_factors(dataset: Dataset, how: Sepl) -> Dataset:
    """The data set with the factors alone, in its own order of the tasks.

    Raises:
        UsageError: a name that is not there or stands twice, a kind that no factor has, or no factor at all.
    """
    names = factor_names(dataset.tasks, how)
    return dataset.only([task.name for task in dataset.tasks if task.name in names], labelled=False)


def factor_names(tasks: Sequence[Task], how: Sepl) -> set[str]:
    """Names of all factors; see `chosen_factors`."""
    known = {task.name: task for task in tasks}
    for place in ("simple", "complex"):
        for name in getattr(how, place):
            if name not in known:
                raise UsageError(place, f"no task {name!r}", did_you_mean(name, known))
            if known[name].kind not in KINDS:
                raise UsageError(place, f"{name} is a {known[name].kind}", f"factors are {', '.join(KINDS)}")
    named = (*how.simple, *how.complex)
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UsageError("simple", f"{twice[0]!r} is named twice", "a factor is either simple or complex")
    others = how.complex or tuple(task.name for task in tasks if task.kind in KINDS and task.name not in how.simple)
    if not (how.simple or others):
        raise UsageError("simple", "no task is a factor", f"factors are {', '.join(KINDS)}")
    return {*how.simple, *others}


def check_plan(how: Sepl, plan: Plan) -> None:
    """Refuse a start on simple factors that would be all there is.

    Raises:
        UsageError: it is as long as the training, or as the patience that could end it.
    """
    least = min(plan.epochs, plan.patience or plan.epochs)
    if how.prior_epochs >= least:
        fault = f"{how.prior_epochs} epochs for the simple factors alone"
        raise UsageError("prior_epochs", fault, f"keep it below {least} (epochs and patience)")


class SeplCourse(Course):
    """Supervised training with SePL's views, and at first, where that is wanted, the simple factors alone."""

    def __init__(
        self,
        data: TrainingData,
        validate: Callable[[nn.Module], Scores],
        plan: Plan,
        how: Sepl,
        *,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(data, validate, plan, names=names)
        self.how = how

    def vary(self, batch: Batch, generator: torch.Generator, device: torch.device) -> Batch:
        """One of four views, or an affine one."""
        if self.how.views == "affine":
            return super().vary(batch, generator, device)
        return one_of_four(batch, generator, device)

    def begin(self, epoch: int, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        """Say which factors are trained, and whether this epoch's weights replace those kept before."""
        assert isinstance(objective, Propagating)
        objective.simple_only = epoch < self.how.prior_epochs
        # Complex factors are random until then, however good the sum: the first epoch of all factors takes its place.
        self.keeps_last = epoch <= self.how.prior_epochs


def validation(
    dataset: Dataset, spec: InputSpec, how: Sepl, cache: Path, report: Report
) -> Callable[[nn.Module], Scores]:
    """A function that scores a teacher on the labelled images of the validation split, as they are."""
    val = dataset.subset("val")
    arrays = prepare_arrays(val.take(labelled(val)), spec, cache=cache, progress=preparing(report))

    def validate(candidate: nn.Module) -> Scores:
        assert isinstance(candidate, SeplTeacher)
        return judge(candidate.eval(), arrays, how)

    return validate


def judge(teacher: SeplTeacher, arrays: Arrays, how: Sepl) -> Scores:
    """Scores by task as everywhere, and the sum of the losses, which by default decides.

    1 / (1 + loss) falls as the loss rises and is 1 for a perfect teacher, which is what a score has to be.
    """
    device = next(teacher.parameters()).device
    answers = answer_images(teacher, arrays.images, device=device)
    plan = teacher.sepl
    wanted = TrainingData(arrays, teacher.tasks, plan.target_mean, plan.target_std).scalars
    losses = {
        task.name: float(
            factor_loss(task, torch.from_numpy(answers.raw[task.name]), wanted[task.name], how.clip_targets)
        )
        for task in teacher.tasks
    }
    scores = score_answers(teacher.tasks, answers, arrays, teacher.target_scale)
    loss = sum(task.weight * losses[task.name] for task in teacher.tasks)
    total = scores.total if how.keep == "score" else 1 / (1 + loss)
    return Scores(total, scores.by_task, {"validation loss": loss})
