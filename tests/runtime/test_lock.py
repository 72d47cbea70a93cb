from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from foveola.runtime.lock import locked

HOLD = "import sys, time; from pathlib import Path; from foveola.runtime.lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_one_at_a_time_in_one_process_and_between_two(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError), locked(tmp_path, 0.05):
            pass
    finally:
        child.kill()
        child.communicate()

    with locked(tmp_path, 5), pytest.raises(TimeoutError), locked(tmp_path, 0):
        pass


def test_who_waits_gets_it_when_it_is_given_back(tmp_path: Path) -> None:
    turns: list[str] = []

    def second() -> None:
        with locked(tmp_path):
            turns.append("second")

    waiting = threading.Thread(target=second)
    with locked(tmp_path):
        waiting.start()
        waiting.join(0.1)
        turns.append("first")
    waiting.join(5)

    assert turns == ["first", "second"]
