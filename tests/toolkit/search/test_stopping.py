"""Laws of early stopping: below the median and dominated, never one of the two alone, never before there are peers."""

from __future__ import annotations

import searching

from foveola.toolkit.search.row import Cost
from foveola.toolkit.search.stopping import hopeless

PEERS = [
    searching.row(number, 2.0 + number, slack, curves={"student": [slack - 1, slack - 0.5, slack]})
    for number, slack in enumerate((0.2, 0.4, 0.6, 0.8))
]
SLOW, FAST = Cost(latency_ms=9.0, size_mb=1), Cost(latency_ms=1.0, size_mb=1)


def test_a_worse_and_slower_candidate_is_stopped_with_its_reason() -> None:
    told = hopeless([-3.0, -2.0], "student", SLOW, PEERS, "latency_ms")

    assert (
        told == "stopped after epoch 2 of student: slack -2.00, the median was 0.00 by then, and trial 3 costs no more"
    )


def test_a_worse_but_faster_candidate_goes_on() -> None:
    assert hopeless([-3.0, -2.0], "student", FAST, PEERS, "latency_ms") == ""


def test_a_slower_candidate_above_the_median_goes_on() -> None:
    assert hopeless([0.0, 0.1], "student", SLOW, PEERS, "latency_ms") == ""


def test_nobody_is_stopped_before_there_are_peers() -> None:
    assert hopeless([-3.0, -2.0], "student", SLOW, PEERS[:2], "latency_ms") == ""
    assert hopeless([-3.0, -2.0], "other", SLOW, PEERS, "latency_ms") == ""
    assert hopeless([-9.0] * 4, "student", SLOW, PEERS, "latency_ms") == ""  # no peer was trained so long
