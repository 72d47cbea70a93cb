"""All words that may be written down about images: a closed list, so that no name can slip in among them.

Law: what comes from an image, a file name, a network peer or an error's text is never written, only which word of these
lists it was. What is not in a list is counted as `other` (refusals) or refused (facts).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

Fact = str | int | float | bool

# Why an image got no answer.
REFUSALS = (
    "unreadable",  # no image, cut short, corrupt
    "too-large",  # beyond the limits on pixels or bytes
    "format",  # a kind of file, encoding or photometric interpretation that is not read
    "not-for-presentation",
    "modality",
    "sop-class",
    "body-part",
    "view",
    "laterality",
    "frames",
    "lossy",
    "rule",  # another line of the manifest's input rule
    "same-uid",  # another image has its SOP Instance UID
    "no-answer",  # NaN or infinity out of the network
    "deadline",
    "unavailable",  # the engine died too often
    "full",  # the queue
    "storage",  # the disk
    "request",  # a request that is none
    "other",
)

# What happened, for the audit log.
EVENTS = (
    "start",
    "stop",
    "ready",
    "unavailable",
    "engine-restart",
    "answer",
    "refusal",
    "sent",
    "send-failed",
    "install",
    "activate",
    "rollback",
    "selftest",
    "setting",
    "watch",
    "note",
)

_DIGEST = r"(?:(?:sha256|sha384|sha512|core)[:-])?[0-9a-f]{8,128}"
_NAME = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
_VERSION = r"v?[0-9]{1,9}(?:[.][0-9]{1,9}){0,3}(?:[-+.]?[a-z]{1,8}[.]?[0-9]{0,4})?"  # too short for a UID

# Which facts an event may bring along, and what their text must look like; a number needs no pattern.
FACTS: dict[str, str] = {
    "bundle": _NAME,  # the manifest's name
    "version": _VERSION,
    "before": _VERSION,
    "digest": _DIGEST,  # of the bundle
    "key": _DIGEST,  # of the public key that vouched
    "fingerprint": _DIGEST,  # of the machine
    "image": r"[0-9a-f]{16}",  # `Audit.mark`, never a UID
    "engine": "onnxruntime|openvino|tensorrt",
    "slot": "a|b|A|B|0|1|2",
    "result": "ok|failed|refused|unfit|answered|restored|none",
    "reason": "starts|selftest|bundle|told",  # of a return by itself: `slots.active.Reason`
    "kind": "|".join(REFUSALS),
    "part": _NAME.replace("63", "31"),  # of the machine or the service, from the code
    "way": "dicom|http|folder|command",
}
NUMBERS = ("code", "count", "images", "seconds", "bytes", "tries", "flips", "line", "unix", "positive", "fit")


# What the errors of `image.py`, `source.py` and `dicom/` begin with; a test makes each of them.
_FAULTS: tuple[tuple[str, str], ...] = (
    ("not-for-presentation", r"Presentation Intent Type|is an? .*For Processing"),
    ("modality", r"modality .* is not one|says no modality"),
    ("sop-class", r"SOP class .* is not one|says no SOP class|is an? .* object|holds an encapsulated document"),
    ("body-part", r"body part .* is not one|says no body part"),
    ("view", r"view .* is not one|says no view"),
    ("laterality", r"laterality .* is not one|says no laterality"),
    ("frames", r"holds \d+ frames|holds more than one picture"),
    ("lossy", r"was compressed with loss"),
    ("same-uid", r"has the SOP Instance UID of another image"),
    ("too-large", r"absurd size|\d+ bytes, more than|the deflated data set has more than"),
    ("format", r"photometric interpretation|transfer syntax|an? (?:grey|colour) picture|\d+ bits allocated|CMYK"),
    ("format", r"not an? (?:PNG|DICOM)|pixels of mode|VOI LUT Function .* is not read|a segmented palette"),
    ("no-answer", r"output .* (?:holds NaN|is infinite)"),
    ("unreadable", r"truncated|the file is empty|cannot be read|no DICOM object|is cut off|its pixel data"),
    ("unreadable", r"its compressed pixels|the deflated data set|header and codestream|the fragments of"),
)


def kind_of(fault: str) -> str:
    """Give the word for a refusal by what its error says; only the word is kept.

    Args:
        fault: `FoveolaError.fault`, or the whole line where its place is no text of a stranger.
    """
    for kind, pattern in _FAULTS:
        if re.search(rf"(?:^|: )(?:{pattern})", fault):
            return kind
    return "other"


def refusal(kind: str) -> str:
    """Give the word to count a refusal under."""
    return kind if kind in REFUSALS else "other"


def check_facts(event: str, facts: Mapping[str, Fact]) -> None:
    """Refuse what might carry a name.

    Raises:
        ValueError: an event or fact that is not listed, or a text that does not look like its kind.
    """
    if event not in EVENTS:
        raise ValueError("an event that is not in EVENTS")  # its text is not repeated: it may be the name
    for name, value in facts.items():
        if fault := _fault_of(name, value):
            raise ValueError(f"{event}: {fault}")


def fitting(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Give the facts that may be written, of values that come from a bundle: the event is worth more than they are."""
    return {name: value for name, value in facts.items() if not _fault_of(name, value)}


def _fault_of(name: str, value: Fact) -> str:
    if name not in FACTS and name not in NUMBERS:
        return "a fact that is not in FACTS or NUMBERS"
    if isinstance(value, str) != (name in FACTS):
        return f"{name} is a {type(value).__name__}"
    if isinstance(value, str):
        return "" if re.fullmatch(FACTS[name], value) else f"{name} does not look like one"
    return "" if math.isfinite(value) and abs(value) <= 2**53 else f"{name} is no number"
