"""Laws of quiet: whoever takes a time is alone, and two of them do not wait for each other."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from foveola.toolkit.search.quiet import Quiet


def test_a_time_is_taken_only_when_the_others_hold_still(tmp_path: Path) -> None:
    first, second = Quiet(tmp_path), Quiet(tmp_path)
    said: list[str] = []

    def clock() -> None:
        with first.alone():
            said.append("begins")
            time.sleep(0.1)
            said.append("ends")

    thread = threading.Thread(target=clock)
    thread.start()
    time.sleep(0.1)
    assert said == []  # the second one makes noise

    second.breathe()
    said.append("goes on")
    thread.join(5)

    assert said == ["begins", "ends", "goes on"]
    for one in (first, second):
        one.leave()


def test_two_clocks_take_turns(tmp_path: Path) -> None:
    inside = 0
    most = 0

    def clock(quiet: Quiet) -> None:
        nonlocal inside, most
        with quiet.alone():
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1
        quiet.leave()

    threads = [threading.Thread(target=clock, args=(Quiet(tmp_path),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    assert not any(thread.is_alive() for thread in threads)
    assert most == 1
