"""Counters and histograms of the service as text for Prometheus; nothing of an image or a patient is among them.

The text is the exposition format, version 0.0.4: a `# HELP` and a `# TYPE` line a family, then its samples.

    metrics = Metrics()
    metrics.count("foveola_answers_total", outcome="answered")
    metrics.text()
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds, upper edges, inclusive
# Family -> (type, help). What is not here cannot be counted.
FAMILIES = {
    "foveola_build_info": ("gauge", "The bundle that answers; always 1."),
    "foveola_ready": ("gauge", "Whether the self-test passed and the engine runs."),
    "foveola_images_total": ("counter", "Images that came, by way and what was said at the door."),
    "foveola_answers_total": ("counter", "Images by outcome: answered, unfit, refused, failed."),
    "foveola_engine_seconds": ("histogram", "From an image's bytes to its answer in the engine's process."),
    "foveola_wait_seconds": ("histogram", "From an image's arrival to its answer."),
    "foveola_engine_restarts_total": ("counter", "Ends of the engine's process that nobody asked for."),
    "foveola_engine_memory_bytes": ("gauge", "Resident memory of the engine's process after its last answer."),
    "foveola_jobs": ("gauge", "Jobs on disk by state."),
    "foveola_results_waiting": ("gauge", "DICOM results that wait for the peer."),
    "foveola_deliveries_total": ("counter", "Tries to send a result to the peer, by outcome: sent, failed, given_up."),
    "foveola_http_requests_total": ("counter", "HTTP answers by status."),
}
_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """All figures of one service. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[_Labels, float]] = {name: {} for name in FAMILIES}
        self._seconds: dict[str, tuple[list[int], list[float]]] = {
            name: ([0] * (len(BUCKETS) + 1), [0.0]) for name, (kind, _) in FAMILIES.items() if kind == "histogram"
        }

    def count(self, family: str, **labels: str) -> None:
        """Add one."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[family][key] = self._values[family].get(key, 0) + 1

    def put(self, family: str, value: float, **labels: str) -> None:
        """Set a gauge, or a counter that is kept elsewhere."""
        with self._lock:
            self._values[family][tuple(sorted(labels.items()))] = value

    def put_only(self, family: str, value: float, **labels: str) -> None:
        """Set a gauge that has one sample, whatever labels it had before."""
        with self._lock:
            self._values[family] = {tuple(sorted(labels.items())): value}

    def time(self, family: str, seconds: float) -> None:
        """Put a time into a histogram."""
        counts, total = self._seconds[family]
        with self._lock:
            counts[bisect_left(BUCKETS, seconds)] += 1
            total[0] += seconds

    def text(self) -> str:
        """Everything, in the order of `FAMILIES`."""
        lines = []
        with self._lock:
            for name, (kind, words) in FAMILIES.items():
                lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
                if kind == "histogram":
                    lines += self._histogram(name)
                else:
                    lines += [f"{name}{_labels(key)} {value:.17g}" for key, value in self._values[name].items()]
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str) -> list[str]:
        counts, total = self._seconds[name]
        lines, upto = [], 0
        for edge, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            upto += count
            lines.append(f'{name}_bucket{{le="{edge}"}} {upto}')
        return [*lines, f"{name}_sum {total[0]:.17g}", f"{name}_count {upto}"]


def _labels(key: _Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in key) + "}" if key else ""


def _escaped(value: str) -> str:
    escapes: Mapping[str, str] = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
    return "".join(escapes.get(letter, letter) for letter in value)
