"""`foveola field`: devices with one bundle, side by side, held against the reference that the bundle itself brings."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import Bundle, open_bundle, write_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.histogram import Reference, histograms
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from foveola.runtime.prediction import Finding, Prediction
from foveola.runtime.task import Task
from foveola.runtime.watch.summary import encode_export, summarise
from foveola.runtime.watch.watch import Limits, Watch
from foveola.toolkit.commands.table import foveola
from foveola.toolkit.proof.watched import read_field


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    rng = np.random.default_rng(1)
    reference = Reference(
        split="val",
        images=500,
        patients=500,
        inputs=histograms({"brightness": rng.normal(0.5, 0.1, 500)}),
        answers=histograms({"nodule/yes": rng.beta(2, 5, 500)}),
    )
    return Manifest(
        format=FORMAT,
        name="chest",
        version="3",
        device="generic-x86",
        input=InputSpec(height=8, width=8, channels=1),
        outputs=(TaskOutput(task=Task(name="nodule", kind="binary", classes=("no", "yes")), tensors=("nodule",)),),
        engines=(OnnxRuntimeOptions(),),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        reference=reference,
        provenance=Provenance(
            recipe="tiny", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> Bundle:
    folder = tmp_path_factory.mktemp("field")
    keys = make_keys(folder / "maker")
    members = {"manifest.json": encode_manifest(manifest), "model.onnx": b"graph" * 9, "golden.npz": b"golden" * 9}
    write_bundle(folder / "chest.foveola", {**members, "model.sig": sign_members(members, keys[0].read_bytes())})
    (folder / "chest.pub").write_bytes(keys[1].read_bytes())
    return open_bundle(folder / "chest.foveola")


@pytest.fixture
def device(tmp_path: Path, manifest: Manifest) -> Callable[..., Path]:
    def make(name: str, brighter: float = 0.0, of: Manifest | None = None) -> Path:
        rng = np.random.default_rng(len(name))
        at = [datetime(2026, 5, 4, 8)]
        watch = Watch(tmp_path / name, of or manifest, Limits(flush_s=1e9), now=lambda: at[0])
        for _ in range(20):
            for chance in rng.beta(2, 5, 20).tolist():
                finding = Finding(task="nodule", label="yes", probability=chance, threshold=0.5, positive=chance >= 0.5)
                features = {"brightness": float(rng.normal(0.5 + brighter, 0.1))}
                watch.record(Prediction(findings=(finding,)), features, 0.05)
            watch.refused("view")
            at[0] += timedelta(days=1)
        watch.close()
        return tmp_path / name

    return make


def exported(folder: Path) -> Path:
    path = folder.with_suffix(".json")
    path.write_bytes(encode_export(summarise(folder)))
    return path


def test_the_device_that_drifted_is_named(bundle: Bundle, device: Callable[..., Path]) -> None:
    field = read_field(bundle, [device("ward-3"), device("ward-7", 0.2)])

    assert field.verdict == "large"
    assert {one.device: one.summary.verdict for one in field.devices} == {"ward-3": "steady", "ward-7": "large"}


def test_a_file_tells_what_its_folder_tells(bundle: Bundle, device: Callable[..., Path]) -> None:
    folder = device("ward-7", 0.2)
    (from_folder,) = read_field(bundle, [folder]).devices
    (from_file,) = read_field(bundle, [exported(folder)]).devices

    assert from_file.summary == from_folder.summary
    assert (from_folder.recounted, from_file.recounted) == (True, False)


def test_a_reference_that_was_changed_on_the_device_is_not_believed(
    bundle: Bundle, device: Callable[..., Path]
) -> None:
    folder = device("ward-7", 0.2)
    path = next(folder.glob("bundle.*"))
    forged = json.loads(path.read_bytes())
    forged["reference"]["inputs"]["brightness"]["counts"][-1] = 100_000
    path.write_text(json.dumps(forged), encoding="utf-8")

    assert summarise(folder).bundles[0].shifts != read_field(bundle, [folder]).devices[0].summary.shifts
    assert read_field(bundle, [folder]).verdict == "large"


def test_another_bundles_days_are_refused(bundle: Bundle, device: Callable[..., Path], manifest: Manifest) -> None:
    other = device("ward-3", of=msgspec.structs.replace(manifest, version="4"))

    with pytest.raises(FoveolaError, match=r"saw nothing of this bundle; .*"):
        read_field(bundle, [exported(other)])
    with pytest.raises(FoveolaError, match=r"saw nothing of this bundle"):
        read_field(bundle, [other])


def test_two_devices_of_one_name_are_refused(bundle: Bundle, device: Callable[..., Path]) -> None:
    folder = device("ward-3")

    with pytest.raises(FoveolaError, match="a second device is called ward-3"):
        read_field(bundle, [folder, exported(folder)])


def test_what_is_no_watch_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="cannot be read"):
        read_field(bundle, [tmp_path / "absent.json"])
    (tmp_path / "x.json").write_bytes(b"{}")
    with pytest.raises(FoveolaError, match="not a summary of a watch"):
        read_field(bundle, [tmp_path / "x.json"])


def test_the_command_tells_and_judges_when_asked(bundle: Bundle, device: Callable[..., Path]) -> None:
    steady, drifted = device("ward-3"), exported(device("ward-7", 0.2))

    def ask(*words: object) -> tuple[int | None, str]:
        result = CliRunner().invoke(foveola, ["field", str(bundle.path), *map(str, words)], standalone_mode=False)
        assert result.exception is None, result.exception
        return result.return_value, result.stdout

    code, told = ask(steady, drifted)
    assert code == 0
    assert "ward-7                   input/brightness: large, PSI" in told
    assert "verdict     large" in told
    assert ask(steady, drifted, "--require-steady")[0] == 1
    assert ask(steady, "--require-steady")[0] == 0
    parsed = json.loads(ask(steady, drifted, "--json")[1])
    assert [one["device"] for one in parsed["devices"]] == ["ward-3", "ward-7"]
    assert parsed["digest"] == bundle.digest


def test_an_escape_in_an_export_is_shown_and_not_obeyed(bundle: Bundle, device: Callable[..., Path]) -> None:
    path = exported(device("ward-7", 0.2))
    path.write_bytes(path.read_bytes().replace(b"input/brightness", b"input/\\u001b[31mred"))
    result = CliRunner().invoke(foveola, ["field", str(bundle.path), str(path)], standalone_mode=False)

    assert "\x1b" not in result.stdout
    assert "\\x1b[31mred" in result.stdout
