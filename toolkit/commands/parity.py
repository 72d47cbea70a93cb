"""`foveola parity` and `foveola answers`: the proof of a shipped bundle, also where there is no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...runtime.errors import UsageError
from .parts import bundle_argument, example, json_option, key_option, runs_option, say_json, stdout_for_results

if TYPE_CHECKING:
    from ...runtime.task import Task
    from ..data.samples import Columns
    from ..proof.cases import FieldCases
    from ..proof.field import Asker, Done
    from ..proof.kept_answers import StoredAnswers

F = TypeVar("F", bound=Callable[..., Any])
Advance = Callable[[float, float, str], None]

FILE = click.Path(dir_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)


def data_option(function: F) -> F:
    """Take `--data MANIFEST`."""
    return click.option("--data", type=PATH, required=True, metavar="MANIFEST", help="CSV or its folder.")(function)


def column_option(function: F) -> F:
    """Take `--column NAME=COLUMN`, any number of times."""
    text = "Columns of a task, or of file, patient and split, where they have other names; may be given again."
    return click.option("--column", "columns", multiple=True, metavar="NAME=COLUMN[,COLUMN]", help=text)(function)


def of_option(function: F) -> F:
    """Take `--of RECIPE`."""
    return click.option("--of", "origin", metavar="RECIPE", help="Names the manifest's columns.")(function)


@click.command(
    epilog=example(
        "foveola answers chest-xray:teacher --data /data/cxr -o answers.npz",
        "foveola answers runs/demo/teacher-7c267110a335 --data /data/cxr --split all -o answers.npz",
    )
)
@click.argument("teacher", metavar="TEACHER")
@data_option
@click.option("--split", default="test", show_default=True, metavar="SPLIT", help="Which rows; `all` takes every one.")
@click.option("-o", "--out", type=FILE, default=Path("answers.npz"), show_default=True, help="Where to write.")
@of_option
@column_option
@runs_option
@json_option
def answers(
    teacher: str,
    data: Path,
    split: str,
    out: Path,
    origin: str | None,
    columns: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Keep what a teacher says about images, for a proof where there is no torch.

    TEACHER is the folder of a finished step, or RECIPE:STEP. The file knows images by the SHA-256 of their files; no
    name, patient or pixel of an image is inside, but masks and scores are. Needs the toolkit.
    """
    from ..proof.cases import manifest_of, read_cases
    from ..proof.finished_step import ask_step
    from ..proof.stored_answers import write_answers

    tasks, named = _columns(origin, columns)
    with stdout_for_results(), _voice("answers", str(teacher)) as progress:
        found = read_cases(manifest_of(data), tasks, named, split, sure=True)
        stored = ask_step(teacher, runs, found.cases, lambda done, total: progress(done, total, "the teacher answers"))
        write_answers(out, stored)
    if as_json:
        tasks_said = [task.name for task in stored.meta.tasks]
        say_json({"file": out, "images": len(stored), "teacher": stored.meta.teacher, "tasks": tasks_said})
    else:
        click.echo(f"{out}  {len(stored)} images, teacher {stored.meta.teacher}")


