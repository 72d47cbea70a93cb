"""Laws of the command line: quick help that teaches, one JSON object on stdout, one line a fault, agreed exit codes.

Run as a program, this file is `foveola` with the tiny stages below.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import msgspec
import pytest

from foveola.runtime.errors import FoveolaError, MissingPartError, NotVouchedError, UsageError
from foveola.runtime.verbs.table import VERBS
from foveola.runtime.verbs.verb import parser
from foveola.toolkit import cli
from foveola.toolkit.commands.table import foveola
from foveola.toolkit.parity.evidence import EVIDENCE, Evidence, Verdict, encode_evidence
from foveola.toolkit.stage import DataStage, Stage
from foveola.toolkit.work import Work, write_atomic

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "openvino",
    "numpy",
    "scipy",
    "PIL",
    "matplotlib",
    "rich",
)


# --- tiny stages ---


class Words(DataStage, frozen=True, kw_only=True):
    """Data."""

    def run(self, work: Work) -> None:
        (work.folder / "words").write_text("a b c")


class Noisy(Stage, frozen=True, kw_only=True):
    """Prints where it should not, as libraries do."""

    def run(self, work: Work) -> None:
        print("noise of Python")
        os.write(1, b"noise of C\n")
        os.system("echo noise of a child")
        work.log("half way")


class Slow(Stage, frozen=True, kw_only=True):
    """Takes a while, and goes on where it was stopped."""

    RESUMES = True
    seconds: float

    def run(self, work: Work) -> None:
        if not (work.folder / "begun").exists():
            write_atomic(work.folder / "begun", b"")
            time.sleep(self.seconds)


class Prove(Stage, frozen=True, kw_only=True):
    """Evidence."""

    verdict: Verdict = "pass"

    def run(self, work: Work) -> None:
        (work.folder / EVIDENCE).write_bytes(encode_evidence(evidence(self.verdict)))
        (work.folder / "report.html").write_text("<p>proof</p>")
        (work.folder / "tiny.foveola").write_bytes(b"")


STAGES: dict[str, type[Stage]] = {"words": Words, "noisy": Noisy, "slow": Slow, "prove": Prove}

RECIPE = """\
name: tiny
device: generic-x86
data: {stage: words}
tasks:
  lung: {kind: binary, classes: [no, yes]}
steps:
  noise: {stage: noisy}
  proof: {stage: prove}
"""


def evidence(verdict: Verdict) -> Evidence:
    return Evidence(
        bundle="tiny",
        bundle_digest="0" * 64,
        teacher_digest="1" * 64,
        data_digest="2" * 64,
        split="test",
        cases=3,
        patients=2,
        alpha=0.025,
        resamples=100,
        seed=7,
        endpoints=(),
        verdict=verdict,
    )


def tiny_table() -> ModuleType:
    module = ModuleType("foveola.toolkit.stages.table")
    module.STAGES = STAGES  # type: ignore[attr-defined]
    return module


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe file beside which the command runs, with the tiny stages in place of the real ones."""
    monkeypatch.setitem(sys.modules, "foveola.toolkit.stages.table", tiny_table())
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(RECIPE)
    return file


# --- help ---


def commands(
    group: click.Group = foveola, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())
IDS = [" ".join(path) for path in ALL]

HELP = """
import io, contextlib, json, sys
from foveola.toolkit.cli import main
with contextlib.redirect_stdout(io.StringIO()) as said:
    codes = [main([*path, "--help"]) for path in json.loads(sys.argv[1])]
print(json.dumps([codes, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def test_no_help_loads_anything_heavy() -> None:
    paths = json.dumps([[], *ALL])
    done = subprocess.run([sys.executable, "-c", HELP, paths], capture_output=True, text=True, check=True, timeout=60)

    codes, modules = json.loads(done.stdout)

    assert set(codes) == {0}
    assert not set(HEAVY) & set(modules)


def test_help_answers_within_three_tenths_of_a_second() -> None:
    """Processor time, so that a busy machine does not count; the best of three."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = "import sys; from foveola.toolkit.cli import main; sys.exit(main(['--help']))"
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


