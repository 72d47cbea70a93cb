"""`foveola run`, `plan`, `recipes`, `schema`: what happens to a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .parts import (
    Group,
    example,
    json_option,
    recipe_argument,
    runs_option,
    say_json,
    set_option,
    stdout_for_results,
)

if TYPE_CHECKING:
    from ..pipeline import Outcome
    from ..recipe import Recipe


def load_recipe(name: str, changes: tuple[str, ...]) -> Recipe:
    """Read a recipe by path or shipped name, against the table of stages."""
    from ..recipe import find_recipe, read_recipe
    from ..stages.table import STAGES

    return read_recipe(find_recipe(name), STAGES, changes)


@click.command(
    epilog=example("foveola run demo", "foveola run mine.yaml --set data.root=/data/xray --runs /scratch/runs")
)
@recipe_argument
@set_option
@runs_option
@json_option
def run(recipe: str, changes: tuple[str, ...], runs: Path, as_json: bool) -> int:
    """Run what is not done yet of a recipe.

    RECIPE is a YAML file or the name of a shipped recipe. Steps that are done with the same knobs and inputs are
    reused; stopped at any point, the same command goes on from there. At the end stands the proof's table; its verdict
    is the exit code (0 pass, 3 fail, 6 underpowered).
    """
    from .. import pipeline
    from ..progress import make_progress
    from ..workers import leads

    with stdout_for_results():
        outcome = pipeline.run(load_recipe(recipe, changes), runs, make_progress())
    if not leads():
        return 0
    if as_json:
        say_json(_outcome_json(outcome))
    else:
        _show(outcome)
    return outcome.exit_code


@click.command(epilog=example("foveola plan demo --set steps.student.epochs=10"))
@recipe_argument
@set_option
@runs_option
@json_option
def plan(recipe: str, changes: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Show what a run would do, and why.

    Each step is `reused`, or runs for one reason: first run, changed, follows (a step before it changed), interrupted,
    damaged. Nothing is written.
    """
    from ..plan import make_plan

    with stdout_for_results():
        planned = make_plan(load_recipe(recipe, changes), runs)
    if as_json:
        steps = [
            {"step": p.step.name, "stage": p.step.kind, "why": p.why, "reason": p.reason, "folder": str(p.folder)}
            for p in planned
        ]
        say_json({"recipe": recipe, "steps": steps})
        return
    width = max(len(p.step.name) for p in planned)
    for p in planned:
        click.echo(f"{p.step.name:<{width}}  {p.reason}")


@click.group(cls=Group, invoke_without_command=True, epilog=example("foveola recipes", "foveola recipes show demo"))
@json_option
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List the recipes that come with Foveola."""
    if context.invoked_subcommand is not None:
        return
    from ..recipe import shipped_recipes

    about = {name: _about(path) for name, path in shipped_recipes().items()}
    if as_json:
        say_json({"recipes": about})
        return
    width = max(map(len, about), default=0)
    for name, text in about.items():
        click.echo(f"{name:<{width}}  {text}".rstrip())


@recipes.command(epilog=example("foveola recipes show demo > mine.yaml"))
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print a recipe, to start one's own from."""
    from ..recipe import find_recipe

    text = find_recipe(name).read_text(encoding="utf-8")
    if as_json:
        say_json({"name": name, "text": text})
    else:
        click.echo(text, nl=False)


@click.command(epilog=example("foveola schema > recipe.schema.json"))
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of recipes, for editors.

    With the YAML extension of many editors, the comment `# yaml-language-server: $schema=recipe.schema.json` at the top
    of a recipe makes it complete and check while one types. The output is JSON with or without --json.
    """
    import msgspec

    from ...devices.profile import profile_ids
    from ..recipe_schema import recipe_schema
    from ..stages.table import STAGES

    made = msgspec.json.encode(recipe_schema(STAGES, profile_ids()))
    click.echo((made if as_json else msgspec.json.format(made, indent=2)).decode())


def _about(path: Path) -> str:
    """Give the first comment of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    from ..parity.evidence import EVIDENCE

    return {
        "recipe": outcome.recipe,
        "folder": outcome.folder,
        "steps": outcome.steps,
        "verdict": outcome.verdict,
        "proofs": [proof.folder / EVIDENCE for proof in outcome.proofs],
        "report": _last(outcome, "report.html"),
        "bundle": _last(outcome, "*.foveola"),
        "exit_code": int(outcome.exit_code),
    }


def _show(outcome: Outcome) -> None:
    """Print the table of every proof, and where report and bundle lie."""
    if outcome.proofs:
        import msgspec
        from rich.console import Console

        from ..report.table import Speed, summary_table

        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=100)
        measured = _last(outcome, "speeds.json")
        speeds = msgspec.json.decode(measured.read_bytes(), type=list[Speed]) if measured else []
        for proof in outcome.proofs:
            console.print(summary_table(proof.evidence, speeds if proof is outcome.proofs[-1] else ()))
    for what, pattern in (("bundle", "*.foveola"), ("report", "report.html")):
        path = _last(outcome, pattern)
        if path is not None:
            click.echo(f"{what}  {path}")


def _last(outcome: Outcome, pattern: str) -> Path | None:
    found = outcome.find(pattern)
    return found[-1] if found else None
