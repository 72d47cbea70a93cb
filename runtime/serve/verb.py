"""The verb `serve`: reads its options, asks who vouches for the bundle, and serves until it is told to stop."""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path

from ..bundle import open_bundle
from ..engine import INSTALL, engine_of, is_installed
from ..errors import ExitCode, MissingPartError, UsageError
from ..predict import choose_engine
from ..verbs.verb import ROOT_VARIABLE, Answer
from .frames import Command
from .limits import MIB, Limits
from .listen import parse_address
from .options import AET, KINDS
from .peer import check_aet, parse_peer
from .quiet import quiet_libraries
from .service import Settings, serve


def run_serve(arguments: argparse.Namespace) -> Answer:
    """Serve; afterwards tell what is left on disk.

    Raises:
        UsageError: options that do not go together.
        NotVouchedError: nobody vouches for the bundle.
        FoveolaError: a folder or port cannot be used.
    """
    settings = settings_of(arguments)
    quiet_libraries()
    _require_bundle(settings.command)
    counts = serve(settings)
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no jobs"
    return ExitCode.DONE, {"jobs": counts}, [f"stopped; on disk: {words}"]


def _require_bundle(command: Command) -> None:
    """Say now, with its own exit code, what no restart of the engine's process would mend."""
    if command.root is None:
        bundle = open_bundle(command.bundle, key=command.key)
        engine = engine_of(choose_engine(bundle.manifest, command.engine))
        if not is_installed(engine):
            raise MissingPartError(engine, "is not installed", INSTALL[engine])
        return
    from ..slots.active import active_engine
    from ..slots.install import pinned_key

    pinned_key(command.key, command.root)
    active_engine(command.root)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Turn options into settings.

    Raises:
        UsageError: options that do not go together, or a value that is none.
    """
    bundle: Path | None = arguments.bundle
    root: Path | None = arguments.root
    if root is None and bundle is None and os.environ.get(ROOT_VARIABLE):
        root = Path(os.environ[ROOT_VARIABLE])
    place = root or bundle
    if place is None or None not in (root, bundle):
        raise UsageError("serve", "neither a bundle nor --root, or both", "give one of them")
    if not 0 < arguments.deadline < math.inf:
        raise UsageError("--deadline", f"{arguments.deadline} is no length of time", "give seconds, more than 0")
    http = None if arguments.http == "off" else parse_address(arguments.http)
    dicom = parse_port(arguments.dicom) if arguments.dicom else None
    if http is None and dicom is None and arguments.inbox is None:
        raise UsageError("serve", "no door is open", "give --http, --dicom or --inbox")
    peer = parse_peer(arguments.peer) if arguments.peer else None
    _require_effect(arguments)
    command = Command(
        bundle=bundle or Path(),
        root=root,
        key=arguments.key,
        engine=arguments.engine,
    )
    return Settings(
        command=command,
        state=arguments.state or _state_beside(place, slots=root is not None),
        http=http,
        inbox=arguments.inbox,
        dicom=dicom,
        aet=check_aet(AET if arguments.aet is None else arguments.aet, "--aet"),
        callers=tuple(check_aet(title, "--caller") for title in arguments.caller),
        peer=peer,
        kinds=_kinds(KINDS if arguments.kinds is None else arguments.kinds) if peer else (),
        watch=arguments.watch,
        audit=arguments.audit,
        limits=Limits(
            queue_jobs=arguments.queue,
            deadline_s=arguments.deadline,
            image_bytes=arguments.max_image * MIB,
            memory_mib=arguments.max_memory,
        ),
    )


def parse_port(text: str) -> tuple[str, int]:
    """Read `PORT` (on loopback) or `HOST:PORT`.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):)?([0-9]{1,5})", text)
    if not found or int(found[2]) > 65535:
        raise UsageError(
            "--dicom", f"{text!r} is no port", "give PORT for loopback, or HOST:PORT such as 0.0.0.0:11112"
        )
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def _kinds(text: str) -> tuple[str, ...]:
    from ..dicom_results.write import parse_kinds

    return parse_kinds(text, "--kinds")


def _require_effect(arguments: argparse.Namespace) -> None:
    """Refuse an option that would change nothing: who gives it believes that it does.

    Raises:
        UsageError: there is one.
    """
    dicom, peer = arguments.dicom is not None, arguments.peer is not None
    idle = (
        ("--kinds", arguments.kinds is not None and not peer, "there is no peer to send results to", "--peer"),
        ("--caller", bool(arguments.caller) and not dicom, "nobody can call by DICOM", "--dicom"),
        ("--aet", arguments.aet is not None and not (dicom or peer), "nothing goes by DICOM", "--dicom or --peer"),
    )
    for option, useless, fault, other in idle:
        if useless:
            raise UsageError(option, fault, f"give {other} as well, or leave it out")


def _state_beside(place: Path, *, slots: bool) -> Path:
    """Where systemd says (STATE_DIRECTORY), else in the device's folder, or beside the bundle."""
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if named:
        return Path(named) / "serve"
    return place / "serve" if slots else place.with_suffix(".state")
