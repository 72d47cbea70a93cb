"""A protocol as commented YAML, for people to change before it is locked.

The law: `read_protocol` of `protocol_yaml(protocol)` is that protocol, and every field that a task of its kind can use
is there with a comment. Fields of other kinds (the tolerance of surfaces in a task of labels) are left out.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator

from ...runtime.task import Kind
from ..parity.metrics import METRICS, metrics_of
from ..parity.protocol import Biomarker, Protocol, Rule, TaskRules
from ..yaml12 import parse_scalar

WIDTH = 110
OLD = frozenset(
    ("y", "n", "yes", "no", "on", "off")
)  # truth values of YAML 1.1, which other readers still take them for
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:+-]*( [A-Za-z0-9_./+-]+)*")

HEAD = """\
What will be proved, by which margins, on which cases, before any answer of the student is seen.

Change what does not suit your product, and note why. Then lock it, and give it to every proof:

    foveola protocol lock FILE
    foveola parity BUNDLE --data MANIFEST --protocol FILE

A locked protocol that is changed is refused. Metrics and margins: docs/protocol.md."""

WORDS = {
    "format": "of this file",
    "name": "of the bundle that will be proved",
    "teacher": "digest of the teacher; empty allows any",
    "data.digest": "of the data set (`foveola data check` prints it); empty allows any, and the evidence says so",
    "data.split": "the part of it that the proof is made on; nothing may be trained, tuned or calibrated on it",
    "data.subgroups": "columns of the manifest whose values are screened, each with its own interval",
    "alpha": "one-sided error of each endpoint; 0.025 gives two-sided 95 % intervals",
    "power": "planned; `foveola protocol power` says how many cases it takes",
    "resamples": "of the bootstrap by patient",
    "seed": "of the bootstrap",
    "tasks": "A task that is not named is not proved, an endpoint that is not named is not measured. Of an endpoint:\n"
    "  margin   the loss that must be excluded, positive, in the metric's own units; null takes the usual one\n"
    "  primary  it counts for the verdict; all that do must pass\n"
    "  floor    what the student must be shown to reach by itself; null asks nothing",
    "biomarkers": "Numbers computed from a segmentation's masks, judged like measurements",
    "kind": "kind and classes must be the bundle's",
    "classes": "in its order",
    "critical": "classes whose lost positives have a bound of their own (endpoint critical_loss)",
    "operating_point": "the rule by which the thresholds are locked, for the reader",
    "tolerance": "distance within which two surfaces agree (nsd), in the unit of the spacing",
    "spacing": "millimetres a pixel; 0 measures in pixels",
    "false_positives": "an image, for sensitivity_at_fp",
    "biomarker.kind": "cardiothoracic_ratio or cup_disc_ratio",
    "task": "the segmentation",
    "inner": "its classes that make the heart, or the cup",
    "outer": "its classes that make the lungs, or the disc",
}
EXAMPLE = """\
biomarkers:
  ctr:
    kind: cardiothoracic_ratio
    task: TASK
    inner: [HEART]
    outer: [RIGHT_LUNG, LEFT_LUNG]
    endpoints:
      mae: {margin: 0.02}
      bias: {margin: 0.02}"""
OF_KIND: dict[Kind, tuple[str, ...]] = {
    "binary": ("critical", "operating_point"),
    "multilabel": ("critical", "operating_point"),
    "multiclass": ("critical",),
    "ordinal": ("critical",),
    "regression": (),
    "segmentation": ("tolerance", "spacing"),
    "detection": ("false_positives",),
    "embedding": (),
}


def protocol_yaml(protocol: Protocol) -> str:
    """Write a protocol as YAML, every field with a comment."""
    return "\n".join([*_comment(HEAD), *_lines(protocol)]) + "\n"


def _lines(protocol: Protocol) -> Iterator[str]:
    for name in ("format", "name", "teacher"):
        yield from _field(name, getattr(protocol, name), WORDS[name])
    yield from ("", "data:")
    for name in ("digest", "split", "subgroups"):
        yield from _field(name, getattr(protocol.data, name), WORDS[f"data.{name}"], "  ")
    yield ""
    for name in ("alpha", "power", "resamples", "seed"):
        yield from _field(name, getattr(protocol, name), WORDS[name])
    yield from ("", *_comment(WORDS["tasks"]), "tasks:")
    for task, rules in protocol.tasks.items():
        yield f"  {_scalar(task)}:"
        yield from _task(rules)
    if protocol.biomarkers:
        yield from ("", *_comment(WORDS["biomarkers"]), "biomarkers:")
        for name, marker in protocol.biomarkers.items():
            yield f"  {_scalar(name)}:"
            yield from _marker(marker)
    elif any(rules.kind == "segmentation" for rules in protocol.tasks.values()):
        yield from ("", *_comment(f"{WORDS['biomarkers']}, for example:"), *(f"# {x}" for x in EXAMPLE.splitlines()))


def _task(rules: TaskRules) -> Iterator[str]:
    inside = "    "
    if rules.kind is not None:
        yield from _field("kind", rules.kind, WORDS["kind"], inside)
        yield from _field("classes", rules.classes, WORDS["classes"], inside)
    yield from _endpoints(rules.endpoints)
    if rules.kind is not None:
        rest = [name for name in metrics_of(rules.kind) if name not in rules.endpoints]
        yield from _comment(f"not measured: {', '.join(rest)}" if rest else "", "      ")
    for name in ("critical", "operating_point", "tolerance", "spacing", "false_positives"):
        if rules.kind is None or name in OF_KIND[rules.kind] or _differs(rules, name):
            yield from _field(name, getattr(rules, name), WORDS[name], inside)


def _differs(rules: TaskRules, field: str) -> bool:
    return bool(getattr(rules, field) != getattr(TaskRules(endpoints={}), field))


def _marker(marker: Biomarker) -> Iterator[str]:
    inside = "    "
    yield from _field("kind", marker.kind, WORDS["biomarker.kind"], inside)
    for name in ("task", "inner", "outer"):
        yield from _field(name, getattr(marker, name), WORDS[name], inside)
    yield from _endpoints(marker.endpoints)


def _endpoints(endpoints: dict[str, Rule]) -> Iterator[str]:
    yield "    endpoints:"
    for metric, rule in endpoints.items():
        fields = ", ".join(f"{name}: {_scalar(getattr(rule, name))}" for name in ("margin", "primary", "floor"))
        about = METRICS[metric]
        usual = f"; usual margin {about.share:.0%} of the constant's error" if about.share is not None else ""
        yield from _field(metric, f"{{{fields}}}", f"{about.says}{usual}", "      ", ready=True)


# --- one line ---


def _field(name: str, value: object, about: str, inside: str = "", *, ready: bool = False) -> Iterator[str]:
    """Write a field with its comment behind it, or above it where the line would be too long."""
    line = f"{inside}{name}: {value if ready else _value(value)}"
    if len(line) + len(about) + 4 <= WIDTH:
        yield f"{line}  # {about}"
    else:
        yield from _comment(about, inside)
        yield line


def _comment(text: str, inside: str = "") -> Iterator[str]:
    for paragraph in text.splitlines():
        lines = [paragraph] if paragraph.startswith(" ") or not paragraph else textwrap.wrap(paragraph, WIDTH - 10)
        yield from (f"{inside}# {line}".rstrip() for line in lines)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_scalar(one) for one in value)}]"
    return _scalar(value)


def _scalar(value: object) -> str:
    """Write a scalar so that `yaml12` reads it back; a text that looks like a number is quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = PLAIN.fullmatch(value) and not value.endswith(":") and value.lower() not in OLD
    if plain and isinstance(_as_read(value), str):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _as_read(text: str) -> object:
    try:
        return parse_scalar(text)
    except ValueError:
        return None
