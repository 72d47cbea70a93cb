"""Which DICOM objects a bundle answers about, as its manifest says it.

Laws:
- What the rule does not name is allowed; what it names is the only thing allowed.
- A tag that the rule asks about and that is absent or empty is a refusal, unless `absent` accepts it.
- Here are the words only, and nothing but msgspec is imported; `check.py` holds an object against them.

Values are the standard's own code strings (PS3.3, CS): modality `CR`, body part `CHEST`, view `PA`, laterality `L`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

# A code string (PS3.5 6.2, CS), or the meaning of a code in capitals (LO): letters, figures and what joins them.
CodeString = Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]([A-Z0-9_ .,/()+-]{0,62}[A-Z0-9_)])?$")]
Uid = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)+$", max_length=64)]  # PS3.5 9.1
Ratio = Annotated[float, msgspec.Meta(ge=1, le=1000)]


class SourceRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an object's header has to say before its picture is answered about.

    Args:
        modalities: values of Modality (0008,0060); empty allows every one.
        sop_classes: UIDs of SOP Class UID (0008,0016); empty allows every one that holds a picture.
        body_parts: values of Body Part Examined (0018,0015), else the meaning in Anatomic Region Sequence (0008,2218)
            in capitals; empty asks nothing.
        views: values of View Position (0018,5101), else the meaning in View Code Sequence (0054,0220) in capitals;
            empty asks nothing.
        lateralities: values of Image Laterality (0020,0062), else Laterality (0020,0060); empty asks nothing.
        absent: what becomes of an object that does not have a tag which is asked about.
        presentation_only: refuse images FOR PROCESSING, whose grey values were never meant for eyes.
        colour: `grey` or `colour` pictures only, or `either`; by default grey for a network of one channel and colour
            for one of three. A network of three channels that reads radiographs says `grey`.
        frames: `one` refuses an object of several frames, `first` answers about its first.
        lossy_ratio: refuse pictures that were compressed with loss by more than this; 1 refuses every loss; None
            allows all.
    """

    modalities: tuple[CodeString, ...] = ()
    sop_classes: tuple[Uid, ...] = ()
    body_parts: tuple[CodeString, ...] = ()
    views: tuple[CodeString, ...] = ()
    lateralities: tuple[CodeString, ...] = ()
    absent: Literal["refuse", "accept"] = "refuse"
    presentation_only: bool = True
    colour: Literal["grey", "colour", "either"] | None = None
    frames: Literal["one", "first"] = "one"
    lossy_ratio: Ratio | None = None
