"""What one teacher can be rebuilt from: the plans that `model.json` may hold, told apart by their tags."""

from __future__ import annotations

from ..models.network import Architecture
from .comprer.teacher import ComprerPlan
from .external import External
from .mtcool.teacher import CoolPlan
from .sepl.teacher import SeplPlan

Single = Architecture | External | SeplPlan | CoolPlan | ComprerPlan
