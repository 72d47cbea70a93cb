"""The door of the command line: every way in which a command ends becomes an exit code and at most one line a fault.

- Results go to stdout, all else to stderr; a refusal is one line `place: fault; mend`, without a traceback.
- Exit codes: 0 done, 1 refused, 2 usage, 3 the proof failed, 4 an engine or extra is missing, 5 not vouched for,
  6 underpowered; 130 after Ctrl-C. A mistake of ours keeps its traceback.
- Nothing heavy is imported here or beside it: `foveola --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..runtime.errors import ExitCode, FoveolaError, MissingPartError
from ..runtime.offline import forbid_telemetry

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code.

    Args:
        args: the words after `foveola`; None: those of the process.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - the runtime installs on 3.10, the toolkit does not run there
        return _refuse("foveola: needs Python 3.11; on a device use `python -m foveola.runtime`", ExitCode.USAGE)
    forbid_telemetry()
    try:
        return _invoke(args)
    except FoveolaError as error:
        return _refuse(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name in ("", "foveola"):
            raise  # ours
        missing = MissingPartError(name, "is not installed", "pip install 'foveola[toolkit]'")
        return _refuse(str(missing), missing.exit_code)


def _invoke(args: Sequence[str] | None) -> int:
    import click

    from .commands.table import foveola

    try:
        code = foveola.main(args, prog_name="foveola", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except click.Abort:
        return _refuse("interrupted; the same command goes on from here", INTERRUPTED)
    return int(code or 0)


def _refuse(line: str, code: int) -> int:
    print(line, file=sys.stderr)  # noqa: T201 - the door's voice
    return code
