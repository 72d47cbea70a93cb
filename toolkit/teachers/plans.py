"""What one teacher can be rebuilt from: the plans that `model.json` may hold, told apart by their tags."""

from __future__ import annotations

from ..models.network import Architecture
from .external import External

Single = Architecture | External
