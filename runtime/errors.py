"""Every way in which Foveola says no, and the exit code of each.

A `FoveolaError` is the user's to mend: wrong data, a wrong option, a bundle that nobody vouches for. Its text is one
line that names the place, the fault and the mend; the command line prints it without a traceback. A mistake of ours is
an `AssertionError` or `RuntimeError` and keeps its traceback.

    raise FoveolaError("chest.csv line 7", "mask masks/7.png is not there", "add the file or leave the cell empty")
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code means (the agreement of the command line)."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    PROOF_FAILED = 3
    PART_MISSING = 4
    NOT_VOUCHED = 5
    UNDERPOWERED = 6


def printable(text: str) -> str:
    """Show line breaks and terminal escapes, which a file's name or a word in it may hold, so that none is obeyed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class FoveolaError(Exception):
    """Refused with a reason: where, what is wrong and, where there is one, the mend.

    Args:
        place: file, field or step, as the user knows it (`chest.yaml: steps.slim`).
        fault: what is wrong there.
        mend: what to do about it; may be empty.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, place: str, fault: str, mend: str = "") -> None:
        self.place, self.fault, self.mend = place, fault, mend
        text = f"{place}: {fault}; {mend}" if mend else f"{place}: {fault}"
        super().__init__(printable(text))


class UsageError(FoveolaError):
    """The command or recipe itself is wrong (exit code 2)."""

    exit_code = ExitCode.USAGE


class MissingPartError(FoveolaError):
    """An engine or an extra is not installed (exit code 4); the mend is the install line."""

    exit_code = ExitCode.PART_MISSING


class ProofFailedError(FoveolaError):
    """The proof says that the student is worse (exit code 3)."""

    exit_code = ExitCode.PROOF_FAILED


class UnderpoweredError(FoveolaError):
    """The proof could not decide (exit code 6)."""

    exit_code = ExitCode.UNDERPOWERED


class NotVouchedError(FoveolaError):
    """A signature or digest does not hold, or there is no key to hold it against (exit code 5)."""

    exit_code = ExitCode.NOT_VOUCHED
