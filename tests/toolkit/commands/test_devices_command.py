"""`foveola devices` as people call it: the list, one device, and the doctor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveola.devices.profile import FOLDER, profile_ids
from foveola.toolkit import cli


def test_the_list_has_a_line_for_every_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0

    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["DEVICE", "TITLE", "CPU", "MEMORY", "ACCELERATORS", "ENGINES", "UNVERIFIED"]
    assert tuple(line.split()[0] for line in lines) == profile_ids()


def test_a_strict_list_leaves_out_what_is_not_verified_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--strict", "--json"]) == 1

    out, err = capsys.readouterr()
    assert "x86-avx2-legacy" in json.loads(out)["devices"]
    assert "intel-n100" not in json.loads(out)["devices"]
    assert "intel-n100 (cpu.instructions.avx_vnni, memory.gib)" in err
    assert err.count("\n") == 1


def test_a_device_is_shown_whole_and_a_strict_reader_may_refuse_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "show", "kria-k26"]) == 0
    assert "derate:\n  compute: 0.27\n" in capsys.readouterr().out

    assert cli.main(["devices", "show", "kria-k26", "--strict"]) == 1
    assert "memory.gib" in capsys.readouterr().err


def test_a_wrong_unit_in_a_profile_of_ones_own_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "generic-x86.yaml"
    path.write_text((FOLDER / "generic-x86.yaml").read_text().replace("gib: 4", "mib: 4096"))

    assert cli.main(["devices", "show", str(path)]) == 1

    err = capsys.readouterr().err
    assert "'mib' is in another unit: give 'gib'" in err
    assert err.count("\n") == 1


def test_the_doctor_names_the_machine_and_the_nearest_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "doctor"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["devices", "doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)

    assert said["nearest"]["id"] in profile_ids()
    assert said["held_against"] == said["nearest"]["id"]
    assert f"nearest        {said['nearest']['id']}" in text
    assert {warning["severity"] for warning in said["warnings"]} <= {"warning"}


def test_the_doctor_holds_the_machine_against_another_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "doctor", "--for", "jetson-agx-orin-64gb", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)

    assert said["held_against"] == "jetson-agx-orin-64gb"
    assert said["at_hand"] == (not said["why_not"])


def test_the_doctor_refuses_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "doctor", "--for", "intel-n10"]) == 1
    assert "did you mean 'intel-n100'?" in capsys.readouterr().err
