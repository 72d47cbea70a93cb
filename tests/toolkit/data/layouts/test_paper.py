"""The paper's own splits: its numbers where they are known, and where they leak."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from made import (
    make_chest_masks,
    make_chexpert,
    make_deepcovid,
    make_folders,
    make_mura,
    make_nih,
    make_shenzhen,
    make_tbx11k,
)

from foveola.runtime.errors import UsageError
from foveola.toolkit import cli
from foveola.toolkit.data.layouts.importing import import_layout
from foveola.toolkit.data.layouts.layout import Picture
from foveola.toolkit.data.layouts.place import place_as_paper, share_out
from foveola.toolkit.data.layouts.read import LAYOUTS

TABLE_I = {  # Liao et al. 2024, table I
    "nih": (78_484, 11_212, 22_424),
    "kermany": (4_686, 585, 585),
    "mura": (32_013, 3_997, 3_995),
    "chest-masks": (718, 89, 89),
    "tbx11k": (640, 80, 80),
}


@pytest.mark.parametrize("name", TABLE_I)
def test_a_complete_folder_gets_the_numbers_of_the_paper(name: str) -> None:
    paper = LAYOUTS[name].paper
    assert paper is not None
    pictures = [Picture(file=f"{i}.png", patient="") for i in range(sum(TABLE_I[name]))]

    splits, notes = place_as_paper(pictures, paper, seed=0)

    counts = Counter(splits)
    assert (counts["train"], counts["val"], counts["test"]) == TABLE_I[name]
    assert not any("scaled" in note for note in notes)


def test_the_order_of_the_files_changes_nothing() -> None:
    paper = LAYOUTS["kermany"].paper
    assert paper is not None
    pictures = [Picture(file=f"{i}.png", patient="") for i in range(50)]

    forth, _ = place_as_paper(pictures, paper, seed=3)
    back, _ = place_as_paper(pictures[::-1], paper, seed=3)
    other, _ = place_as_paper(pictures, paper, seed=4)

    assert forth == back[::-1] != other
    assert Counter(forth) == Counter(other)


def test_an_incomplete_folder_gets_the_shares() -> None:
    assert share_out(1000, (78_484, 11_212, 22_424)) == (700, 100, 200)
    assert share_out(8, (640, 80, 80)) == (6, 1, 1)
    assert sum(share_out(2, (640, 80, 80))) == 2


def test_a_leak_is_counted_and_the_check_refuses_it_unless_patients_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_mura(tmp_path)

    assert cli.main(["data", "import", "mura", str(root), "--paper-literal", "--json"]) == 0

    done = json.loads(capsys.readouterr().out)
    assert done["torn"] > 0
    assert any(
        note.startswith(f"LEAK: {done['torn']} patients are in more than one split; the check refuses this manifest")
        for note in done["notes"]
    )
    assert cli.main(["data", "check", str(root)]) == 1
    assert "is in several splits" in capsys.readouterr().out


def test_nih_is_split_by_image_and_scaled(tmp_path: Path) -> None:
    done = import_layout("nih", make_nih(tmp_path), paper_literal=True)

    assert done.images == {"train": 11, "val": 1, "test": 3}
    assert "15 images, the paper has 112120: its split is scaled by share" in done.notes


@pytest.mark.parametrize(("make", "name"), [(make_chexpert, "chexpert"), (make_deepcovid, "deepcovid")])
def test_external_sets_are_evaluated_on_their_official_part(
    tmp_path: Path, make: Callable[[Path], Path], name: str
) -> None:
    done = import_layout(name, make(tmp_path), paper_literal=True)

    assert set(done.images) == {"train", "val"}
    assert done.torn == 0


def test_the_pools_are_those_of_the_paper(tmp_path: Path) -> None:
    tb = import_layout("tbx11k", make_tbx11k(tmp_path / "tbx"), paper_literal=True)
    masks = import_layout("chest-masks", make_chest_masks(tmp_path / "masks"), paper_literal=True)
    china = import_layout("shenzhen", make_shenzhen(tmp_path / "china"), paper_literal=True)

    assert tb.targets["finding_Tuberculosis"] == {"yes": 12, "not known": 0}
    assert sum(masks.images.values()) == 18
    assert masks.targets["mask_lung_fields"]["not known"] == 7
    assert china.images == {"train": 8}


def test_a_set_that_the_paper_did_not_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MTPret did not use folders"):
        import_layout("folders", make_folders(tmp_path), paper_literal=True)
