"""Runs whole recipes by the real command, in processes of their own; shared by the tests of whole roads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from foveola.runtime.errors import ExitCode

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PROVED = {ExitCode.DONE, ExitCode.PROOF_FAILED, ExitCode.UNDERPOWERED}


def command(recipe: str, runs: Path, *changes: str) -> list[str]:
    sets = [word for change in changes for word in ("--set", change)]
    return [sys.executable, "-m", "foveola.toolkit", "run", recipe, "--runs", str(runs), *sets]


def environment() -> dict[str, str]:
    # Equal bytes need an equal number of threads.
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def finish(recipe: str, runs: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(recipe, runs, *changes), env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode in PROVED, done.stderr[-3000:]
    return done


def refuse(recipe: Path, runs: Path, change: str, words: str) -> None:
    """The changed recipe must be refused, and the last line on stderr must say so in these words (a pattern)."""
    done = subprocess.run(command(str(recipe), runs, change), env=environment(), capture_output=True, text=True)
    assert done.returncode in (ExitCode.REFUSED, ExitCode.USAGE), done.stderr
    assert re.search(words, done.stderr.splitlines()[-1]), done.stderr


def bundle_of(runs: Path, name: str) -> Path:
    (path,) = (runs / name).glob(f"ship-*/{name}.foveola")
    return path


def kill_late(recipe: Path, runs: Path, sign: str, delay: float) -> int:
    """Start a run and kill it with SIGKILL a moment after its log says `sign`; 0 when it was over by then."""
    with subprocess.Popen(
        command(str(recipe), runs), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if sign in line and "reused" not in line:
                time.sleep(delay)
                run.send_signal(signal.SIGKILL)
                return int(run.wait() == -signal.SIGKILL)
    return 0
