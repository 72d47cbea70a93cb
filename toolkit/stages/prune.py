"""The stage that prunes a student or a teacher's network; see `table.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...devices.profile import Profile
from ...runtime.errors import UsageError
from ...runtime.manifest import EngineName
from ..knobs import Above, Count
from ..work import Work
from ..workers import leads
from .data import dataset_of
from .network import NETWORKS, TEACHERS, LessonStage, check_teachable

PRUNABLE = ("distill", "prune", "rehearse", *NETWORKS)  # those of `qat` are trained for the integers of their channels


class Prune(LessonStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Take whole channels away until a target is met on the exported graph, and let the network recover.

    Exactly one of `speedup`, `latency_ms` and `ratio` is given. The first two are met within a tenth of what is
    measured, or refused with the nearest that can be had; a measured time can fall otherwise on another machine, and
    `time: roofline` makes the step a function of the recipe alone.

    Args:
        of: the step of the student, or of a teacher's network; never a quantised one.
        teacher: the step whose answers guide the recovery, for a pruned teacher the unpruned one; empty: the reference
            standard alone.
        speedup: times faster than before, for the exported graph.
        latency_ms: milliseconds an image of the exported graph.
        ratio: share of the channels that go; nothing is timed.
        importance: channels are ranked by the `magnitude` of their weights, or by what the loss would lose without
            them, to first (`taylor`) or second order (`hessian`).
        scope: groups of like layers are ranked together (`isomorphic`), all groups (`global`), or none (`uniform`).
        rounds: pruning and recovery are repeated so often on the way to the target.
        epochs: of each recovery; 0 for none.
        channel_multiple: widths are multiples of it; 0 takes that of the device's profile.
        norm_images: training images on which batch normalisation is estimated anew; 0 keeps its statistics.
        gradient_images: training images for `taylor` and `hessian`.
        keep: modules that are left alone, by their paths in the network.
        arithmetic: of the graph that is timed.
        engine: that times it; empty: the device's first that has the arithmetic.
        time: measured here (`measure`), by the device's `roofline`, or measured where this machine is such a device and
            else by the roofline (`auto`).
    """

    INPUTS = ("of", "teacher")
    ACCEPTS = {"of": PRUNABLE, "teacher": TEACHERS}  # noqa: RUF012 - msgspec leaves class variables alone
    USES = frozenset({"tasks", "device"})

    of: str
    teacher: str = ""
    speedup: Annotated[float, Meta(gt=1)] | None = None
    latency_ms: Above | None = None
    ratio: Annotated[float, Meta(gt=0, lt=1)] | None = None
    importance: Literal["magnitude", "taylor", "hessian"] = "magnitude"
    scope: Literal["isomorphic", "global", "uniform"] = "isomorphic"
    rounds: Count = 1
    epochs: Annotated[int, Meta(ge=0)] = 10
    learning_rate: Above = 5e-4
    channel_multiple: Annotated[int, Meta(ge=0)] = 0
    norm_images: Annotated[int, Meta(ge=0)] = 256
    gradient_images: Count = 64
    keep: tuple[str, ...] = ()
    arithmetic: Literal["int8", "float16", "float32"] = "int8"
    engine: EngineName | Literal[""] = ""
    time: Literal["auto", "measure", "roofline"] = "auto"

    def goal(self) -> tuple[Literal["speedup", "latency_ms", "ratio"], float]:
        """The one target that is given.

        Raises:
            UsageError: none is given, or more than one.
        """
        given = {"speedup": self.speedup, "latency_ms": self.latency_ms, "ratio": self.ratio}
        found = [(name, value) for name, value in given.items() if value is not None]
        if len(found) != 1:
            told = "no target is given" if not found else f"{' and '.join(name for name, _ in found)} are both given"
            raise UsageError("prune", told, "give exactly one of speedup, latency_ms and ratio")
        name, value = found[0]
        return name, value  # type: ignore[return-value]

    def check_ahead(self, work: Work) -> None:
        """One target, cases to train on, and a form of the network that can be timed."""
        from ..supervision import check_splits

        dataset = dataset_of(work)
        check_splits(dataset)
        if not self.teacher and (self.epochs or self.importance != "magnitude"):
            check_teachable(dataset.tasks, work.step)
        self.check_clock(work.device)

    def check_clock(self, device: Profile) -> None:
        """There is one target, and the device has what is timed by.

        Raises:
            FoveolaError: it has no such engine or arithmetic, or nothing to predict a time from.
        """
        from ..compress.prune.meter import choose_clock, require_time

        if self.goal()[0] != "ratio":
            require_time(choose_clock(device, self.arithmetic, self.engine, self.time), device)

    def run(self, work: Work) -> None:
        """Prune and recover, round by round; resumes at the last round and epoch."""
        from ..compress.go_on import Guide
        from ..compress.lessons import TAUGHT, cached_answers, write_taught
        from ..compress.prune.meter import choose_clock
        from ..compress.prune.record import Target
        from ..compress.prune.rounds import Rule, prune_network
        from ..teachers.load import read_input, read_scale

        dataset, (goal, value) = dataset_of(work), self.goal()
        guide = None
        if self.teacher and self.epochs:
            folder = work.inputs["teacher"]
            train = dataset.subset("train")
            guide = Guide(
                answers=cached_answers(folder, work.digests["teacher"], train, work.cache, work.progress),
                input=read_input(folder),
                scale=read_scale(folder),
                lessons=self.lessons(),
            )
        prune_network(
            work.inputs["of"],
            dataset,
            Target(goal, value),
            Rule(
                importance=self.importance,
                scope=self.scope,
                multiple=self.channel_multiple or work.device.export.channel_multiple,
                rounds=self.rounds,
                norm_images=self.norm_images,
                gradient_images=self.gradient_images,
                keep=self.keep,
            ),
            clock=None if goal == "ratio" else choose_clock(work.device, self.arithmetic, self.engine, self.time),
            device=work.device,
            plan=self.plan() if self.epochs else None,
            guide=guide,
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            say=work.log,
            log=work.log_file,
        )
        if not leads():
            return
        own = work.inputs["of"] / TAUGHT
        if guide is not None:
            write_taught(work.folder, work.digests["teacher"])
        elif own.exists():
            (work.folder / TAUGHT).write_bytes(own.read_bytes())
