"""Devices that are ten years in the field: Python 3.10, Windows, engines two years old.

`runtime/` and `devices/` are what a device runs; the toolkit stands on the host and is not held to this.

- Names of Python 3.10: mypy with typeshed's stubs for that version, which know when each name came.
- Grammar of Python 3.10: ruff, and Python's own parser.
- Windows: every name that only Unix has stands in a branch that asks for the system first (table and syntax tree).
- The long form installs the oldest packages that the index still serves within the declared bounds, for this Python and
  for Python 3.10 where there is one, and runs the tiny bundle's self-test and prediction there.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from foveola.tests.environments import ROOT, build_wheel, pip, run

FOLDERS = ("runtime", "devices")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
MISSING = re.compile(r"\[(attr-defined|import-not-found|name-defined|syntax)\]$")
MODULE = re.compile(r'module named "(\w+)')

# What Windows' Python does not have, by module. Path.symlink_to and os.symlink need a right there that no service has.


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNIX_MODULES = names("crypt curses fcntl grp nis posix pty pwd readline resource spwd syslog termios tty")
UNIX_NAMES = {
    "os": names("""
        chown chroot confstr ctermid eventfd fchdir fchown fdatasync fork forkpty fpathconf getegid geteuid
        getgid getgroups getloadavg getpgid getpriority getresuid getsid getuid initgroups killpg lchown lockf
        major makedev memfd_create minor mkfifo mknod nice openpty O_CLOEXEC O_DIRECTORY O_DIRECT O_NOCTTY
        O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC pathconf posix_fadvise posix_fallocate posix_spawn pread preadv
        pwrite pwritev readv register_at_fork sched_getaffinity sched_setaffinity sched_setscheduler sched_yield
        sendfile setgid setgroups setpgid setpriority setsid setuid splice statvfs fstatvfs symlink sync sysconf
        tcgetpgrp ttyname uname wait wait3 wait4 waitid WEXITSTATUS WIFEXITED WIFSIGNALED WNOHANG WTERMSIG
        writev"""),
    "signal": names("""SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGPROF SIGQUIT SIGRTMIN SIGSTOP SIGTSTP
        SIGUSR1 SIGUSR2 SIGWINCH alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending
        sigtimedwait sigwait sigwaitinfo"""),
    "socket": names("AF_NETLINK AF_PACKET AF_UNIX AF_VSOCK CMSG_LEN SCM_RIGHTS SO_PEERCRED SO_REUSEPORT send_fds"),
    "select": names("epoll kqueue poll devpoll"),
    "time": names("clock_getres clock_gettime clock_gettime_ns clock_settime pthread_getcpuclockid tzset"),
}
OF_ANY = names("symlink_to preexec_fn pass_fds")  # by the name alone: whose it is cannot be seen
ASKS = ("WINDOWS", "win32", "'nt'", "platform", "hasattr", "getattr", "find_spec", "sysconf_names")
# Reached only where another function has asked already.
ASKED_BEFORE = {("runtime/serve/listen.py", "socket.AF_UNIX"): "parse_address refuses unix: on such a system"}


def asks(test: ast.expr) -> bool:
    words = ast.unparse(test)
    return any(word in words for word in ASKS)


def leaves(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def unix_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each line and name that only Unix has, outside every branch that asks for the system or for the name."""

    def visit(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.If | ast.IfExp) and asks(node.test):
            return
        if isinstance(node, ast.BoolOp) and any(asks(value) for value in node.values):
            return
        if isinstance(node, ast.Try) and any(
            "AttributeError" in ast.unparse(h) or "ImportError" in ast.unparse(h) for h in node.handlers
        ):
            return
        yield from found(node)
        for field in ast.iter_fields(node):
            children = field[1] if isinstance(field[1], list) else [field[1]]
            for child in children:
                if not isinstance(child, ast.AST):
                    continue
                # `if os.name == "nt": return` guards what follows it in the same block.
                if isinstance(child, ast.If) and asks(child.test) and leaves(child.body):
                    break
                yield from visit(child)

    yield from visit(tree)


