"""`foveola field`: what devices with one bundle saw, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from ...runtime.errors import ExitCode
from .parts import bundle_argument, example, json_option, key_option, say_json

PATH = click.Path(path_type=Path)


@click.command(
    epilog=example(
        "foveola field chest.foveola /var/lib/foveola/watch",
        "foveola field chest.foveola ward-3.json ward-7.json --key maker.pub --require-steady",
    )
)
@bundle_argument
@click.argument("watched", type=PATH, nargs=-1, required=True, metavar="WATCHED...")
@click.option(
    "--days", type=click.IntRange(min=1), default=30, show_default=True, metavar="N", help="The last days of folders."
)
@click.option("--require-steady", is_flag=True, help="Exit code 1 when a shift is large.")
@key_option
@click.option("--allow-unsigned", is_flag=True, help="Take a bundle that nobody vouches for.")
@json_option
def field(
    bundle: Path,
    watched: tuple[Path, ...],
    days: int,
    require_steady: bool,
    key: Path | None,
    allow_unsigned: bool,
    as_json: bool,
) -> int:
    """Tell drift in the field: what devices with one bundle saw and answered, against its reference.

    WATCHED are folders of watches, or files that `foveola watch show --out` wrote; one a device. A device that saw
    another bundle is refused. A shift proves nothing by itself: it says that the images are others, and `foveola
    parity` on such images says whether the answers still hold.
    """
    import msgspec

    from ...runtime.bundle import open_bundle, read_unverified
    from ..proof.watched import field_lines, read_field

    opened = read_unverified(bundle) if allow_unsigned else open_bundle(bundle, key=key)
    found = read_field(opened, watched, days)
    if as_json:
        say_json(msgspec.to_builtins(found))
    else:
        click.echo("\n".join(field_lines(found)))
    return ExitCode.REFUSED if require_steady and found.verdict == "large" else ExitCode.DONE
