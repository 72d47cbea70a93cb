"""What the twelve picture sets of MedMNIST hold: columns, classes, and the MD5 of the published files (version 3).

Labels are numbers in the files; the manifest says them in words, so that no recipe has to know their order.
Taken from the sets' publisher (Yang et al. 2023, Zenodo 10519652).
"""

from __future__ import annotations

import msgspec

ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
REGIONS = {
    "heart": "thorax",
    "lung": "thorax",
    "liver": "abdomen",
    "kidney": "abdomen",
    "pancreas": "abdomen",
    "spleen": "abdomen",
    "bladder": "pelvis",
    "femur": "pelvis",
}
FINDINGS = (  # of ChestMNIST, under the names that `nih` gives to them
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)


class MedSet(msgspec.Struct, frozen=True, kw_only=True):
    """One set.

    Args:
        columns: targets; several where a picture has several labels, each 0 or 1.
        classes: what the numbers 0, 1, ... of a single label say.
        md5: of the published files, by side in pixels.
        plane: of the sets of organs.
    """

    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    md5: dict[int, str]
    plane: str = ""


SIDES = (28, 64, 128, 224)


def _md5(*sums: str) -> dict[int, str]:
    return dict(zip(SIDES, sums, strict=True))


def organ_cells(organ: str) -> dict[str, str]:
    """Organ, organ group, side and region of one of the eleven classes, as cells.

    >>> organ_cells("kidney-left")
    {'organ': 'kidney-left', 'organ_group': 'kidney', 'side': 'left', 'region': 'abdomen'}
    """
    group, _, side = organ.partition("-")
    return {"organ": organ, "organ_group": group, "side": side or "unpaired", "region": REGIONS[group]}


ORGAN_COLUMNS = tuple(organ_cells(ORGANS[0]))

SETS: dict[str, MedSet] = {
    "pathmnist": MedSet(
        columns=("tissue",),
        classes=(
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
            *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        ),
        md5=_md5(
            "a8b06965200029087d5bd730944a56c1",
            "55aa9c1e0525abe5a6b9d8343a507616",
            "ac42d08fb904d92c244187169d1fd1d9",
            "2c51a510bcdc9cf8ddb2af93af1eadec",
        ),
    ),
    "chestmnist": MedSet(
        columns=tuple(f"finding_{name}" for name in FINDINGS),
        md5=_md5(
            "02c8a6516a18b556561a56cbdd36c4a8",
            "9de6cd0b934ebb5b7426cfba5efbae16",
            "db107e5590b27930b62dbaf558aebee3",
            "45bd33e6f06c3e8cdb481c74a89152aa",
        ),
    ),
    "dermamnist": MedSet(
        columns=("lesion",),
        classes=(
            *(
                "actinic keratoses and intraepithelial carcinoma",
                "basal cell carcinoma",
                "benign keratosis-like lesions",
            ),
            *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        ),
        md5=_md5(
            "0744692d530f8e62ec473284d019b0c7",
            "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1",
            "8974907d8e169bef5f5b96bc506ae45d",
        ),
    ),
    "octmnist": MedSet(
        columns=("oct",),
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        md5=_md5(
            "c68d92d5b585d8d81f7112f81e2d0842",
            "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae",
            "abc493b6d529d5de7569faaef2773ba3",
        ),
    ),
    "pneumoniamnist": MedSet(
        columns=("finding_Pneumonia",),
        classes=("0", "1"),
        md5=_md5(
            "28209eda62fecd6e6a2d98b1501bb15f",
            "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971",
            "d6a3c71de1b945ea11211b03746c1fe1",
        ),
    ),
    "retinamnist": MedSet(
        columns=("dr_grade",),
        classes=("0", "1", "2", "3", "4"),
        md5=_md5(
            "bd4c0672f1bba3e3a89f0e4e876791e4",
            "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18",
            "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
    ),
    "breastmnist": MedSet(
        columns=("malignant",),
        classes=("1", "0"),  # the file's 0 is malignant, its 1 is normal or benign
        md5=_md5(
            "750601b1f35ba3300ea97c75c52ff8f6",
            "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1",
            "b56378a6eefa9fed602bb16d192d4c8b",
        ),
    ),
    "bloodmnist": MedSet(
        columns=("cell",),
        classes=(
            *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte"),
            *("neutrophil", "platelet"),
        ),
        md5=_md5(
            "7053d0359d879ad8a5505303e11de1dc",
            "2b94928a2ae4916078ca51e05b6b800b",
            "adace1e0ed228fccda1f39692059dd4c",
            "b718ff6835fcbdb22ba9eacccd7b2601",
        ),
    ),
    "tissuemnist": MedSet(
        columns=("kidney_cell",),
        classes=(
            *("collecting duct or connecting tubule", "distal convoluted tubule", "glomerular endothelial cell"),
            *("interstitial endothelial cell", "leukocyte", "podocyte", "proximal tubule segment"),
            *("thick ascending limb",),
        ),
        md5=_md5(
            "ebe78ee8b05294063de985d821c1c34b",
            "123ece2eba09d0aa5d698fda57103344",
            "61b955355d7425a89687b06cca3ce0c2",
            "b077128c4a949f0a4eb01517f9037b9c",
        ),
    ),
    "organamnist": MedSet(
        columns=ORGAN_COLUMNS,
        classes=ORGANS,
        plane="axial",
        md5=_md5(
            "68e3f8846a6bd62f0c9bf841c0d9eacc",
            "2dcccc29b88e6da5a01161ef20cda288",
            "eeae80d0a227a8d099027e1b3cfd3b60",
            "50747347e05c87dd3aaf92c49f9f3170",
        ),
    ),
    "organcmnist": MedSet(
        columns=ORGAN_COLUMNS,
        classes=ORGANS,
        plane="coronal",
        md5=_md5(
            "b9ceb9546e10131b32923c5bbeaea2b1",
            "3ce34a8724ea6f548e6db4744d03b6a9",
            "773c1f009daa3fe5d9a2a201b2a7ed94",
            "050f5e875dc056f6768abf94ec9995d1",
        ),
    ),
    "organsmnist": MedSet(
        columns=ORGAN_COLUMNS,
        classes=ORGANS,
        plane="sagittal",
        md5=_md5(
            "9ab87b696fb54e2a387ebe992d6ed5f1",
            "53a6d115339d874c25e309a994ff46d3",
            "ded0c5fa01a95dc4978b956f613e9b8e",
            "b354719e553fbbb2513d5533f52a4cb1",
        ),
    ),
}
FORMER = {  # names in version 1
    "organmnist_axial": "organamnist",
    "organmnist_coronal": "organcmnist",
    "organmnist_sagittal": "organsmnist",
}
