"""Good pictures of both kinds: phantoms, drawn once."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from foveola.runtime.fitness.copy import grey_plane, small_copy
from foveola.runtime.fitness.radiograph import unit_thumbnail
from foveola.runtime.image import decode_image
from foveola.toolkit.data.phantom_chest import make_chest
from foveola.toolkit.data.phantom_fundus import make_fundus

Pictures = list[Image.Image]


@pytest.fixture(scope="session")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """16-bit grey."""
    folder = tmp_path_factory.mktemp("drawn") / "chest"
    make_chest(folder, patients=8, seed=3, size=320)
    return [decode_image(path) for path in sorted((folder / "images").iterdir())]


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """8-bit colour."""
    folder = tmp_path_factory.mktemp("drawn") / "fundus"
    make_fundus(folder, patients=8, seed=3, size=320)
    return [decode_image(path) for path in sorted((folder / "images").iterdir())]


@pytest.fixture(scope="session")
def template(chests: Pictures) -> NDArray[np.float32]:
    total = np.sum([unit_thumbnail(grey_plane(small_copy(chest))) for chest in chests], axis=0)
    return unit_thumbnail(np.asarray(total, np.float32))
