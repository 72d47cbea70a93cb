"""The whole story of the forms: list them, write them, hold them against torch, time them, choose one for each engine.

made = make_variants(of, network, dataset, val, device, engines=("openvino",), ...)
made.variants  # every form with its size, time, slack, flips, and why it ships or lost
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from ...devices.doctor import at_hand, examine
from ...devices.profile import Profile
from ...devices.rules import refusal
from ...export.nncf_int8 import Slack
from ...runtime.engine import Session
from ...runtime.manifest import Arithmetic, Calibration, EngineName, EngineOptions, InputType, TaskOutput
from ..answers import RawAnswers, answer_images
from ..data.arrays import Arrays
from ..data.dataset import Dataset
from ..models.network import Network
from .candidates import Candidate, candidates
from .form import Form, judge_form, open_form, torch_raw, write_form
from .pick import Variant, choose
from .slack import Run, ask, slacks, worst
from .sources import NOT_CALIBRATED, find_sources
from .timing import Timing, foresee, measure
from .write import Sources

Pick = Literal["auto", "measure", "roofline", "first"]
Nncf = Literal["off", "on", "accuracy"]
Progress = Callable[[float, float, str], None]


class Made(msgspec.Struct, frozen=True, eq=False):
    """What was chosen, and the account of the choice."""

    options: tuple[EngineOptions, ...]  # of the forms that ship, in the order of their engines
    members: dict[str, bytes]
    sessions: dict[EngineName, Session]  # of those that can run here
    answers: dict[EngineName, RawAnswers]  # theirs to the validation images
    variants: tuple[Variant, ...]
    calibration: Calibration


def make_variants(
    of: Path,
    network: Network,
    dataset: Dataset,
    val: Arrays,
    device: Profile,
    *,
    engines: Sequence[EngineName],
    precisions: Sequence[Arithmetic] = (),
    nncf: Nncf = "on",
    weight_only: bool = False,
    pick: Pick = "auto",
    input_type: InputType = "float32",
    compare: int = 32,
    features: bool = False,
    outputs: Callable[[RawAnswers], tuple[TaskOutput, ...]],
    cache: Path,
    progress: Progress,
) -> Made:
    """Write every form that the device can run and choose one for each engine.

    Args:
        of: folder of a quantised student, or of one in float.
        network: that student.
        dataset: its calibration images are NNCF's and TensorRT's too.
        val: validation images, on which forms are judged.
        device: the profile.
        engines: which of its engines; none: all.
        precisions: which of their precisions; none: all.
        nncf: whether NNCF's int8 is a candidate on OpenVINO, and whether under accuracy control.
        weight_only: whether float32 with weights as bytes is a candidate.
        pick: by times measured here, by the roofline, `auto` (measured where this machine is such a device), or the
            first by preference.
        input_type: of the graphs; `uint16` takes a detector's words.
        compare: images on which differences and flips are counted.
        features: whether the graphs get the student's features as a second output.
        outputs: gives the tasks' outputs with thresholds locked on some answers.
        cache: where decoded images are kept.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: the device refuses every form of an engine, or there is nothing to write.
    """
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        folder = Path(scratch)
        sources, calibration = find_sources(
            of, network, dataset, device, folder, cache, input_type=input_type, features=features
        )
        listed = candidates(
            device,
            engines,
            precisions=precisions,
            quantised=sources.int8_graph is not None,
            nncf=nncf != "off",
            weight_only=weight_only,
        )
        total = 2 * len(listed) + 2
        progress(0, total, "torch answers the validation images")
        reference = answer_images(network, val.images)
        control = _control(network, reference, val) if nncf == "accuracy" else None
        here = pick == "measure" or (pick == "auto" and at_hand(examine(), device))
        forms = []
        for number, candidate in enumerate(listed):
            progress(1 + number, total, f"writing {candidate.name}")
            forms.append(write_form(candidate, sources, folder, control, device, here=here))
        _refuse_if_none(forms, device)
        locked = outputs(reference)
        pairs = torch_raw(network, val, compare)
        judged = []
        for number, form in enumerate(forms):
            progress(1 + len(listed) + number, total, f"asking {form.candidate.name}")
            open_form(form, network, val, here=here)
            judged.append(partial(judge_form, form, network, reference, locked, val, pairs, device))
        _refuse_if_none(forms, device)  # once more, now that their engines have seen them
        unasked = _unasked(device, listed, sources, folder)
        _time(forms, val, device, here=here, progress=partial(_timing_progress, progress, total))
        variants = choose([judge() for judge in judged], by_time=pick != "first")
    return _made(forms, variants, unasked, calibration)


def _unasked(device: Profile, listed: Sequence[Candidate], sources: Sources, folder: Path) -> tuple[Variant, ...]:
    """Hold the student against TensorRT's rules where the device has it and the bundle leaves it out."""
    if device.engine("tensorrt") is None or any(one.engine == "tensorrt" for one in listed):
        return ()
    if sources.input_type != "float32":
        return ()
    quantised = sources.int8_graph is not None
    first = candidates(device, ("tensorrt",), quantised=quantised, nncf=False)[0]
    form = write_form(first, sources, folder, None, device, here=False)
    error = next((one for one in form.findings if one.severity == "error"), None)
    verdict = f"and the device would refuse it: {error.fault}" if error else "and it passes TensorRT's static rules"
    return (
        Variant(
            name=first.name,
            engine=first.engine,
            arithmetic=first.arithmetic,
            quantiser=first.quantiser,
            size_bytes=sum(map(len, form.members.values())),
            why=f"not asked for, {verdict}",
            findings=form.findings,
        ),
    )


