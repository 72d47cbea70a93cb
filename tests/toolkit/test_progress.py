"""Laws of progress: where the run is, how long it has taken, how long it will take; live or in plain lines."""

from __future__ import annotations

from io import StringIO

import pytest

from foveola.toolkit.progress import LiveProgress, Pace, PlainProgress, duration, make_progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_progress_says_a_line_every_few_seconds_with_the_time_left() -> None:
    stream, clock = StringIO(), Clock()
    progress = PlainProgress(stream, interval=5, clock=clock)

    progress.begin("data", 1, 3, "reused")
    progress.end("reused")
    progress.begin("teacher", 2, 3, "first run")
    for second in range(13):
        clock.now = float(second)
        progress.advance(second, 24, "epochs")
    progress.log("best so far: 3")
    clock.now = 130
    progress.end("done")

    assert stream.getvalue().splitlines() == [
        "[1/3] data: reused",
        "[2/3] teacher: first run",
        "[2/3] teacher: 5/24 epochs, 5 s, about 19 s left",
        "[2/3] teacher: 10/24 epochs, 10 s, about 14 s left",
        "[2/3] teacher: best so far: 3",
        "[2/3] teacher: done in 2 min 10 s",
    ]


def test_the_time_left_of_a_resumed_step_counts_from_where_it_resumed() -> None:
    clock = Clock()
    pace = Pace(clock)

    assert pace.left(50, 100) is None
    clock.now = 10.0
    assert pace.left(60, 100) == pytest.approx(40)
    assert pace.left(0, 10) is None, "a second phase is counted anew"
    assert pace.left(0, 0) is None


def test_a_terminal_gets_a_live_bar_and_anything_else_plain_lines() -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    progress = make_progress(screen)
    progress.begin("data", 1, 2, "reused")
    progress.end("reused")
    progress.begin("teacher", 2, 2, "first run")
    progress.advance(1, 2, "epochs")
    progress.log("[half] way")
    progress.end("done")
    progress.close()

    assert isinstance(progress, LiveProgress)
    assert isinstance(make_progress(StringIO()), PlainProgress)
    assert "[1/2] data: reused" in screen.getvalue()
    assert "[2/2] teacher: [half] way" in screen.getvalue()
    assert "[2/2] teacher: done in 0 s" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "60 s"), (125, "2 min 05 s"), (4800, "1 h 20 min"), (3599.6, "1 h 00 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
