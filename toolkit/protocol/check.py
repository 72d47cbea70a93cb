"""What makes a protocol wrong though each of its fields reads well.

- Against what it says of itself, every fault at its line (`check_head`, `check_task`, `check_marker`, `check_whole`):
  it can be locked where neither bundle nor student exists.
- Against the bundle (`check_fit`) and the cases (`check_subgroups`): all faults in one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...runtime.errors import UsageError
from ...runtime.task import Kind, Task
from ..data.faults import did_you_mean
from ..parity.bands import MOST_VALUES, is_age, too_many_values
from ..parity.metrics import METRICS, metrics_of
from ..parity.protocol import FORMAT, Biomarker, CaseRules, Protocol, Rule, TaskRules, check_protocol, task_of
from ..recipe_reader import Reader
from ..yaml12 import Path

SHA256 = re.compile("[0-9a-f]{64}")
UNBOUNDED = frozenset(("mae", "bias", "hd95", "logloss"))  # metrics whose differences are not shares of one
NOT_MEASURED = "an endpoint that is not named is not measured"


def check_head(reader: Reader, number: int, teacher: str, data: CaseRules) -> None:
    """Check format, digests and subgroups."""
    if number != FORMAT:
        reader.fault(("format",), f"format {number} is unknown", f"this Foveola reads format {FORMAT}")
    for path, digest in ((("teacher",), teacher), (("data", "digest"), data.digest)):
        if digest and not SHA256.fullmatch(digest):
            fault = f"{digest!r} is no digest (64 hexadecimal digits)"
            reader.fault(path, fault, "leave it empty to allow any")
    for name in sorted({name for name in data.subgroups if data.subgroups.count(name) > 1}):
        reader.fault(("data", "subgroups"), f"{name!r} stands twice", "name it once")


def check_task(reader: Reader, name: str, rules: TaskRules) -> None:
    """Check one task's rules."""
    path = ("tasks", name)
    if rules.kind is None:
        reader.fault(path, "field 'kind' is missing", "for example kind: multilabel, as the recipe has it")
        return
    if not rules.endpoints:
        reader.fault((*path, "endpoints"), "there are none", f"{NOT_MEASURED}; name one or leave the task out")
    for metric, rule in rules.endpoints.items():
        _check_endpoint(reader, (*path, "endpoints", metric), rules.kind, rule)
    for label in rules.critical:
        if label not in rules.classes:
            fault = f"no class {label!r} in the task"
            reader.fault((*path, "critical"), fault, did_you_mean(label, rules.classes))
    if rules.kind == "embedding" and "probe_auc" in rules.endpoints and not rules.classes:
        fault = "the embedding has no classes that a probe could read"
        reader.fault((*path, "endpoints", "probe_auc"), fault, "name the conditions under classes, in the recipe too")
    if "critical_loss" in rules.endpoints and not rules.critical:
        fault = "no class is critical"
        reader.fault((*path, "endpoints", "critical_loss"), fault, "name the classes under critical")
    try:
        task_of(name, rules)
    except UsageError as error:
        reader.fault(path, error.fault, error.mend)


def check_marker(reader: Reader, name: str, marker: Biomarker, rules: dict[str, TaskRules]) -> None:
    """Check one biomarker against the tasks that stand beside it."""
    path = ("biomarkers", name)
    if name in rules:
        reader.fault(path, "a task has this name", "choose another")
    if not name.isidentifier():
        reader.fault(path, "the name is not made of letters, digits and underscores")
    for metric, rule in marker.endpoints.items():
        where = (*path, "endpoints", metric)
        if rule.margin is None and metric in metrics_of("regression"):
            reader.fault(where, "a biomarker's endpoint needs a margin", "as a ratio, for example margin: 0.02")
        _check_endpoint(reader, where, "regression", rule)
    task = rules.get(marker.task)
    if task is None or task.kind not in ("segmentation", None):
        fits = [one for one, other in rules.items() if other.kind == "segmentation"]
        reader.fault(
            (*path, "task"), f"no segmentation {marker.task!r} in the protocol", did_you_mean(marker.task, fits)
        )
        return
    for field, labels in (("inner", marker.inner), ("outer", marker.outer)):
        if not labels:
            reader.fault((*path, field), "there are no classes", f"name some of {marker.task}")
        for label in labels:
            if label not in task.classes:
                mend = did_you_mean(label, task.classes)
                reader.fault((*path, field), f"no class {label!r} in {marker.task}", mend)


