"""The laws of the house, each a test: who may import whom, what the runtime loads, what the wheel holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("runtime", "devices", "export", "toolkit")  # each may import from itself and the ones before it
HEAVY = (
    "pydicom",
    "highdicom",
    "pynetdicom",
    "waitress",
    "torch",
    "click",
    "yaml",
    "scipy",
    "pandas",
    "onnx",
    "onnxruntime",
    "openvino",
    "rich",
    "matplotlib",
    "timm",
)
RUNTIME_MAY = {"numpy", "msgspec", "PIL", "cryptography", "onnxruntime", "openvino"}
# Rooms that an extra opens; nothing outside imports them but lazily.
ROOM_MAY = {
    "dicom": {"pydicom"},
    "dicom_results": {"highdicom", "pydicom"},
    "serve": {"pynetdicom", "pydicom", "waitress"},
}
PARITY_MAY = {"numpy", "scipy", "msgspec"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Every import of a file as its parts, relative ones resolved to ('foveola', folder, ...)."""
    own = ("foveola", *path.relative_to(ROOT).with_suffix("").parts)
    package = own[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield (*base, *(node.module.split(".") if node.module else ()))


@pytest.mark.parametrize("folder", FLOORS)
def test_a_folder_imports_only_from_the_floors_below_it(folder: str) -> None:
    allowed = FLOORS[: FLOORS.index(folder) + 1]

    wrong = [
        f"{path.relative_to(ROOT)} imports {'.'.join(parts)}"
        for path in sources(folder)
        for parts in imports(path)
        if parts[0] == "foveola" and len(parts) > 1 and parts[1] not in (*allowed, "__init__")
    ]

    assert not wrong, wrong


@pytest.mark.parametrize(("folder", "allowed"), [("runtime", RUNTIME_MAY), ("toolkit/parity", PARITY_MAY)])
def test_the_light_parts_import_only_what_they_may(folder: str, allowed: set[str]) -> None:
    standard = set(sys.stdlib_module_names) | {"foveola"}

    wrong = [
        f"{path.relative_to(ROOT)} imports {parts[0]}"
        for path in sources(folder)
        for parts in imports(path)
        if parts[0] not in standard | allowed | ROOM_MAY.get(path.parent.name, set())
    ]

    assert not wrong, wrong


def test_imports_inside_the_house_are_relative() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in FLOORS
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "foveola"
    ]

    assert not wrong, wrong


@pytest.mark.parametrize(
    "module", ["foveola.runtime", "foveola.runtime.predict", "foveola.runtime.__main__", "foveola.toolkit.parity.prove"]
)
def test_a_light_module_loads_nothing_heavy(module: str) -> None:
    heavy = [name for name in HEAVY if not (name == "scipy" and "parity" in module)]
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert loaded == "[]"


def test_no_file_reads_or_writes_a_pickle() -> None:
    words = re.compile(
        r"\b(pickle|cPickle|cloudpickle|dill|joblib|shelve|torch\.load|torch\.save|allow_pickle=True|read_pickle)\b"
    )

    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in (*FLOORS, "bench")
        for path in sources(folder)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line.split("#")[0]) and not line.lstrip().startswith(('"""', "-", "*"))
    ]

    assert not found, found


def test_a_bare_exception_is_caught_nowhere_but_at_the_door() -> None:
    doors = {ROOT / "toolkit/cli.py", ROOT / "runtime/__main__.py"}

    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in FLOORS
        for path in sources(folder)
        if path not in doors
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and (node.type is None or getattr(node.type, "id", "") == "Exception")
    ]

    assert not found, found


def test_the_root_holds_no_python_file_but_its_own() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


def test_nothing_committed_names_a_registry_host_or_a_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    host = re.compile(
        "|".join(
            (
                "pypi" + r"\.org",
                "python" + "hosted",
                "registry" + r"\.npmjs",
                r"deb\." + "debian",
                "/wo" + "rk/",
                "/ro" + "ot/",
            )
        )
    )

    found = [
        f"{name}: {match.group()}"
        for name in listed.stdout.splitlines()
        if (ROOT / name).is_file()
        and (match := host.search((ROOT / name).read_text(encoding="utf-8", errors="ignore")))
    ]

    assert not found, found
