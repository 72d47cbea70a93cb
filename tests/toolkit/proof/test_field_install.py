"""The field's own install: `foveola[field]` in a fresh environment, without torch, proves what it proves here.

Installs packages from the configured index; skipped, with the reason, where there is none to be reached.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from foveola.tests.environments import build_wheel, found_packages, make_environment, run
from foveola.toolkit import cli
from foveola.toolkit.parity.evidence import Endpoint, decode_evidence

HEAVY = ("torch", "torchvision", "timm", "lightning", "lightning_fabric", "onnx", "onnxscript", "nncf", "sklearn")
PROVE = ("parity", "tiny.foveola", "--data", "cases", "--teacher", "answers.npz", "--protocol", "protocol.lock.json")
KEY = ("--key", "tiny.pub")


def test_the_field_install_proves_a_bundle_without_torch(place: Path, tmp_path: Path) -> None:
    for name in ("source", "wheel", "machine"):
        (tmp_path / name).mkdir()
    wheel = build_wheel(tmp_path / "source", tmp_path / "wheel")
    python = make_environment(tmp_path / "machine", f"{wheel}[field]")
    foveola = python.with_name("foveola")

    assert found_packages(python, HEAVY, tmp_path) == "[]"
    there = run(foveola, *PROVE, *KEY, "--out", "there", cwd=place)
    here = cli.main([*PROVE, *KEY, "--engine", "onnxruntime", "--out", "here"])

    assert there.returncode == here, there.stderr
    assert "not proved on openvino" in there.stderr
    first, second = (decode_evidence((place / name / "evidence.json").read_bytes()) for name in ("here", "there"))
    assert [names(row) for row in first.endpoints] == [names(row) for row in second.endpoints]
    for one, other in zip(first.endpoints, second.endpoints, strict=True):  # another numpy may round otherwise
        assert numbers(one) == pytest.approx(numbers(other), abs=1e-6, nan_ok=True)
    assert "torch" not in second.provenance.versions
    assert {path.name for path in (place / "there").iterdir()} == {"report.html", "evidence.json", "flips.csv"}


def test_a_command_that_needs_the_toolkit_says_so_there(place: Path, tmp_path: Path) -> None:
    """No second install: the imports of torch are only barred."""
    bar = "import sys; sys.modules['torch'] = None; from foveola.toolkit.cli import main; sys.exit(main(sys.argv[1:]))"
    shutil.rmtree(place / "out", ignore_errors=True)

    refused = run(sys.executable, "-c", bar, "answers", "chest-xray:teacher", "--data", "cases", cwd=place)

    assert refused.returncode == 4
    assert len(refused.stderr.strip().splitlines()[-1].split("; ")) >= 2
    assert "foveola[toolkit]" in refused.stderr


def names(row: Endpoint) -> tuple[str, ...]:
    return row.engine, row.task, row.label, row.metric, row.verdict


def numbers(row: Endpoint) -> list[float]:
    found = (row.teacher, row.student, row.difference, row.low, row.high, row.margin)
    return [float("nan") if value is None else value for value in found]