def check_whole(reader: Reader, tasks: dict[str, TaskRules], markers: dict[str, Biomarker]) -> None:
    """Something must count, or no proof could ever pass."""
    rules = [rule for rules in tasks.values() for rule in rules.endpoints.values()]
    rules += [rule for marker in markers.values() for rule in marker.endpoints.values()]
    if rules and not any(rule.primary for rule in rules):
        reader.fault(
            ("tasks",), "no endpoint is primary, so nothing could be proved", "set primary: true where it counts"
        )


def _check_endpoint(reader: Reader, path: Path, kind: Kind, rule: Rule) -> None:
    metric = path[-1]
    known = metrics_of(kind)
    if metric not in known:
        fault = f"{kind} has no metric {metric!r}" if metric in METRICS else f"no metric {metric!r}"
        reader.fault(path, fault, did_you_mean(metric, known))
        return
    if rule.margin is None:
        return
    if not rule.margin > 0:
        fault = f"{rule.margin:g} is not positive"
        reader.fault((*path, "margin"), fault, "a margin is the loss that is tolerated, written without a sign")
    elif rule.margin >= 1 and metric not in UNBOUNDED:
        fault = f"{rule.margin:g} tolerates every loss, since {metric} lies between 0 and 1"
        reader.fault((*path, "margin"), fault, "write 0.02 for two percentage points")


# --- what it must fit ---


def check_fit(protocol: Protocol, tasks: Sequence[Task], place: str = "protocol") -> None:
    """Refuse a protocol whose tasks are not those of the bundle (or recipe), all faults in one line.

    Raises:
        UsageError: a task is not there, or has another kind or other classes.
    """
    check_protocol(protocol, tasks, place)
    there = {task.name: task for task in tasks}
    faults = []
    for name, rules in protocol.tasks.items():
        if rules.kind is not None and rules.kind != there[name].kind:
            faults.append(f"tasks.{name}: {rules.kind} in the protocol, {there[name].kind} in the bundle")
        elif rules.classes and rules.classes != there[name].classes:
            ours, theirs = ", ".join(rules.classes), ", ".join(there[name].classes)
            faults.append(f"tasks.{name}: the classes are {ours} in the protocol, {theirs} in the bundle")
    if faults:
        raise UsageError(place, "; ".join(faults), "a protocol is for one bundle; write a new one for another")


def check_subgroups(
    protocol: Protocol, attributes: Mapping[str, Sequence[str]], place: str = "protocol: data.subgroups"
) -> None:
    """Refuse subgroups that the cases do not have, or that name cases rather than groups.

    Args:
        protocol: names the subgroups.
        attributes: of the cases: name -> one value a case.
        place: of the fault.

    Raises:
        UsageError: all of them in one line, with the count of values.
    """
    faults = []
    for name in protocol.data.subgroups:
        if name not in attributes:
            mend = did_you_mean(name, attributes)
            faults.append(f"the cases have no attribute {name!r}" + (f" ({mend})" if mend else ""))
        elif is_identifier(name, attributes[name]):
            count = len(set(attributes[name]) - {""})
            faults.append(f"{name!r} has {count} values, more than {MOST_VALUES}: it names cases and no groups")
    if faults:
        raise UsageError(place, "; ".join(faults), "name columns with few values, such as sex, site or view")


def is_identifier(name: str, values: Sequence[str]) -> bool:
    """Tell whether an attribute has more than 50 values that are no measurements: texts, or whole numbers but ages."""
    given = set(values) - {""}
    whole = len(given) > MOST_VALUES and all(value.isdecimal() for value in given) and not is_age(name)
    return whole or too_many_values(values)