def found(node: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Import(names=names):
            yield from ((node.lineno, alias.name) for alias in names if alias.name.split(".")[0] in UNIX_MODULES)
        case ast.ImportFrom(module=str(module), level=0, names=names):
            if module in UNIX_MODULES:
                yield node.lineno, module
            yield from ((node.lineno, f"{module}.{a.name}") for a in names if a.name in UNIX_NAMES.get(module, ()))
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if name in UNIX_NAMES.get(owner, ()):
            yield node.lineno, f"{owner}.{name}"
        case ast.Attribute(attr=name) if name in OF_ANY:
            yield node.lineno, name
        case ast.keyword(arg=str(name)) if name in OF_ANY:
            yield node.value.lineno, name
        case ast.Call(func=func, args=[ast.Constant(value="fork" | "forkserver")]) if "context" in ast.unparse(func):
            yield node.lineno, "fork"


PLANTED_UNIX = """
import os, signal, socket, fcntl
from resource import getrusage
from signal import SIGKILL
def one(path):
    os.fork(); signal.alarm(3); socket.socket(socket.AF_UNIX); path.symlink_to("x")
def two():
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else os.cpu_count()
def three():
    if os.name == "nt":
        return None
    return os.uname()
def four():
    if os.name != "nt":
        print(os.getuid())
    os.getgid()
"""


def test_the_check_finds_what_windows_lacks_outside_a_branch_for_it() -> None:
    names = [name for _, name in unix_names(ast.parse(PLANTED_UNIX))]

    assert names == [
        "fcntl",
        "resource",
        "signal.SIGKILL",
        "os.fork",
        "signal.alarm",
        "socket.AF_UNIX",
        "symlink_to",
        "os.getgid",
    ]


def test_no_call_that_windows_lacks_is_made_without_a_branch_for_it() -> None:
    wrong = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: {name}"
        for path in SOURCES
        for line, name in unix_names(ast.parse(path.read_text(encoding="utf-8")))
        if (path.relative_to(ROOT).as_posix(), name) not in ASKED_BEFORE
    ]

    assert not wrong, wrong


def test_folders_are_flushed_in_one_place_which_windows_passes_by() -> None:
    """Windows opens no folder as a file: `durable.sync_folder` alone does it, behind its branch."""
    opened = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(r"os\.open\([^)]*(parent|folder|root)\b\s*,", path.read_text(encoding="utf-8"))
    ]

    assert opened == ["runtime/durable.py"]
    assert "if WINDOWS:\n        return" in (ROOT / "runtime/durable.py").read_text(encoding="utf-8")


PLANTED_NEW = """
import datetime, enum, hashlib, tomllib, typing
from pathlib import Path
from typing import Self
print(datetime.UTC, enum.StrEnum, hashlib.file_digest, Path.walk, typing.assert_never, tomllib, Self)
"""
NEW_GRAMMAR = (
    "try:\n    pass\nexcept* OSError:\n    pass\n",
    "type X = int\n",
    "x = f'{'a'}'\n",
    "def f[T](x: T): ...\n",
)


