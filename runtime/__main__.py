"""`python -m foveola.runtime VERB`: the verbs of a device without the toolkit.

Law: with `--json` one JSON object stands on stdout and nothing else; errors are one line each on stderr; the exit code
is that of the agreement (`runtime/errors.py: ExitCode`).

    python -m foveola.runtime predict chest.foveola image.png --key maker.pub --json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from .errors import FoveolaError
from .verbs.table import VERBS
from .verbs.verb import parser, to_stdout


def main(argv: Sequence[str] | None = None, prog: str = "python -m foveola.runtime") -> int:
    """Run one verb and give its exit code; a wrong command line ends the process with code 2, as argparse does."""
    arguments = parser(VERBS, prog).parse_args(argv)
    try:
        code, result, lines = VERBS[arguments.verb].run(arguments)
        to_stdout([json.dumps(result, allow_nan=False)] if arguments.json else lines)
    except FoveolaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