@pytest.mark.parametrize(("path", "command"), ALL.items(), ids=IDS)
def test_every_command_says_what_it_does_and_shows_an_example(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    assert command.help.splitlines()[0].endswith(".")
    assert command.epilog
    assert f"foveola {path[0]}" in command.epilog
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"{parameter.name} has no help"


EXAMPLES = [line.strip() for command in (foveola, *ALL.values()) for line in (command.epilog or "").splitlines()[2:]]


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_is_a_valid_command_line(line: str) -> None:
    program, *words = shlex.split(line.partition(" >")[0])
    assert program == "foveola"

    command: click.Command = foveola
    while isinstance(command, click.Group) and words:
        command, words = command.commands[words[0]], words[1:]
    command.make_context("foveola", words)


def test_the_verbs_of_a_bundle_take_the_options_of_the_device() -> None:
    verbs = next(action.choices for action in parser(VERBS, "x")._actions if isinstance(action.choices, dict))
    for verb in VERBS:
        device = {option for action in verbs[verb]._actions for option in action.option_strings or [action.dest]}
        here = {name for parameter in foveola.commands[verb].params for name in parameter.opts}
        assert here | {"-h", "--help"} == device


# --- run and plan ---


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 3), ("underpowered", 6)])
def test_run_ends_with_a_table_the_report_and_the_verdict_s_exit_code(
    recipe: Path, capfd: pytest.CaptureFixture[str], verdict: str, code: int
) -> None:
    assert cli.main(["run", "tiny.yaml", "--set", f"steps.proof.verdict={verdict}"]) == code

    out, err = capfd.readouterr()
    report = next(Path("runs").glob("tiny/proof-*/report.html"))
    assert f"report  {report}" in out
    assert f"bundle  {report.with_name('tiny.foveola')}" in out
    assert "endpoint" in out, "the table"
    assert "noise" not in out
    assert "[3/3] proof: done in 0 s" in err


def test_json_is_one_object_on_stdout_and_nothing_else(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(recipe), "--json"]) == 0

    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result["verdict"] == "pass"
    assert result["exit_code"] == 0
    assert [step["step"] for step in result["steps"]] == ["data", "noise", "proof"]
    assert Path(result["report"]).is_file()
    for noise in ("noise of Python", "noise of C", "noise of a child", "half way"):
        assert noise in err


