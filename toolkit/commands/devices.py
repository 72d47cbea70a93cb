"""`foveola devices`: what a bundle can be made for, and what this machine is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ...runtime.errors import FoveolaError
from .parts import Group, example, json_option, say_json

if TYPE_CHECKING:
    from ...devices.doctor import Nearest
    from ...devices.finding import Finding
    from ...devices.machine import Machine
    from ...devices.profile import Profile

strict_option = click.option(
    "--strict", is_flag=True, help="Refuse facts that are only general knowledge and name each of them."
)


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog=example("foveola devices", "foveola devices show rpi5-8gb", "foveola devices doctor"),
)
@strict_option
@json_option
@click.pass_context
def devices(context: click.Context, strict: bool, as_json: bool) -> None:
    """List the devices that recipes can name.

    The last column counts the facts that are only general knowledge. With --strict the devices that have any are left
    out, their facts are named, and the exit code is 1.
    """
    if context.invoked_subcommand is not None:
        return
    from ...devices.profile import load_profile, profile_ids

    profiles = [load_profile(name) for name in profile_ids()]
    shown = [one for one in profiles if not (strict and one.unverified())]
    if as_json:
        say_json({"devices": {one.id: one.title for one in shown}, "profiles": [_summary(one) for one in shown]})
    else:
        rows = [("DEVICE", "TITLE", "CPU", "MEMORY", "ACCELERATORS", "ENGINES", "UNVERIFIED")]
        click.echo("\n".join(_table(rows + [_row(one) for one in shown])))
    if strict:
        _refuse_unverified(profiles)


@devices.command(epilog=example("foveola devices show intel-n100", "foveola devices show my-scanner.yaml --strict"))
@click.argument("device", metavar="DEVICE")
@strict_option
@json_option
def show(device: str, strict: bool, as_json: bool) -> None:
    """Show what a device can do, and where each figure comes from.

    DEVICE is an id from the list, or a YAML file of one's own.
    """
    import yaml

    from ...devices.profile import load_profile
    from ..stage import as_json as plain

    profile = plain(load_profile(device, strict=strict))
    if as_json:
        say_json(profile)
    else:
        click.echo(yaml.safe_dump(profile, sort_keys=False, allow_unicode=True), nl=False)


@devices.command(epilog=example("foveola devices doctor", "foveola devices doctor --for intel-n100"))
@click.option("--for", "device", metavar="DEVICE", help="Hold this machine against a device; else against the nearest.")
@json_option
def doctor(device: str | None, as_json: bool) -> None:
    """Examine this machine: what it is, the nearest device, and what changes numbers or speed here.

    Nothing is changed, nothing is sent, and neither host name nor serial number is read.
    """
    from ...devices.doctor import examine, nearest, warnings_for, why_not_at_hand
    from ...devices.profile import load_profile, profile_ids

    machine = examine()
    near = nearest(machine, [load_profile(name) for name in profile_ids()])
    profile = load_profile(device) if device else load_profile(near.id) if near else None
    if profile is None:
        fault = f"no profile has the architecture {machine.architecture}"
        raise FoveolaError("this machine", fault, "write a profile of your own and give it with --for")
    findings, reasons = warnings_for(machine, profile), why_not_at_hand(machine, profile)
    if as_json:
        held = {"held_against": profile.id, "at_hand": not reasons, "why_not": reasons}
        say_json({"machine": machine, "nearest": near, **held, "warnings": findings})
        return
    lines = _machine_lines(machine) + _nearest_lines(near)
    if device:
        lines += [f"held against   {profile.id}"]
    lines += [f"               {reason}: measurements here do not count for {profile.id}" for reason in reasons]
    click.echo("\n".join(lines + _warning_lines(findings)))


def _refuse_unverified(profiles: Sequence[Profile]) -> None:
    """Raise one line with the unverified facts of all profiles."""
    faults = [f"{one.id} ({', '.join(names)})" for one in profiles if (names := one.unverified())]
    if faults:
        mend = "confirm from the vendor's document and write the source down"
        raise FoveolaError("devices", f"only general knowledge in {', '.join(faults)}", mend)


def _summary(profile: Profile) -> dict[str, object]:
    return {
        "id": profile.id,
        "title": profile.title,
        "cpu": profile.cpu,
        "memory": profile.memory,
        "accelerators": [one.name for one in profile.accelerators],
        "engines": [one.engine for one in profile.engines],
        "vendor_engines": [one.name for one in profile.vendor_engines],
        "unverified": profile.unverified(),
    }


def _row(profile: Profile) -> tuple[str, ...]:
    cpu, memory = profile.cpu, profile.memory
    dot = "dot" if cpu.int8_dot else "no dot"
    bandwidth = f", {memory.bandwidth_gb_s:g} GB/s" if memory.bandwidth_gb_s else ""
    units = [f"{one.kind.upper()}{_peak(one.peak_tops.get('int8'))}" for one in profile.accelerators]
    return (
        profile.id,
        profile.title,
        f"{cpu.cores} x {cpu.architecture}, {dot}",
        f"{memory.gib:g} GiB{bandwidth}",
        ", ".join(units) or "-",
        ", ".join(one.engine for one in profile.engines),
        str(len(profile.unverified()) or "-"),
    )


def _peak(tops: float | None) -> str:
    return f" {tops:g} TOPS" if tops else ""


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _machine_lines(machine: Machine) -> list[str]:
    facts = {
        "machine": " ".join(filter(None, (machine.board, machine.virtual and f"({machine.virtual})"))),
        "processor": f"{machine.model or 'unknown'}, {machine.architecture}, {machine.cores} cores"
        + (f", up to {machine.clock_max_ghz:g} GHz" if machine.clock_max_ghz else ""),
        "instructions": "not known" if machine.instructions is None else ", ".join(machine.instructions) or "none",
        "memory": f"{machine.memory_gib:.1f} GiB" if machine.memory_gib else "",
        "governor": machine.governor,
        "temperature": f"{hottest.celsius:.0f} °C ({hottest.name})" if (hottest := machine.hottest) else "",
        "accelerators": ", ".join(f"{one.kind.upper()} {one.name}" for one in machine.accelerators) or "none seen",
        "gpu": ", ".join(
            f"{one.name}, compute capability {one.compute_capability or 'unknown'}, driver {one.driver or 'unknown'}"
            for one in machine.gpus
        ),
        "jetpack": " ".join(filter(None, (machine.jetpack, machine.l4t and f"(Jetson Linux {machine.l4t})"))),
        "power mode": machine.power_mode,
        "engines": ", ".join(f"{name} {version}" for name, version in machine.engines.items()) or "none",
        "python": machine.python,
    }
    return [f"{name:<14} {value}" for name, value in facts.items() if value]


def _nearest_lines(near: Nearest | None) -> list[str]:
    if near is None:
        return []
    lines = [f"nearest        {near.id}: {', '.join(near.reasons)}"]
    return lines + [f"differs        {difference}" for difference in near.differences]


def _warning_lines(findings: Sequence[Finding]) -> list[str]:
    return [f"warning        {finding}" for finding in findings] or ["no warnings"]
