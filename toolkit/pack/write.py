"""The evidence pack: one folder that leads from each requirement to its result, and names what rests on what.

The story of `write_pack`: read the bundle and the proof, refuse what does not belong together, write tables, pages and
the bill of materials, and last `manifest.sha256`: where that is, all is.

- The proof's own files are copied byte for byte: what was proved is what is filed.
- Equal inputs give equal bytes; no time, path, host or user stands in a file that is made here.
- The pack supports a submission; it is none. `docs/evidence.md` says what each file is for.

    write_pack(Path("chest.foveola"), Path("proof"), Path("evidence"), key=Path("maker.pub"))
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ...export.sbom import sbom_json
from ...runtime.bundle import Bundle, open_bundle, read_unverified
from ...runtime.errors import FoveolaError, UsageError
from ..parity.evidence import EVIDENCE, FLIPS, Evidence, decode_evidence
from ..parity.protocol import Protocol
from ..proof.judge import REPORT
from ..protocol.file import LOCK, read_locked
from ..work import write_atomic
from .card import proved_of
from .pages import Shown, change_control, index, model_card
from .soup import soup, soup_csv
from .trace import trace, trace_csv

INDEX, MODEL_CARD, CHANGE_CONTROL = "index.html", "model-card.html", "change-control.html"
TRACEABILITY, SOUP, SBOM = "traceability.csv", "soup.csv", "sbom.cdx.json"
PROTOCOL, SUMS = "protocol.json", "manifest.sha256"
PROOF_FILES = (EVIDENCE, REPORT, FLIPS)
MAX_FILE = 64_000_000  # bytes of one file of a proof; as in a bundle


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: the folder, the sha256 of each file, and the proof that it shows."""

    folder: Path
    files: dict[str, str]
    evidence: Evidence


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """All that a pack is made of, read and held against each other."""

    bundle: Bundle
    vouched: bool  # the bundle's signature was checked
    evidence: Evidence
    proof: dict[str, bytes]  # the proof's files by name
    protocol: Protocol | None
    kept: dict[str, bytes]  # files of the protocol by name


def write_pack(
    bundle: Path,
    proof: Path,
    folder: Path,
    *,
    protocol: Path | None = None,
    key: Path | None = None,
    unsigned: bool = False,
) -> Pack:
    """Write the evidence pack of a proved bundle.

    Args:
        bundle: the shipped file, or its core.
        proof: folder of `foveola parity`, or of a recipe's proof.
        folder: where the pack goes; made where needed, must be empty.
        protocol: under which the proof was made: a locked YAML, its lock, or a step's `protocol.json`; None takes what
            lies beside the proof, where there is any.
        key: public key of who vouches for the bundle.
        unsigned: take a bundle that nobody vouches for; the pack says so.

    Raises:
        UsageError: the proof has not all its files, is one of another bundle or protocol, or the folder is not empty.
        NotVouchedError: the bundle's signature does not hold.
        FoveolaError: a file cannot be read.
    """
    check_empty(folder)
    sources = read_sources(bundle, proof, protocol=protocol, key=key, unsigned=unsigned)
    files = pack_files(sources)
    write_files(folder, files)
    return Pack(folder=folder, files=sums_of(files), evidence=sources.evidence)


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds something: evidence is never written over.

    Raises:
        UsageError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fault = "is not empty" if folder.is_dir() else "is a file"
        raise UsageError(str(folder), fault, "evidence is never written over; name another folder")


def read_sources(
    bundle: Path, proof: Path, *, protocol: Path | None = None, key: Path | None = None, unsigned: bool = False
) -> Sources:
    """Read bundle, proof and protocol, and refuse what does not belong together.

    Raises:
        FoveolaError: see `write_pack`.
    """
    found = _proof_files(proof)
    place = str(proof / EVIDENCE)
    try:
        evidence = decode_evidence(found[EVIDENCE], place)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FoveolaError(place, f"not the evidence of a proof: {error}", "make the proof again") from None
    opened = read_unverified(bundle) if unsigned else open_bundle(bundle, key=key)
    if evidence.bundle_digest != opened.core_digest:
        fault = f"is the proof of bundle {evidence.bundle_digest[:12]}, not of {opened.core_digest[:12]}"
        raise UsageError(place, fault, f"give the proof of {bundle.name}")
    rules, kept = _protocol(protocol or _beside(proof), evidence)
    return Sources(bundle=opened, vouched=not unsigned, evidence=evidence, proof=found, protocol=rules, kept=kept)