def test_what_c_code_keeps_in_its_buffer_does_not_reach_the_json(tmp_path: Path) -> None:
    code = (
        "import ctypes; from foveola.toolkit.commands.parts import stdout_for_results, say_json\n"
        "with stdout_for_results(): ctypes.CDLL(None).printf(b'late noise\\n')\n"
        "say_json({'a': 1})"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert (done.stdout, done.stderr) == ('{"a":1}\n', "late noise\n")


def test_plan_tells_one_reason_a_step(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", "tiny.yaml"])
    first = capfd.readouterr().out
    cli.main(["run", "tiny.yaml"])
    capfd.readouterr()
    code = cli.main(["plan", "tiny.yaml", "--set", "steps.proof.verdict=fail", "--json"])

    assert first.splitlines() == ["data   first run", "noise  first run", "proof  first run"]
    assert code == 0, "a plan is no proof"
    steps = json.loads(capfd.readouterr().out)["steps"]
    assert [step["reason"] for step in steps] == ["reused", "reused", "changed: verdict pass -> fail"]


def test_runs_of_another_folder_are_other_runs(recipe: Path, tmp_path: Path) -> None:
    assert cli.main(["run", "tiny.yaml", "--runs", "elsewhere"]) == 0

    assert (tmp_path / "elsewhere" / "tiny").is_dir()
    assert not (tmp_path / "runs").exists()


def test_all_faults_of_a_recipe_are_told_one_a_line_without_a_traceback(
    recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(RECIPE.replace("noisy", "nosy").replace("generic-x86", "generic"))

    assert cli.main(["run", "tiny.yaml"]) == 2

    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "tiny.yaml:2: device: no device 'generic'; did you mean 'generic-x86'?",
        "tiny.yaml:7: steps.noise: no stage 'nosy'; did you mean 'noisy'?",
    ]


def test_ctrl_c_leaves_a_state_from_which_the_same_command_goes_on(tmp_path: Path) -> None:
    text = RECIPE.replace("{stage: noisy}", "{stage: slow, seconds: 60}")
    (tmp_path / "tiny.yaml").write_text(text)
    command = [sys.executable, __file__, "run", "tiny.yaml"]

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job is started deaf to it

    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=hear
    ) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("runs/tiny/noise-*/begun")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert "Traceback" not in err
    assert again.returncode == 0
    assert "[1/3] data: reused" in again.stderr
    assert "[2/3] noise: interrupted" in again.stderr, "the reason why it runs"


# --- the door ---


DOOR = {
    "refused": (FoveolaError("chest.csv line 7", "no mask", "add it"), 1, "chest.csv line 7: no mask; add it\n"),
    "usage": (UsageError("recipe.yaml", "no data"), 2, "recipe.yaml: no data\n"),
    "engine missing": (MissingPartError("openvino", "not there", "install it"), 4, "openvino: not there; install it\n"),
    "not vouched for": (NotVouchedError("a.foveola", "no key"), 5, "a.foveola: no key\n"),
    "extra missing": (
        ModuleNotFoundError("", name="torch.nn"), 4, "torch: is not installed; pip install 'foveola[toolkit]'\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("error", "code", "line"), DOOR.values(), ids=DOOR.keys())
def test_every_refusal_has_its_exit_code_and_one_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(args: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_invoke", refuse)

    assert cli.main([]) == code
    assert capsys.readouterr() == ("", line)


def test_a_missing_module_of_ours_is_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foveola.toolkit.stages.table", None)

    with pytest.raises(ModuleNotFoundError):
        cli.main(["schema"])


def test_the_base_install_without_click_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from foveola.toolkit.cli import main; sys.exit(main(['--help']))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.returncode == 4
    assert done.stderr == "click: is not installed; pip install 'foveola[toolkit]'\n"


USAGE = {
    "unknown command": (["pln"], "no command 'pln'; did you mean 'plan'?"),
    "unknown subcommand": (["data", "chek"], "no command 'chek'; did you mean 'check'?"),
    "unknown option": (["run", "demo", "--ste", "x=1"], "--ste"),
    "no recipe": (["run"], "Missing argument 'RECIPE'"),
    "no shipped recipe": (["plan", "dmeo"], "dmeo: no file and no shipped recipe has this name; did you mean 'demo'?"),
    "no recipe file": (["plan", "dmeo.yaml"], "dmeo.yaml: there is no such file"),
}


@pytest.mark.parametrize(("args", "words"), USAGE.values(), ids=USAGE.keys())
def test_a_wrong_command_line_is_exit_code_two(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


# --- recipes, schema, devices, data ---


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert cli.main(["recipes", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)["recipes"]
    assert cli.main(["recipes", "show", "demo"]) == 0
    text = capsys.readouterr().out

    assert [line.split()[0] for line in listed.splitlines()] == list(names)
    assert "demo" in names
    assert "\nname: demo\n" in f"\n{text}"


def test_the_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0

    schema = json.loads(capsys.readouterr().out)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    stages = schema["properties"]["steps"]["additionalProperties"]["oneOf"]
    assert "distill" in [stage["title"] for stage in stages]
    assert all(
        part.get("description") for stage in stages for name, part in stage["properties"].items() if name != "stage"
    )


def test_devices_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json"]) == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert cli.main(["devices", "show", "generic-x86"]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["devices", "show", "toaster"]) == 1

    assert "generic-x86" in devices
    assert shown.startswith("id: generic-x86\n")
    assert "toaster" in capsys.readouterr().err


def test_phantoms_are_made_into_an_empty_folder_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "phantom", str(tmp_path / "data"), "--patients", "8", "--size", "64", "--json"]

    assert cli.main(command) == 0
    made = json.loads(capsys.readouterr().out)
    assert cli.main(command) == 1

    assert made["images"] == len(list((tmp_path / "data" / "images").iterdir()))
    assert "Traceback" not in capsys.readouterr().err


def test_phantoms_that_do_not_fit_the_disk_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, **_: object) -> int:
        (folder / "images").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "images" / "1.png"))

    monkeypatch.setattr("foveola.toolkit.data.phantom_chest.make_chest", full)

    assert cli.main(["data", "phantom", str(tmp_path / "data")]) == 1
    assert not (tmp_path / "data").exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{tmp_path / 'data'}: cannot be written: No space left on device; make room, or name another folder"


def test_a_phantom_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    assert cli.main(["data", "phantom", str(tmp_path / "file" / "data")]) == 1
    assert capsys.readouterr().err.endswith("cannot be made: Not a directory; name another folder\n")


def test_data_are_checked_and_every_fault_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    cli.main(["data", "phantom", str(folder), "--patients", "8", "--size", "64"])
    capsys.readouterr()

    assert cli.main(["data", "check", str(folder), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    broken = sorted((folder / "images").iterdir())[:2]
    broken[0].write_bytes(b"")
    broken[1].unlink()
    assert cli.main(["data", "check", str(folder / "manifest.csv")]) == 1
    told = capsys.readouterr().out

    assert whole["errors"] == []
    assert sum(whole["patients"].values()) == 8
    for file in broken:
        assert [line for line in told.splitlines() if line.startswith("error ") and file.name in line]


def test_data_are_checked_against_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    cli.main(["data", "phantom", str(folder), "--patients", "8", "--size", "64"])
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\ndevice: generic-x86\ndata: {stage: manifest, root: nowhere}\n"
        "tasks: {view: {kind: binary, classes: [PA, AP]}, sx: {kind: binary, classes: [F, M]}}\n"
        "steps: {teacher: {stage: load, library: timm, architecture: x, weights: x, "
        "input: {height: 32, width: 32, channels: 1}}}\n"
    )
    capsys.readouterr()

    assert cli.main(["data", "check", str(folder), "--recipe", str(file)]) == 1

    out, _ = capsys.readouterr()
    assert "did you mean 'sex'?" in out
    assert "PA " in out
    # Counted as the recipe will have it; it would take patients from a set that has a calibration split already.
    assert cli.main(["data", "check", str(folder), "--recipe", str(file), "--set", "data.calibration=0.3"]) == 2
    assert "has a calibration split of its own; set calibration to 0" in capsys.readouterr().err
    assert cli.main(["data", "check"]) == 2
    assert cli.main(["data", "check", "--recipe", "demo"]) == 2


# --- bundles and keys ---


def test_keys_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = str(tmp_path / "keys" / "maker")

    assert cli.main(["keygen", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"private": f"{name}.pem", "public": f"{name}.pub"}
    assert cli.main(["keygen", name]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", [*(name for name, verb in VERBS.items() if verb.options[0].metavar == "BUNDLE"), "sign"]
)
def test_a_bundle_that_is_not_there_is_one_line(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = {
        "predict": ["image.png"],
        "sign": ["--key", "maker.pem"],
        "install": ["--root", str(tmp_path / "device"), "--key", "maker.pub"],
    }
    more = needed.get(verb, [])

    assert cli.main([verb, str(tmp_path / "no.foveola"), *more]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{tmp_path / 'no.foveola'}: ")
    assert err.count("\n") == 1


def test_a_verb_of_a_bundle_gives_the_device_s_answer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def answer(arguments: object) -> tuple[int, dict[str, str], list[str]]:
        seen.update(vars(arguments))
        os.write(1, b"noise of an engine\n")
        return 5, {"said": "no"}, ["no"]

    for verb in VERBS:
        monkeypatch.setitem(VERBS, verb, msgspec.structs.replace(VERBS[verb], run=answer))
    assert cli.main(["predict", "a.foveola", "1.png", "2.png", "--engine", "openvino", "--json"]) == 5
    json_out = capfd.readouterr().out
    assert cli.main(["verify", "a.foveola"]) == 5
    text_out = capfd.readouterr().out

    assert json_out == '{"said":"no"}\n'
    assert text_out == "no\n"
    assert seen["engine"] == "openvino"
    assert list(seen["images"]) == [Path("1.png"), Path("2.png")]


def test_bench_takes_its_pauses_with_and_without_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []

    def answer(arguments: object) -> tuple[int, dict[str, str], list[str]]:
        values = vars(arguments)
        seen.append((values["idle"], values["sustain"]))
        return 0, {}, []

    monkeypatch.setitem(VERBS, "bench", msgspec.structs.replace(VERBS["bench"], run=answer))
    for more in ([], ["--idle"], ["--idle", "0.5", "--sustain"]):
        assert cli.main(["bench", "a.foveola", *more]) == 0

    assert seen == [(0.0, 0.0), (2.0, 0.0), (0.5, 60.0)]


if __name__ == "__main__":
    sys.modules["foveola.toolkit.stages.table"] = tiny_table()
    sys.exit(cli.main())
