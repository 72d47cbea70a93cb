"""All stages that a recipe may name, in one visible table; each is its knobs and one call of a plain function.

What a field means stands in its class; `foveola schema` prints all of it for editors. Nothing heavy is imported until a
stage runs, so that reading, planning and explaining a recipe is quick.
"""

from __future__ import annotations

from ..stage import Stage
from .artefact import Bench, Export, Parity, Quantize, Sign
from .calibrate import Calibrate
from .comprer import TeachComprer
from .continual import Continual
from .data import Manifest, Phantom
from .distill import Distill
from .finetune import Finetune
from .join import Join
from .mtcool import Cooperate
from .network import Load, Train
from .pack import MakePack
from .pretrain import Pretrain
from .protocol import FixProtocol
from .prune import Prune
from .qat import Qat
from .rehearse import Rehearse
from .review import Review
from .sepl import TrainSepl
from .team import Team

STAGES: dict[str, type[Stage]] = {
    "phantom": Phantom,
    "manifest": Manifest,
    "join": Join,
    "train": Train,
    "pretrain": Pretrain,
    "continual": Continual,
    "finetune": Finetune,
    "sepl": TrainSepl,
    "cooperate": Cooperate,
    "comprer": TeachComprer,
    "load": Load,
    "team": Team,
    "review": Review,
    "protocol": FixProtocol,
    "distill": Distill,
    "prune": Prune,
    "rehearse": Rehearse,
    "qat": Qat,
    "quantize": Quantize,
    "calibrate": Calibrate,
    "export": Export,
    "parity": Parity,
    "sign": Sign,
    "pack": MakePack,
    "bench": Bench,
}
