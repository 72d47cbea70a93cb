"""Stage after COMPRER (Lutsker et al. 2024): several modalities of the same people make one teacher; see `table.py`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ...runtime.errors import UsageError
from ..knobs import Above, Count, NotNegative, Plan, Share
from ..teachers.comprer.knobs import Aims, Encoding, Prognosis, Roles
from ..work import Work
from .data import dataset_of
from .network import NetworkStage


class TeachComprer(NetworkStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pretrain an encoder a modality by up to four losses, then answer every task from one of them: after COMPRER.

    Args:
        encoders: by modality: how its pictures are encoded.
        modality: whose encoder becomes the teacher; empty where there is one only.
        aims: the losses, their parts and weights.
        roles: which attributes of the manifest say modality, visit, years and side.
        prognosis: how tasks that are no measures are answered.
        epochs: passes over the train patients.
        batch_size: patients a step, over all devices.
        learning_rate: largest rate of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises.
        clip: largest norm of the gradient; 0 for none.
        ema: decay of the averaged weights that are kept; 0 for none.
        judge_every: epochs between two looks at the validation split.
    """

    encoders: Annotated[dict[str, Encoding], Meta(min_length=1)]
    modality: str = ""
    aims: Aims = Aims()
    roles: Roles = Roles()
    prognosis: Prognosis = Prognosis()
    epochs: Count = 100
    batch_size: Count = 128
    learning_rate: Above = 3e-4
    weight_decay: NotNegative = 0.05
    warmup: Share = 0.05
    clip: NotNegative = 5.0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    judge_every: Count = 1

    def plan(self) -> Plan:
        """The loop's knobs."""
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
            ema=self.ema,
        )

    def shown(self, work: Work) -> str:
        """The modality that the device sees.

        Raises:
            UsageError: there are several and none is named.
        """
        if self.modality or len(self.encoders) == 1:
            return self.modality or next(iter(self.encoders))
        raise UsageError(f"{work.step}.modality", f"one of {', '.join(self.encoders)}", "name what the device sees")

    def check_ahead(self, work: Work) -> None:
        """There are pairs and visits where the losses need them, and the backbones are known."""
        from ..models.network import check_backbone
        from ..teachers.comprer.teach import check_comprer

        for encoding in self.encoders.values():
            check_backbone(encoding.backbone, encoding.input.channels, (4, 8, 16, 32))
        every, own = dataset_of(work, every=True), dataset_of(work)
        check_comprer(every, own, self.shown(work), self.encoders, self.aims, self.roles)

    def run(self, work: Work) -> None:
        """Train; resumes at the last epoch."""
        from ..teachers.comprer.teach import teach_comprer

        teach_comprer(
            dataset_of(work, every=True),
            dataset_of(work),
            self.shown(work),
            self.encoders,
            self.aims,
            self.plan(),
            roles=self.roles,
            prognosis=self.prognosis,
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            log=work.log_file,
            judge_every=self.judge_every,
            say=work.log,
        )
