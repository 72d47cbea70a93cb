"""Which form of each engine ships, and why each of the others lost.

1. A form that the device cannot run, or that has lost a task's margin on the validation images, is out.
2. Of what is left the first by preference ships than which no other is faster by more than `TIE`: int8 that is slower
   than float never ships, and noise does not decide between equals.
3. Where none keeps its margins, the one that loses least ships; the proof will say what that is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import median

import msgspec

from ...devices.finding import Finding
from ...devices.profile import Profile
from ...devices.roofline import LayerWork
from ...runtime.manifest import Arithmetic, EngineName
from .candidates import Quantiser
from .timing import Timing

TIE = 0.05  # a form must be so much faster to be taken before a preferred one
SMALL_MACS = 1_000_000  # a layer below it takes about as long to start as to compute
# Rules of findings: there is no such form of this network, or its engine refuses it here.
UNWRITABLE, UNOPENED = "unwritable", "unopened"
WIDTH: dict[Arithmetic, int] = {"int8": 1, "float16": 2, "float32": 4}  # bytes of a number


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One form and all that was found out about it.

    Args:
        name: `openvino int8 nncf`.
        engine: that runs it.
        arithmetic: of its layers.
        quantiser: what made its integers.
        size_bytes: of its graph's files.
        timing: how long an answer takes.
        slack: of the worst task on the validation images, 1 none lost, 0 the whole margin; None where no engine here
            could answer.
        worst_task: that task.
        flips: decisions that differ from torch's, in 1,000; None where no engine here could answer.
        difference: largest difference to torch of any raw output.
        chosen: whether it ships.
        why: why it ships, or why it lost.
        causes: what makes it slow, as far as the graph and the profile tell.
        findings: of the device's rules.
    """

    name: str
    engine: EngineName
    arithmetic: Arithmetic
    quantiser: Quantiser
    size_bytes: int = 0
    timing: Timing = Timing()
    slack: float | None = None
    worst_task: str = ""
    flips: float | None = None
    difference: float | None = None
    chosen: bool = False
    why: str = ""
    causes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def refused(self) -> Finding | None:
        """The first rule of the device that it breaks."""
        return next((one for one in self.findings if one.severity == "error"), None)

    @property
    def keeps(self) -> bool:
        """Whether every task keeps its margin, as far as is known."""
        return self.slack is None or self.slack >= 0


def choose(variants: Sequence[Variant], *, by_time: bool = True) -> tuple[Variant, ...]:
    """Mark one form of each engine as chosen, and say of each why; see the rules above.

    Args:
        variants: in order of preference.
        by_time: False: the first by preference that keeps its margins, whatever the times.
    """
    chosen, pace = {}, {}
    for engine in dict.fromkeys(one.engine for one in variants):
        runnable = [one for one in variants if one.engine == engine and one.refused is None]
        if runnable:
            pace[engine] = min((one for one in runnable if one.keeps), key=_ms, default=None)
            chosen[engine] = _best(runnable, pace[engine], by_time=by_time)
    return tuple(_judged(one, chosen.get(one.engine), pace.get(one.engine), by_time=by_time) for one in variants)


def _best(variants: Sequence[Variant], fastest: Variant | None, *, by_time: bool) -> Variant:
    if fastest is None:
        return max(variants, key=lambda one: one.slack if one.slack is not None else 1.0)
    keeping = [one for one in variants if one.keeps]
    if not by_time or keeping[0].timing.ms is None:
        return keeping[0]
    return next(one for one in keeping if not _slower(one, fastest))


def _ms(one: Variant) -> float:
    """Its time; beyond all others where it is not known."""
    return inf if one.timing.ms is None else one.timing.ms


def _slower(one: Variant, other: Variant) -> bool:
    """Whether another is faster by more than noise."""
    return _ms(other) < (1 - TIE) * _ms(one)


def _judged(one: Variant, winner: Variant | None, fastest: Variant | None, *, by_time: bool) -> Variant:
    if one.refused is not None:
        whose = {UNWRITABLE: "cannot be written", UNOPENED: "does not open here"}
        who = whose.get(one.refused.rule, "the device refuses it")
        return msgspec.structs.replace(one, why=f"{who}: {one.refused.fault}")
    assert winner is not None
    if one.name == winner.name:
        return msgspec.structs.replace(one, chosen=True, why=_why_chosen(one, by_time=by_time))
    return msgspec.structs.replace(one, why=_why_lost(one, winner, fastest or winner, by_time=by_time))


def _why_chosen(one: Variant, *, by_time: bool) -> str:
    if not one.keeps:
        return f"no form keeps its margins; this one loses least ({_lost(one)})"
    if not by_time:
        return "the first by preference that keeps its margins"
    return {
        "measured": "the fastest here that keeps its margins, or as fast as that and preferred",
        "predicted": "the fastest by the roofline that keeps its margins, or as fast as that and preferred",
        "unknown": "the first by preference; no time is known",
    }[one.timing.source]


def _why_lost(one: Variant, winner: Variant, fastest: Variant, *, by_time: bool) -> str:
    if not one.keeps:
        return _lost(one)
    if not by_time:
        return f"{winner.name} is preferred"
    if one.timing.ms is None or winner.timing.ms is None:
        return f"no time is known; {winner.name} is preferred"
    if _slower(one, fastest):
        rival = winner if _slower(one, winner) else fastest
        causes = f": {'; '.join(one.causes)}" if one.causes else ""
        return f"{_ms(one) / _ms(rival):.1f} times slower than {rival.name}{causes}"
    if WIDTH[winner.arithmetic] < WIDTH[one.arithmetic]:
        return f"as fast as {winner.name} within {100 * TIE:.0f} %, and larger"
    return f"as fast as {winner.name} within {100 * TIE:.0f} %, which is preferred"


def _lost(one: Variant) -> str:
    assert one.slack is not None
    return f"{one.worst_task} loses {1 - one.slack:.1f} times its margin on the validation images"


def causes(arithmetic: Arithmetic, layers: Sequence[LayerWork], device: Profile, conversions: int) -> tuple[str, ...]:
    """What makes a form of few bits slow on a device, as far as graph and profile tell.

    Args:
        arithmetic: of the form.
        layers: of its graph.
        device: the profile.
        conversions: pairs of quantiser and dequantiser that stand between float and integers.
    """
    if arithmetic == "float32":
        return ()
    dense = [layer for layer in layers if layer.channels != (0, 0)]
    multiple = device.export.channel_multiple
    odd = [layer for layer in dense if any(count % multiple for count in layer.channels)]
    found = []
    if arithmetic == "int8" and not device.cpu.int8_dot:
        kind = "VNNI" if device.cpu.architecture == "x86_64" else "dot product instruction"
        found.append(f"no {kind}: products of bytes are summed in 16 bits")
    if dense and len(odd) * 4 >= len(dense):
        found.append(f"channels not a multiple of {multiple} in {len(odd)} of {len(dense)} layers")
    macs = [layer.macs for layer in layers if layer.macs]
    if macs and median(macs) < SMALL_MACS:
        found.append(f"small layers (median {median(macs) / 1e6:.2f} million multiply-adds)")
    if arithmetic == "int8" and conversions > len(macs) // 4:
        found.append(f"{conversions} conversions between integers and float")
    return tuple(found)