def _timing_progress(progress: Progress, total: int, done: int, rounds: int) -> None:
    progress(total - 1 + done / rounds, total, f"timing the forms in turn, round {done} of {rounds}")


def _refuse_if_none(forms: Sequence[Form], device: Profile) -> None:
    """One line where the device refuses all that an engine could run."""
    for engine in dict.fromkeys(form.candidate.engine for form in forms):
        errors = [
            [one for one in form.findings if one.severity == "error"]
            for form in forms
            if form.candidate.engine == engine
        ]
        if all(errors):
            raise refusal(f"{device.id}: {errors[0][0].place}", errors[0])


def _time(
    forms: Sequence[Form], val: Arrays, device: Profile, *, here: bool, progress: Callable[[int, int], None]
) -> None:
    """Time what can be timed here, if this machine counts; predict the rest. No measured time meets a predicted one."""
    own = {form.candidate.name: form for form in forms if form.session is not None and form.candidate.target == "cpu"}
    measured: dict[str, Timing] = {}
    if here and own:
        sessions = {name: form.session for name, form in own.items() if form.session is not None}
        measured = measure(sessions, np.array(val.images[:1]), progress=progress)
    timed = {own[name].candidate.engine for name in measured}
    for form in forms:
        if form.candidate.name in measured:
            form.timing = measured[form.candidate.name]
        elif form.candidate.engine not in timed:
            form.timing = foresee(form.candidate, form.layers, device)


def _control(network: Network, reference: RawAnswers, val: Arrays) -> Slack:
    """The worst task's slack of whatever can be asked."""

    def slack(run: Run) -> float:
        return worst(slacks(network, reference, ask(run, network, val.images), val))[1]

    return slack


def _made(
    forms: Sequence[Form], variants: tuple[Variant, ...], unasked: tuple[Variant, ...], calibration: Calibration
) -> Made:
    chosen = [form for form, variant in zip(forms, variants, strict=True) if variant.chosen]
    members: dict[str, bytes] = {}
    for form in chosen:
        members |= form.members
    return Made(
        options=tuple(form.candidate.options for form in chosen),
        members=members,
        sessions={form.candidate.engine: form.session for form in chosen if form.session is not None},
        answers={form.candidate.engine: form.answers for form in chosen if form.answers is not None},
        variants=(*variants, *unasked),
        calibration=calibration if any(form.candidate.arithmetic == "int8" for form in chosen) else NOT_CALIBRATED,
    )
