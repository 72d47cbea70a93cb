from __future__ import annotations

import sys
from pathlib import Path

import torch

# `small.py` is the tiny valid thing that these tests share.
sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # tests run side by side
torch.set_warn_always(True)  # else a warning that torch gives once a process fails whichever test happens to be first
