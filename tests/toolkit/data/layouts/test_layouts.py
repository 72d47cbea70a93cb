"""Every layout, through the real command: imported, and clean by the real check."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
from made import MAKERS, make_chexpert, make_kermany, make_nih
from made_eyes import EYE_MAKERS

from foveola.toolkit import cli
from foveola.toolkit.commands import importing
from foveola.toolkit.data.layouts.read import LAYOUTS

Rows = list[dict[str, str]]
EVERY = MAKERS | EYE_MAKERS


def imported(root: Path, name: str, *options: str) -> Rows:
    assert cli.main(["data", "import", name, str(root), *options]) == 0
    return rows_of(root / "manifest.csv")


def rows_of(manifest: Path) -> Rows:
    with manifest.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("title", EVERY)
def test_what_is_imported_is_clean_and_parts_patients(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = EVERY[title]
    root = make(tmp_path / "data")

    rows = imported(root, name)

    capsys.readouterr()
    assert cli.main(["data", "check", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == []
    splits = defaultdict(set)
    for row in rows:
        splits[row["patient_id"] or row["file"]].add(row["split"])
        assert row["dataset"] == name
    assert all(len(found) == 1 for found in splits.values())


def test_every_layout_is_made_and_named_in_the_help() -> None:
    assert {name for name, _ in EVERY.values()} == set(LAYOUTS)
    assert all(f" {name}" in importing.HELP for name in LAYOUTS)


def test_the_command_ends_with_counts_notes_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_nih(tmp_path / "nih")

    assert cli.main(["data", "import", "nih", str(root)]) == 0

    said = capsys.readouterr().out
    for words in (
        "train             9 images      7 patients",
        "finding_Effusion            no 5, yes 10",
        "boxes                       Infiltration 1, not known 14",
        "note: 1 ages that cannot be are gaps",
        f"next: foveola data check {root}",
    ):
        assert words in said


def test_json_is_one_object_with_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_kermany(tmp_path / "kermany")

    assert cli.main(["data", "import", "kermany", str(root), "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["images"]["test"] == 8
    assert said["manifest"] == str(root / "manifest.csv")
    assert said["targets"]["finding_Pneumonia"] == {"no": 20, "yes": 20, "not known": 0}


@pytest.mark.parametrize("inside", ["", "deeper", "deeper/still"])
def test_a_layout_is_found_wherever_the_archive_was_unpacked(tmp_path: Path, inside: str) -> None:
    make_nih(tmp_path / "root" / inside)
    (tmp_path / "root" / "__MACOSX").mkdir()
    (tmp_path / "root" / "__MACOSX" / "Data_Entry_2017.csv").write_text("left behind")

    rows = imported(tmp_path / "root", "nih")

    assert len(rows) == 15
    assert rows[0]["file"] == "/".join(filter(None, (inside, "images_001/images/00000001_000.png")))


def test_a_root_given_relative_or_as_the_data_folder_itself_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_chexpert(tmp_path, name="CheXpert-v1.0")
    monkeypatch.chdir(tmp_path)

    outer, inner = imported(Path(), "chexpert"), imported(Path("CheXpert-v1.0"), "chexpert")

    assert [row["file"] for row in outer] == [f"CheXpert-v1.0/{row['file']}" for row in inner]
    assert [row["split"] for row in outer] == [row["split"] for row in inner]


def test_equal_seeds_give_equal_manifests_and_another_seed_another_one(tmp_path: Path) -> None:
    root = make_kermany(tmp_path / "kermany")

    first, again = imported(root, "kermany"), imported(root, "kermany", "--force")
    other = imported(root, "kermany", "--seed", "1", "--out", "other.csv")

    assert first == again == other
    assert first != rows_of(root / "other.csv")


def test_an_official_part_that_shares_patients_is_given_up_for_a_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_kermany(tmp_path / "kermany", torn=True)

    rows = imported(root, "kermany")

    assert "note: 1 patients are in more than one official part, first person100" in capsys.readouterr().out
    assert {row["split"] for row in rows if row["patient_id"] == "person100"} == {"train"}


def test_a_copy_is_kept_once_and_rather_in_the_test_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_kermany(tmp_path / "kermany")
    copy = root / "chest_xray" / "train" / "NORMAL" / "IM-0100-0001.jpeg"
    copy.write_bytes((root / "chest_xray" / "test" / "NORMAL" / "IM-0500-0001.jpeg").read_bytes())
    wrong = root / "chest_xray" / "train" / "PNEUMONIA" / "person101_virus_102.jpeg"
    wrong.write_bytes((root / "chest_xray" / "train" / "NORMAL" / "IM-0101-0001.jpeg").read_bytes())

    files = {row["file"].split("/")[-1] for row in imported(root, "kermany")}

    assert "IM-0500-0001.jpeg" in files
    assert not files & {"IM-0100-0001.jpeg", "person101_virus_102.jpeg", "IM-0101-0001.jpeg"}
    said = capsys.readouterr().out
    assert "1 byte-for-byte copies of another image: chest_xray/train/NORMAL/IM-0100-0001.jpeg" in said
    assert "2 byte-for-byte copies with other labels" in said


def test_missing_files_that_are_allowed_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_nih(tmp_path / "nih")
    (root / "images_001/images/00000001_001.png").unlink()

    rows = imported(root, "nih", "--allow-missing")

    assert len(rows) == 14
    assert "note: 1 missing or empty files: images/00000001_001.png" in capsys.readouterr().out