def _proof_files(proof: Path) -> dict[str, bytes]:
    """Read the proof's files; those that are not there are told together."""
    missing = [name for name in PROOF_FILES if not (proof / name).is_file()]
    if missing:
        mend = "give the folder that `foveola parity --out` or a recipe's proof wrote"
        raise UsageError(str(proof), f"holds no {', '.join(missing)}", mend)
    return {name: _read(proof / name) for name in PROOF_FILES}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(str(path), f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise UsageError(str(path), f"has more than {MAX_FILE} bytes", "give the file of a proof")
    return data


def _beside(proof: Path) -> Path | None:
    """Find the protocol that lies in the proof's folder: its lock, or a step's description."""
    locks = sorted(proof.glob(f"*{LOCK}"))
    step = proof / PROTOCOL
    return locks[0] if len(locks) == 1 else step if step.is_file() else None


def _protocol(path: Path | None, evidence: Evidence) -> tuple[Protocol | None, dict[str, bytes]]:
    """Read the protocol and its files, and hold it against the proof."""
    if path is None:
        return None, {}
    lock = path if path.name.endswith(LOCK) else path.with_suffix(LOCK)
    if lock.is_file():
        protocol, kept = read_locked(path), {"protocol.lock.json": _read(lock)}
        if lock != path:
            kept["protocol.yaml"] = _read(path)
    else:
        data = _read(path)
        try:
            protocol, kept = msgspec.json.decode(data, type=Protocol), {PROTOCOL: data}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fault, mend = f"is neither locked nor a step's {PROTOCOL}", f"lock it: foveola protocol lock {path}"
            raise UsageError(str(path), fault, mend) from None
    if protocol.digest != evidence.protocol_digest:
        fault = (
            f"is protocol {protocol.digest[:12]}; the proof was made under {evidence.protocol_digest[:12] or 'none'}"
        )
        raise UsageError(str(path), fault, "give the protocol of this proof")
    return protocol, kept


def pack_files(sources: Sources) -> dict[str, bytes]:
    """Make every file of the pack but the sums, by name."""
    bundle, evidence = sources.bundle, sources.evidence
    copied = {**sources.proof, **sources.kept}
    rows = trace(evidence, bundle, sources.protocol, vouched=sources.vouched)
    components = soup(bundle.manifest, evidence)
    digests = {**sums_of(copied), **{f"bundle:{name}": _sum(data) for name, data in bundle.members.items()}}
    tables = {
        TRACEABILITY: trace_csv(rows, evidence, digests),
        SOUP: soup_csv(components),
        SBOM: sbom_json(bundle.manifest, bundle.members, proved_of(evidence, bundle)),
    }
    shown = Shown(
        evidence=evidence, bundle=bundle, protocol=sources.protocol, vouched=sources.vouched, components=components
    )
    pages = {MODEL_CARD: model_card(shown), CHANGE_CONTROL: change_control(shown)}
    files = {**copied, **tables, **{name: page.encode() for name, page in pages.items()}}
    return {INDEX: index(shown, sums_of(files), len(rows)).encode(), **files}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, and last `manifest.sha256`, which `sha256sum --check` reads.

    Raises:
        UsageError: the folder cannot be written.
    """
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums_of(files).items())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomic(folder / name, data)
        write_atomic(folder / SUMS, lines.encode())
    except OSError as error:
        raise UsageError(str(folder), f"cannot be written: {error.strerror}", "choose another place") from None


def sums_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Give each file's sha256, by name in order."""
    return {name: _sum(files[name]) for name in sorted(files)}


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
