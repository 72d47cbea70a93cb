"""The stage that files a proof: the evidence pack of a signed bundle; see `table.py`."""

from __future__ import annotations

from ..stage import Stage
from ..work import Work


class MakePack(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Write the evidence pack: traceability, bill of materials, SOUP list, model card, change control.

    Args:
        bundle: the step of the signed bundle.
        proof: the step of its proof.
        protocol: the step that fixed the protocol; empty leaves the protocol out, and the pack says so.
    """

    INPUTS = ("bundle", "proof", "protocol")
    ACCEPTS = {"bundle": ("sign",), "proof": ("parity",), "protocol": ("protocol",)}  # noqa: RUF012

    bundle: str
    proof: str
    protocol: str = ""

    def run(self, work: Work) -> None:
        """Write the pack's files."""
        from ..pack.write import PROTOCOL, pack_files, read_sources, write_files

        signed = work.inputs["bundle"] / f"{work.recipe.name}.foveola"
        sources = read_sources(
            signed,
            work.inputs["proof"],
            protocol=work.inputs["protocol"] / PROTOCOL if self.protocol else None,
            key=signed.with_suffix(".pub"),
        )
        write_files(work.folder, pack_files(sources))
