"""`foveola evidence`: the evidence pack of a proved bundle."""

from __future__ import annotations

from pathlib import Path

import click

from .parts import bundle_argument, example, json_option, key_option, say_json

PATH = click.Path(path_type=Path)


@click.command(
    epilog=example(
        "foveola evidence chest.foveola --proof proof -o evidence",
        "foveola evidence chest.foveola --proof proof --protocol protocol.yaml --key maker.pub -o evidence",
    )
)
@bundle_argument
@click.option(
    "--proof", type=PATH, required=True, metavar="DIR", help="What `foveola parity` or a recipe's proof wrote."
)
@click.option("-o", "--out", type=PATH, required=True, metavar="DIR", help="Folder of the pack; must be empty.")
@click.option("--protocol", type=PATH, metavar="PROTOCOL", help="Locked, or its lock alone; else what lies in --proof.")
@key_option
@click.option("--allow-unsigned", is_flag=True, help="Take a bundle that nobody vouches for. The pack says so.")
@json_option
def evidence(
    bundle: Path,
    proof: Path,
    out: Path,
    protocol: Path | None,
    key: Path | None,
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Write the evidence pack of a proved bundle.

    Traceability from requirement to result, bill of materials with the model inside, list of the software on the
    device, model card and change control, beside the proof itself. It supports a submission; it is none. A proof of
    another bundle is refused. The exit code says that the pack was written, not how the proof ended.
    """
    from ..pack.write import INDEX, SUMS, write_pack

    pack = write_pack(bundle, proof, out, protocol=protocol, key=key, unsigned=allow_unsigned)
    if as_json:
        say_json(
            {
                "bundle": pack.evidence.bundle,
                "verdict": pack.evidence.verdict,
                "index": pack.folder / INDEX,
                "sums": pack.folder / SUMS,
                "files": pack.files,
            }
        )
        return
    click.echo(f"verdict  {pack.evidence.verdict}")
    click.echo(f"index    {pack.folder / INDEX}")
    click.echo(f"files    {len(pack.files)}, their digests in {pack.folder / SUMS}")