@pytest.fixture(scope="module")
def complaints(pytestconfig: pytest.Config) -> list[str]:
    """What mypy finds missing in Python 3.10, in `runtime/`, `devices/` and a planted file."""
    # The same each time, so that mypy knows what it has seen; one for each worker, since two would overwrite it.
    folder = pytestconfig.cache.mkdir(f"python-3.10-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}")
    (folder / "foveola").mkdir(exist_ok=True)
    for name in ("__init__.py", *FOLDERS):
        link = folder / "foveola" / name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / name)
    (folder / "planted.py").write_text(PLANTED_NEW)
    settings = folder / "mypy.ini"
    settings.write_text(f"[mypy]\nmypy_path = {folder}\npython_version = 3.10\n")
    parts = [str(folder / "foveola" / name) for name in FOLDERS]
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(folder / "cache")]
    ended = subprocess.run(
        [*command, *parts, str(folder / "planted.py")], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "Found" in ended.stdout, ended.stdout + ended.stderr
    lines = [line for line in ended.stdout.splitlines() if MISSING.search(line)]
    # Packages that are not here, or bring no types, are not the standard library's fault.
    modules = [(line, MODULE.search(line)) for line in lines]
    return [line for line, module in modules if module is None or module[1] in sys.stdlib_module_names]


def test_every_name_of_the_standard_library_is_in_python_3_10(complaints: list[str]) -> None:
    planted = [line for line in complaints if line.startswith("planted.py")]

    assert [line for line in complaints if line not in planted] == []
    for name in ("UTC", "StrEnum", "file_digest", "walk", "assert_never", "tomllib", "Self"):
        assert any(f'"{name}"' in line for line in planted), (name, planted)


def ruff(*paths: Path) -> list[str]:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--target-version", "py310"]
    more = ("--select", "E9", "--output-format", "concise")
    ended = subprocess.run([*command, *more, *map(str, paths)], capture_output=True, text=True, check=False)
    return [line for line in ended.stdout.splitlines() if "invalid-syntax" in line or "SyntaxError" in line]


def test_the_grammar_is_that_of_python_3_10(tmp_path: Path) -> None:
    planted = [tmp_path / f"new_{i}.py" for i in range(len(NEW_GRAMMAR))]
    for path, text in zip(planted, NEW_GRAMMAR, strict=True):
        path.write_text(text)
        assert ruff(path), text

    assert ruff(*(ROOT / folder for folder in FOLDERS)) == []
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


# --- the long form ---------------------------------------------------------------------------------------------------


def interpreters() -> dict[str, str]:
    """This Python, and a Python 3.10 that works: on the path, or beside this one as version managers keep them."""
    beside = sorted(Path(sys.base_prefix).parent.glob("3.10*/bin/python3.10"))
    wanted = [shutil.which("python3.10"), *map(str, beside)]
    works = [
        one for one in wanted if one and subprocess.run([one, "-V"], capture_output=True, check=False).returncode == 0
    ]
    return {"this Python": sys.executable, **({"Python 3.10": works[0]} if works else {})}


def declared() -> dict[str, str]:
    """Package -> lower bound, of the base install and of OpenVINO."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["openvino"]]
    return dict(one.split(">=") for one in wanted)


def extras() -> list[str]:
    """What the device's other extras ask for, and YAML for `devices/`."""
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return [*(one for name in ("dicom", "serve") for one in optional[name] if not one.startswith("foveola")), "pyyaml"]


IMPORT_ALL = """
import importlib, pkgutil, foveola.runtime, foveola.devices
for package in (foveola.runtime, foveola.devices):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"[0-9.]+", text) else ()


def oldest(python: Path, package: str, least: str, cwd: Path) -> str:
    """The oldest version with a wheel for that Python that the index serves within the bound."""
    ended = run(python, "-m", "pip", "index", "versions", "--only-binary", ":all:", package, cwd=cwd)
    listed = re.search(r"Available versions: (.*)", ended.stdout)
    if listed is None:
        pytest.skip(f"the index does not list {package}: {ended.stderr.strip()[-200:]}")
    served = [one for one in listed[1].split(", ") if version(one) >= version(least)]
    return min(served, key=version)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["this Python", "Python 3.10"])
def test_the_oldest_packages_that_are_served_answer_as_the_newest_do(which: str, wheel: Path, tmp_path: Path) -> None:
    found = interpreters()
    if which not in found:
        pytest.skip(f"there is no {which} here")
    subprocess.run([found[which], "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pins = [f"{name}=={oldest(python, name, least, tmp_path)}" for name, least in declared().items()]
    pip(python, "install", "--only-binary", ":all:", *pins, cwd=tmp_path)
    pip(python, "install", "--no-deps", "--ignore-requires-python", str(wheel), cwd=tmp_path)
    bundle, picture = make_bundle(tmp_path / "desk")

    for engine in ("onnxruntime", "openvino"):
        common = ("-I", "-W", "error", "-m", "foveola.runtime")
        test = run(python, *common, "selftest", bundle, "--engine", engine, "--json", cwd=tmp_path)
        answer = run(python, *common, "predict", bundle, picture, "--engine", engine, "--json", cwd=tmp_path)

        assert test.returncode == 0, (pins, test.stdout, test.stderr)
        assert json.loads(test.stdout)["ok"], (pins, test.stdout)
        assert answer.returncode == 0, (pins, answer.stderr)
        here = run(
            sys.executable,
            "-m",
            "foveola.runtime",
            "predict",
            bundle,
            picture,
            "--engine",
            engine,
            "--json",
            cwd=tmp_path,
        )
        there = json.loads(answer.stdout)["images"][0]["prediction"]["findings"]
        ours = json.loads(here.stdout)["images"][0]["prediction"]["findings"]
        assert [one["label"] for one in ours] == [one["label"] for one in there]
        for one, other in zip(ours, there, strict=True):
            assert other["probability"] == pytest.approx(one["probability"], abs=1e-5)

    pip(python, "install", "--only-binary", ":all:", *extras(), cwd=tmp_path)  # some of these want a newer numpy
    everything = run(python, "-I", "-c", IMPORT_ALL, cwd=tmp_path)
    assert everything.returncode == 0, everything.stderr


def make_bundle(folder: Path) -> tuple[Path, Path]:
    """A bundle of one task for both engines, signed, its key beside it, and a picture."""
    import io

    import numpy as np
    import onnx
    import openvino
    from onnx import TensorProto, helper, numpy_helper
    from PIL import Image

    from foveola.export.signing import make_keys, sign_members
    from foveola.runtime.bundle import write_bundle
    from foveola.runtime.manifest import (
        FORMAT,
        Calibration,
        InputSpec,
        Manifest,
        OnnxRuntimeOptions,
        OpenVinoOptions,
        Provenance,
        TaskOutput,
        encode_manifest,
    )
    from foveola.runtime.predict import Predictor
    from foveola.runtime.selftest import make_golden
    from foveola.runtime.task import Task

    folder.mkdir()
    weight = np.array([10.0, -10.0], np.float32).reshape(2, 1, 1, 1)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Conv", ["mean", "w", "b"], ["raw"]),
        helper.make_node("Flatten", ["raw"], ["findings"]),
    ]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([-2, 2], np.float32), "b")]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 32, 32])
    answer = helper.make_tensor_value_info("findings", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph(nodes, "old", [image], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    openvino.save_model(openvino.Core().read_model(model.SerializeToString()), folder / "o.xml", compress_to_fp16=False)
    manifest = Manifest(
        format=FORMAT,
        name="old",
        version="1",
        device="generic-x86",
        input=InputSpec(height=32, width=32, channels=1),
        outputs=(TaskOutput(task=Task(name="findings", kind="multilabel", classes=("a", "b")), tensors=("findings",)),),
        engines=(OnnxRuntimeOptions(arithmetic="float32", threads=1), OpenVinoOptions(arithmetic="float32", threads=1)),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="old", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )
    members = {
        "manifest.json": encode_manifest(manifest),
        "model.onnx": model.SerializeToString(),
        "openvino.xml": (folder / "o.xml").read_bytes(),
        "openvino.bin": (folder / "o.bin").read_bytes(),
    }
    stream = io.BytesIO()
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21).save(stream, "PNG")
    early = write_bundle(folder / "early.foveola", members)
    members["golden.npz"] = make_golden(
        [Predictor(early, one) for one in ("onnxruntime", "openvino")], [stream.getvalue()]
    )
    private, public = make_keys(folder / "maker")
    write_bundle(folder / "old.foveola", {**members, "model.sig": sign_members(members, private.read_bytes())})
    (folder / "old.pub").write_bytes(public.read_bytes())
    (folder / "picture.png").write_bytes(stream.getvalue())
    return folder / "old.foveola", folder / "picture.png"
