"""The search's memory: an Optuna study that several workers share and that outlives all of them.

- By default a journal file beside the trials; `--storage` takes another file or a database's URL, for many machines.
- The study keeps by what recipe, budget and device it was begun; another one is refused, field by field.
- A trial whose process died is failed and put back into the queue, with its values; a trial that has killed its process
  three times is left alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from ...runtime.errors import FoveolaError, UsageError
from ..stage import as_json, knobs
from .budget import Budget
from .draft import Draft
from .row import ATTRIBUTE, Row
from .section import Sampler, Scalar

IDENTITY = "identity"  # of a study
FREE = ("trials", "finalists", "student", "proof")  # fields of the section that may differ when a search goes on
DEATHS = 3  # of one candidate's processes, after which it is left alone
SILENT_S = 3600.0  # without a sign for so long, a worker of another machine counts as dead
POPULATION = 16  # of NSGA-II: a search of dozens of trials never fills Optuna's default of 50


def open_study(
    name: str, storage: str, folder: Path, sampler: Sampler, seed: int, identity: Mapping[str, object], *, trials: int
) -> optuna.study.Study:
    """Open a study, or begin it.

    Args:
        name: of the study; one storage may hold several.
        storage: URL of a database, or path of a journal file; empty: `journal.log` in `folder`.
        folder: of the search.
        sampler: who proposes.
        seed: of everything random that is proposed.
        identity: by what the search is known (`identity_of`).
        trials: how many are planned: a third of them at most are drawn at random first.

    Raises:
        FoveolaError: the study was begun otherwise, or the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=name,
        storage=_storage(storage or str(folder / "journal.log")),
        directions=("minimize", "maximize"),  # cost, slack of the worst task
        sampler=make_sampler(sampler, seed, trials),
        load_if_exists=True,
    )
    before = study.user_attrs.get(IDENTITY)
    if before is None:
        study.set_user_attr(IDENTITY, dict(identity))
    elif before != identity:
        fields = [field for field in {**before, **identity} if before.get(field) != identity.get(field)]
        told = [f"{field} {_short(before.get(field))} -> {_short(identity.get(field))}" for field in fields]
        mend = "restore it, or search in another place (--runs)"
        raise FoveolaError(str(folder), f"the search was begun otherwise: {'; '.join(told)}", mend)
    return study


def _storage(where: str) -> BaseStorage:
    if "://" not in where:
        try:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(where))
        except OSError as error:
            raise UsageError(f"--storage {where}", f"cannot be opened: {error.strerror}", "name a file") from None
        except (ValueError, LookupError, TypeError, AttributeError):  # it reads the lines at once, and trusts them
            raise UsageError(f"--storage {where}", "is no journal of a search", "name a new file") from None
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        return RDBStorage(where)
    except (ArgumentError, SQLAlchemyError, ImportError, ValueError) as error:
        fault = " ".join(str(error).split())[:160]
        raise UsageError("--storage", f"cannot be opened: {fault}", "for example sqlite:///search.db") from None


def make_sampler(kind: Sampler, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Make the sampler; all of them know the budget as a constraint."""
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if kind == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=min(POPULATION, max(4, trials // 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `multivariate` and `group` are marked as experimental
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=min(10, max(4, trials // 3)), multivariate=True, group=True
        )


def identity_of(draft: Draft, budget: Budget, timing: str, images: str = "") -> dict[str, object]:
    """By what a search is known, flat: recipe, section, budget, images, and how its times are found.

    Args:
        draft: the recipe that is varied.
        budget: of the device.
        timing: how latencies are found, in words.
        images: digest of the data set, since a folder's files may change while the recipe does not.
    """
    recipe = draft.recipe
    section = {key: value for key, value in knobs(draft.search).items() if key not in FREE}
    whole = {
        "device": recipe.device,
        "seed": recipe.seed,
        "tasks": {task.name: knobs(task, ("name",)) for task in recipe.tasks},
        "data": {"stage": recipe.data.kind, **knobs(recipe.data.stage, recipe.data.stage.PATHS)},
        "steps": {step.name: {"stage": step.kind, **knobs(step.stage, step.stage.PATHS)} for step in recipe.steps},
        "search": section,
        "measured": {"student": draft.roles.student, "proof": draft.roles.proof},
        "budget": dict(budget.limits),
        "latency": timing,
        "images": images,
    }
    return _flat(as_json(whole))


def _flat(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict) and value:
        parts = [_flat(inner, f"{path}.{key}" if path else str(key)) for key, inner in value.items()]
        return {key: inner for part in parts for key, inner in part.items()}
    return {path: value}


def _short(value: object) -> str:
    text = value if isinstance(value, str) and value else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_rows(study: optuna.study.Study) -> list[Row]:
    """All trials that have begun, in their order."""
    return [row for trial in study.get_trials(deepcopy=False) if (row := _row(trial)) is not None]


def _row(trial: FrozenTrial) -> Row | None:
    kept = trial.user_attrs.get(ATTRIBUTE)
    if kept is None or trial.state == TrialState.WAITING:
        return None
    row = msgspec.convert(kept, Row)
    died = row.state == "running" and trial.state == TrialState.FAIL
    row = msgspec.structs.replace(row, number=trial.number)
    return msgspec.structs.replace(row, state="failed", reason="its process died") if died else row


def keep_row(trial: optuna.trial.Trial, row: Row) -> None:
    """Write what is known of a trial."""
    trial.set_user_attr(ATTRIBUTE, msgspec.to_builtins(row))


def tell(study: optuna.study.Study, trial: optuna.trial.Trial, row: Row, budget: Budget) -> None:
    """Close a trial: its two objectives where it has both, and how far it is over each budget."""
    keep_row(trial, row)
    excess = {} if row.cost is None else budget.excess(row.cost)
    for figure, share in excess.items():
        trial.set_constraint(figure, share)
    price = None if row.cost is None or budget.figure not in excess else excess[budget.figure]
    if row.state == "done" and row.slack is not None and price is not None:
        trial.set_constraint("slack", -row.slack)
        study.tell(trial, [(1 + price) * budget.limits[budget.figure], row.slack])
    else:
        given_up = row.state in ("over", "stopped")
        study.tell(trial, state=TrialState.PRUNED if given_up else TrialState.FAIL)


def bury(study: optuna.study.Study, alive: Callable[[str], bool]) -> int:
    """Fail the trials whose worker is gone and queue their values again; give their number.

    Args:
        study: of the search.
        alive: whether a worker of this machine is still there.
    """
    buried = 0
    rows = {row.number: row for row in read_rows(study)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        row = rows.get(trial.number)
        if row is not None and (alive(row.worker) or _signs(row)):
            continue
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        buried += 1
        if row is not None and _deaths(row, rows) < DEATHS:
            study.enqueue_trial(dict(row.values), user_attrs={"again": trial.number})
    return buried


def _signs(row: Row) -> bool:
    """Whether a worker of another machine has given a sign lately."""
    host = row.worker.partition(":")[0]
    return host != this_host() and time.time() - row.seen < SILENT_S


def _deaths(row: Row, rows: Mapping[int, Row]) -> int:
    count = 1
    while row.again is not None and row.again in rows:
        row, count = rows[row.again], count + 1
    return count


def this_host() -> str:
    """The machine's name, as workers are known by it; never written into a report."""
    import socket

    return socket.gethostname().replace(":", "-") or "host"


def same_values(values: Mapping[str, Scalar], rows: Sequence[Row]) -> Row | None:
    """An earlier trial with the same values that was not left by a dead process."""
    return next((row for row in rows if row.values == values and row.state not in ("failed", "repeated")), None)
