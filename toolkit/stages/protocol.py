"""The stage that fixes a recipe's protocol before any student exists; see `table.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...runtime.errors import FoveolaError
from ..parity.protocol import Protocol
from ..stage import Stage
from ..work import Work, write_atomic
from .data import dataset_of

PROTOCOL_STEP = "protocol.json"  # what the step leaves
Proportion = Annotated[float, Meta(gt=0, lt=1)]


class FixProtocol(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fix what will be proved: endpoints, margins, cases and subgroups, as one file with a digest.

    Args:
        split: the images of the proof.
        subgroups: attributes that are screened; empty takes all that the data have and that make groups.
        alpha: one-sided error of each endpoint; 0.025 gives 95 % intervals.
        power: planned.
        resamples: of the patient bootstrap.
        file: a protocol (YAML) to take instead; all it says stands, and the fields above are not looked at.
    """

    USES = frozenset({"tasks", "margins"})
    PATHS = ("file",)

    split: Literal["test", "val"] = "test"
    subgroups: tuple[str, ...] = ()
    alpha: Annotated[float, Meta(gt=0, lt=0.5)] = 0.025
    power: Proportion = 0.8
    resamples: Annotated[int, Meta(ge=100)] = 2000
    file: str = ""

    def check_ahead(self, work: Work) -> None:
        """The protocol fits the recipe's tasks and its data."""
        self._protocol(work)

    def run(self, work: Work) -> None:
        """Write `protocol.json`."""
        protocol = self._protocol(work)
        written = msgspec.json.format(msgspec.json.encode(protocol, order="sorted"), indent=2) + b"\n"
        write_atomic(work.folder / PROTOCOL_STEP, written)

    def _protocol(self, work: Work) -> Protocol:
        from ..protocol.new import Origin, check_data, choose_subgroups, new_protocol

        dataset = dataset_of(work)
        if self.file:
            protocol = _from_file(Path(self.file), work)
        else:
            origin = Origin(name=work.recipe.name, tasks=work.tasks, split=self.split, seed=work.seed)
            chosen = self.subgroups or choose_subgroups(dataset, self.split)[0]
            protocol = msgspec.structs.replace(
                new_protocol(origin, dataset, chosen), alpha=self.alpha, power=self.power, resamples=self.resamples
            )
        check_data(protocol, dataset, self.file or f"step {work.step}")
        return protocol


def read_step(folder: Path) -> Protocol:
    """Read what the stage left.

    Raises:
        FoveolaError: it cannot be read.
    """
    path = folder / PROTOCOL_STEP
    try:
        return msgspec.json.decode(path.read_bytes(), type=Protocol)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FoveolaError(str(path), f"not a protocol: {error}", "run the step again") from None


def _from_file(path: Path, work: Work) -> Protocol:
    """Read a protocol's YAML; one that is locked must not have changed since."""
    from ..data.cells import plain_task
    from ..protocol.check import check_fit
    from ..protocol.file import lock_path, read_locked, read_protocol

    tasks = tuple(plain_task(task) for task in work.tasks)
    if lock_path(path).exists():
        return read_locked(path, tasks=tasks)
    protocol = read_protocol(path)
    check_fit(protocol, tasks, str(path))
    return protocol
