"""The knobs of a pretraining after COMPRER; torch-free, so that recipes are read quickly.

Where the paper's abstract is silent (encoders, weights, temperatures, augmentation) the values are ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ....runtime.manifest import InputSpec
from ...knobs import Above, Augment, Count, NotNegative, Share

Pairs = Literal["modalities", "sides"]
Balance = Literal["start", "uncertainty", "fixed"]


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the pictures of one modality are encoded; every modality has weights of its own.

    Args:
        backbone: timm's name of the network.
        input: size, channels, window and normalisation of the input.
        augment: variation of the pictures; `flip` mirrors what is to be reconstructed too.
        colour: share by which each channel's gain varies, both ways.
        speckle: largest standard deviation of noise that grows with the brightness, as in ultrasound.
    """

    backbone: str
    input: InputSpec
    augment: Augment = Augment()
    colour: Share = 0.0
    speckle: NotNegative = 0.0


class Roles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which attributes of the manifest say what an image is of; whose it is, the patient's column says.

    Args:
        modality: attribute that names the modality; empty where there is one modality only.
        visit: attribute that names the visit; the same text is the same visit. Empty: every image of one visit.
        years: attribute with the time in years, or as a date (2024-03-18); empty where it is not known.
        side: attribute that names the eye, or the side of the neck; empty where there are no sides.
        pairs: what the multimodal loss brings together: `modalities` of one visit, or the `sides` of one modality.
        mirror: the side whose pictures are mirrored while pretraining, so that all look like the other one; empty for
            none. The device mirrors nothing.
    """

    modality: str = "modality"
    visit: str = "visit"
    years: str = "years"
    side: str = "eye"
    pairs: Pairs = "modalities"
    mirror: str = ""


class Aims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The four losses and their parts; a weight of 0 takes a loss out, and nothing of it is computed.

    Args:
        multimodal: weight of the contrast between modalities.
        temporal: weight of what is learned from two visits.
        measures: weight of the predicted measures.
        reconstruction: weight of the reconstructed picture.
        contrast: of the temporal loss: two visits of a person are alike, others are not.
        order: of the temporal loss: which of two visits was earlier.
        gap: of the temporal loss: years between two visits.
        full_gap: years from which the order of two visits counts fully; nearer ones count less, in proportion.
        temperature: tau at the start; it is learned.
        coldest: tau is never smaller.
        projection: length of the projections where no embedding task says it.
        measured: tasks that are learned as medical measures.
        measure_hidden: width of a hidden layer of the measures' heads; 0 for linear heads.
        measure_loss: `huber` or `mse`, for values.
        rebuilt: the decoder starts from the last `map`, or from the pooled `embedding`.
        rebuild: the picture `clean` of its variation, or as it was varied (`view`).
        rebuild_loss: `mse`, or `l1_ssim`, L1 and 1 - SSIM.
        masked: share of the patches that are blanked in what the encoder sees.
        decoder_width: channels of the decoder's first block.
        balance: each loss is divided by its value at the `start`, weighted by a learned `uncertainty`, or `fixed`.
    """

    multimodal: NotNegative = 1.0
    temporal: NotNegative = 0.5
    measures: NotNegative = 1.0
    reconstruction: NotNegative = 1.0
    contrast: NotNegative = 1.0
    order: NotNegative = 0.5
    gap: NotNegative = 0.0
    full_gap: Above = 1.0
    temperature: Above = 0.07
    coldest: Above = 0.01
    projection: Count = 128
    measured: tuple[str, ...] = ()
    measure_hidden: Annotated[int, Meta(ge=0)] = 0
    measure_loss: Literal["huber", "mse"] = "huber"
    rebuilt: Literal["map", "embedding"] = "map"
    rebuild: Literal["clean", "view"] = "clean"
    rebuild_loss: Literal["mse", "l1_ssim"] = "mse"
    masked: Share = 0.0
    decoder_width: Count = 64
    balance: Balance = "start"


def taught_projections(aims: Aims) -> tuple[str, ...]:
    """The projections that the losses train, the multimodal one (`across` modalities) before the temporal (`along`)."""
    across = ("across",) if aims.multimodal > 0 else ()
    return (*across, "along") if aims.temporal > 0 and aims.contrast > 0 else across


class Prognosis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the tasks that are no measures are answered from a pretrained encoder.

    Args:
        heads: `probe` fits linear heads on the frozen encoder; `finetune` trains all weights after that.
        epochs: of the fine-tuning.
        learning_rate: of the fine-tuning, the largest.
        keep: weight by which a fine-tuned embedding is held to the pretrained one; 0 lets it go.
    """

    heads: Literal["probe", "finetune"] = "probe"
    epochs: Count = 20
    learning_rate: Above = 1e-4
    keep: NotNegative = 1.0
