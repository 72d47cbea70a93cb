"""Tests of layouts share `made.py`, `made_eyes.py` and `refusing.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
