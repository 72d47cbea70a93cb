"""The published layouts that can be read, in one table; each reader is a plain function in a file of its own.

To add one: write `read_x(root) -> Layout` beside the others, with the marks by which it is known, and name it here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from ....runtime.errors import FoveolaError, UsageError
from ..faults import did_you_mean
from . import (
    aptos,
    boneage,
    chest_masks,
    chexpert,
    deepcovid,
    deepdrid,
    drive,
    eyepacs,
    folders,
    fracatlas,
    idrid,
    indiana,
    kermany,
    medmnist,
    messidor2,
    mura,
    nih,
    nlm,
    odir,
    refuge,
    tbx11k,
)
from .files import describe, look_for
from .layout import Layout
from .place import Paper


class Source(msgspec.Struct, frozen=True):
    """One published data set.

    Args:
        read: gives its layout.
        marks: files by which it is known (see `files.find_base`).
        title: what it is.
        options: of the reader that the command line offers.
        paper: what MTPret did with it.
    """

    read: Callable[..., Layout]
    marks: tuple[str, ...]
    title: str
    options: tuple[str, ...] = ()
    paper: Paper | None = None


UNKNOWN_SUBSET = "the paper has 10811 of 12611 images, nobody knows which"
LAYOUTS: dict[str, Source] = {
    "nih": Source(
        nih.read_nih,
        nih.MARKS,
        "NIH ChestX-ray14: 14 findings, boxes",
        paper=Paper((78484, 11212, 22424), "shuffle", note="the paper pretrains on all images, test ones among them"),
    ),
    "chexpert": Source(
        chexpert.read_chexpert,
        chexpert.MARKS,
        "CheXpert: 14 observations of chests",
        options=("uncertain",),
        paper=Paper((223414, 234, 0), "official"),
    ),
    "mura": Source(
        mura.read_mura, mura.MARKS, "MURA: arms, normal or abnormal", paper=Paper((32013, 3997, 3995), "shuffle")
    ),
    "kermany": Source(
        kermany.read_kermany,
        kermany.MARKS,
        "Kermany: pneumonia of children",
        paper=Paper((4686, 585, 585), "shuffle"),
    ),
    "montgomery": Source(
        nlm.read_montgomery,
        nlm.MONTGOMERY,
        "Montgomery County: tuberculosis, both lungs",
        paper=Paper((138, 0, 0), "pool"),
    ),
    "chest-masks": Source(
        chest_masks.read_chest_masks,
        chest_masks.MARKS,
        "Chest Xray Masks and Labels: 704 lung masks",
        paper=Paper((718, 89, 89), "shuffle", {"keep_without_mask": True}, "192 of the 896 images have no mask: gaps"),
    ),
    "shenzhen": Source(
        nlm.read_shenzhen, nlm.SHENZHEN, "Shenzhen: tuberculosis, lung masks", paper=Paper((661, 0, 0), "pool")
    ),
    "tbx11k": Source(
        tbx11k.read_tbx11k,
        tbx11k.MARKS,
        "TBX11K: tuberculosis as boxes",
        options=("boxes",),
        paper=Paper((640, 80, 80), "shuffle", {"only_tb": True}),
    ),
    "rsna-boneage": Source(
        boneage.read_boneage,
        boneage.MARKS,
        "RSNA bone age: hands, months",
        paper=Paper((10811, 0, 0), "pool", note=UNKNOWN_SUBSET),
    ),
    "indiana": Source(
        indiana.read_indiana, indiana.MARKS, "Indiana (Open-i): chests with reports", paper=Paper((7470, 0, 0), "pool")
    ),
    "deepcovid": Source(
        deepcovid.read_deepcovid,
        deepcovid.MARKS,
        "COVID-Xray-5k (Deep-COVID)",
        paper=Paper((2084, 3100, 0), "official"),
    ),
    "fracatlas": Source(fracatlas.read_fracatlas, fracatlas.MARKS, "FracAtlas: fractures as boxes and masks"),
    "aptos": Source(aptos.read_aptos, aptos.MARKS, "APTOS 2019: diabetic retinopathy"),
    "eyepacs": Source(eyepacs.read_eyepacs, eyepacs.MARKS, "EyePACS: diabetic retinopathy, both eyes"),
    "messidor2": Source(messidor2.read_messidor2, messidor2.MARKS, "Messidor-2: diabetic retinopathy, macular edema"),
    "deepdrid": Source(deepdrid.read_deepdrid, deepdrid.MARKS, "DeepDRiD: diabetic retinopathy, quality"),
    "idrid": Source(idrid.read_idrid, idrid.MARKS, "IDRiD: grades, lesions, disc and fovea"),
    "odir": Source(odir.read_odir, odir.MARKS, "ODIR-5K: eight diseases of the eye"),
    "refuge": Source(refuge.read_refuge, refuge.MARKS, "REFUGE: glaucoma, disc and cup, fovea"),
    "drive": Source(drive.read_drive, drive.MARKS, "DRIVE: retinal vessels"),
    "medmnist": Source(medmnist.read_medmnist, medmnist.MARKS, "MedMNIST: small pictures", options=("file",)),
    "folders": Source(folders.read_folders, folders.MARKS, "any {train,val,test}/CLASS/* folders"),
}


def source_of(name: str) -> Source:
    """Find a layout by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in LAYOUTS:
        mend = did_you_mean(name, LAYOUTS) or f"known: {', '.join(LAYOUTS)}"
        raise UsageError("LAYOUT", f"no layout {name!r}", mend)
    return LAYOUTS[name]


def read_layout(name: str, root: Path, **options: str | bool) -> Layout:
    """Read a layout.

    Args:
        name: of `LAYOUTS`.
        root: the folder into which the data set was unpacked.
        options: of the reader.

    Raises:
        FoveolaError: another layout (with the one that it looks like), tables of another version.
        UsageError: no such layout or option.
    """
    source = source_of(name)
    if root.is_dir() and not look_for(root, source.marks):
        fault = f"not the layout {name}: looked for {describe(source.marks)}, here and up to two levels below"
        others = [other for other, one in LAYOUTS.items() if other != name and look_for(root, one.marks)]
        mend = f"this looks like {others[0]}" if others else "give the folder into which the data set was unpacked"
        raise FoveolaError(str(root), fault, mend)
    return source.read(root, **options)