@click.command(
    epilog=example(
        "foveola parity chest.foveola --data cases.csv --protocol protocol.yaml --teacher answers.npz",
        "foveola parity chest.foveola --data cases --protocol protocol.yaml --against chest-xray:teacher --names",
    )
)
@bundle_argument
@data_option
@click.option("--protocol", type=FILE, metavar="PROTOCOL", help="Locked, or its lock alone.")
@click.option("--usual", is_flag=True, help="Without a protocol: the usual endpoints and margins. The report says so.")
@click.option("--expect", default="", metavar="DIGEST", help="Take no other protocol than this one.")
@click.option("--teacher", type=FILE, metavar="ANSWERS", help="Its answers, as `foveola answers` wrote them.")
@click.option("--against", metavar="STEP", help="Instead: the teacher's finished step, or RECIPE:STEP (needs torch).")
@click.option("-o", "--out", type=PATH, default=Path("parity"), show_default=True, help="Folder of the results.")
@click.option("--engine", "engines", multiple=True, metavar="E", help="By default all of the bundle's installed here.")
@key_option
@click.option("--allow-unsigned", is_flag=True, help="Open a bundle that nobody vouches for. The report says so.")
@click.option("--split", metavar="SPLIT", help="Which rows; `all` takes every one. By default the protocol's.")
@of_option
@column_option
@click.option(
    "--private/--names", "private", default=True, show_default=True, help="Write numbers for cases and patients."
)
@click.option(
    "--pictures",
    type=click.IntRange(0, 50),
    default=8,
    show_default=True,
    metavar="N",
    help="With --names: how many flips are drawn.",
)
@runs_option
@json_option
def parity(
    bundle: Path,
    data: Path,
    protocol: Path | None,
    usual: bool,
    expect: str,
    teacher: Path | None,
    against: str | None,
    out: Path,
    engines: tuple[str, ...],
    key: Path | None,
    allow_unsigned: bool,
    split: str | None,
    origin: str | None,
    columns: tuple[str, ...],
    private: bool,
    pictures: int,
    runs: Path,
    as_json: bool,
) -> int:
    """Prove a shipped bundle on your images, against its teacher or the answers that it left.

    The bundle answers as on the device. Written are report.html, evidence.json and flips.csv; cases and patients are
    numbers in them unless --names. Rows may lack a reference standard: then agreement with the teacher is told and
    nothing is proved. The verdict is the exit code (0 pass, 3 fail, 6 underpowered).
    """
    from ..pipeline import EXIT_CODES
    from ..proof.field import Ask, prove_files

    ask = Ask(
        protocol=protocol,
        usual=usual,
        expect=expect,
        engines=engines,
        key=key,
        unsigned=allow_unsigned,
        origin=origin,
        columns=columns,
        split=split,
        names=not private,
        pictures=pictures,
    )
    with stdout_for_results(), _voice("parity", str(bundle)) as progress:
        source = _source(teacher, against, runs, progress)
        done = prove_files(bundle, data, ask, teacher=source, folder=out, progress=progress)
    for note in done.notes:
        click.echo(note, err=True)
    code = EXIT_CODES[done.evidence.verdict]
    _say(done, int(code), as_json=as_json)
    return code


def _columns(origin: str | None, columns: tuple[str, ...]) -> tuple[tuple[Task, ...], Columns]:
    """Name the manifest's own columns for a command that looks at no target."""
    import msgspec

    from ..data.samples import Columns
    from ..proof.cases import name_columns

    named = Columns()
    if origin is not None:
        from ..protocol.origin import find_origin

        named = find_origin(origin).columns or named
    return name_columns(columns, (), msgspec.structs.replace(named, attributes=(), none={}))


def _source(teacher: Path | None, against: str | None, runs: Path, progress: Advance) -> Path | Asker:
    """Choose between stored answers and the teacher itself."""
    if (teacher is None) == (against is None):
        raise UsageError(
            "--teacher", "give either stored answers, or --against a step", "`foveola answers` stores them"
        )
    if teacher is not None:
        return teacher
    named = str(against)

    def ask(found: FieldCases) -> StoredAnswers:
        from ..proof.finished_step import ask_step

        return ask_step(named, runs, found.cases, lambda done, total: progress(done, total, "the teacher answers"))

    return ask


@contextmanager
def _voice(step: str, bundle: str) -> Iterator[Advance]:
    """Say on stderr how far it is."""
    from ..progress import make_progress

    voice = make_progress()
    voice.begin(step, 1, 1, bundle)
    try:
        yield voice.advance
        voice.end("done")
    finally:
        voice.close()


def _say(done: Done, code: int, *, as_json: bool) -> None:
    from ..parity.evidence import EVIDENCE, FLIPS
    from ..proof.judge import REPORT

    evidence, files = done.evidence, {"report": REPORT, "evidence": EVIDENCE, "flips": FLIPS}
    if as_json:
        say_json(
            {
                "bundle": evidence.bundle,
                "verdict": evidence.verdict,
                "cases": evidence.cases,
                "patients": evidence.patients,
                "protocol_digest": evidence.protocol_digest,
                **{what: done.folder / name for what, name in files.items()},
                "exit_code": code,
            }
        )
        return
    from rich.console import Console

    from ..report.table import summary_table

    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=100)).print(summary_table(evidence))
    for what, name in files.items():
        click.echo(f"{what}  {done.folder / name}")
