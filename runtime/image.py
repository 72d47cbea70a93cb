"""How a picture becomes the network's input, the same in training and on the device; `picture.py` reads its file.

Laws:
- Coordinates everywhere are those of the upright picture, as a viewer shows it.
- A box edge at x means the border between pixels x - 1 and x; pixel x has its centre at x + 0.5.
- There is one resize kernel: Pillow's BILINEAR, a triangle that widens on reduction and so does not alias; the
  manifest may have whole blocks averaged before it (`reduce.py`).

    image = read_image(Path("chest.png"))
    x_CHW, geometry = prepare(image, manifest.input)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .manifest import InputSpec
from .picture import LIMITS as LIMITS
from .picture import ImageLimits as ImageLimits
from .picture import Pixels as Pixels
from .picture import decode_image as decode_image
from .picture import file_bytes as file_bytes
from .picture import read_image as read_image
from .picture import read_mask as read_mask
from .reduce import resized


class Geometry(msgspec.Struct, frozen=True, kw_only=True):
    """Where the picture lies in the network's input.

    An image point (x, y) in pixels is the input point ((x - x0) * scale_x + pad_x, (y - y0) * scale_y + pad_y).
    """

    image_height: int
    image_width: int
    x0: int  # the crop, image pixels, x1 and y1 exclusive
    y0: int
    x1: int
    y1: int
    scale_x: float  # input pixels per image pixel
    scale_y: float
    pad_x: int  # input pixels left of the content
    pad_y: int

    @property
    def content_width(self) -> int:
        """Columns of the input that hold the picture."""
        return round((self.x1 - self.x0) * self.scale_x)

    @property
    def content_height(self) -> int:
        """Rows of the input that hold the picture."""
        return round((self.y1 - self.y0) * self.scale_y)

    def of_crop(self, images: NDArray[Any]) -> NDArray[Any]:
        """View the crop in arrays (..., image height, image width)."""
        return images[..., self.y0 : self.y1, self.x0 : self.x1]

    def boxes_to_input(self, boxes: NDArray[Any]) -> NDArray[Any]:
        """Boxes (M, 4 or more; first four x1, y1, x2, y2) from image to input pixels, clipped to the content.

        A box outside the crop gets an area of zero.
        """
        scale, shift = self._scale(), self._shift()
        low = np.array([self.pad_x, self.pad_y] * 2, np.float64)
        high = low + np.array([self.content_width, self.content_height] * 2)
        moved = boxes.copy()
        moved[:, :4] = np.clip(boxes[:, :4] * scale + shift, low, high)
        return moved

    def boxes_to_image(self, boxes: NDArray[Any]) -> NDArray[Any]:
        """Boxes (M, 4 or more) from input to image pixels, clipped to the crop."""
        moved = boxes.copy()
        low, high = np.array([self.x0, self.y0] * 2), np.array([self.x1, self.y1] * 2)
        moved[:, :4] = np.clip((boxes[:, :4] - self._shift()) / self._scale(), low, high)
        return moved

    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2)

    def _shift(self) -> NDArray[np.float64]:
        x, y = self.pad_x - self.x0 * self.scale_x, self.pad_y - self.y0 * self.scale_y
        return np.array([x, y] * 2)


def prepare(image: Pixels | Image.Image, spec: InputSpec) -> tuple[NDArray[np.float32], Geometry]:
    """Make the network's input of a picture: (channels, height, width) float32 in 0..1, and where the picture is in it.

    Grey and RGB become each other as `spec.channels` asks (ITU-R 601 luma; grey repeated). The window is measured on
    the resized content: percentiles are the nearest rank, of all channels together. A flat picture becomes black.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16 as `read_image` gives it, or Pillow's L, RGB or I;16.
        spec: the manifest's input.
    """
    picture = image if isinstance(image, Image.Image) else _picture(image)
    if spec.channels == 1 and picture.mode == "RGB":
        picture = picture.convert("L")
    crop = field_of_view(picture) if spec.crop == "fov" else (0, 0, *picture.size)
    geometry = _fit(picture.size, crop, spec)
    if crop != (0, 0, *picture.size):
        picture = picture.crop(crop)
    width, height = geometry.content_width, geometry.content_height
    small = np.asarray(resized(picture, (width, height), boxes=spec.reduction == "box"))
    x_CHW = np.zeros((spec.channels, spec.height, spec.width), np.float32)
    inside = x_CHW[:, geometry.pad_y : geometry.pad_y + height, geometry.pad_x : geometry.pad_x + width]
    _window(small if small.ndim == 2 else small.transpose(2, 0, 1), spec, inside)
    return x_CHW, geometry


def _picture(image: Pixels) -> Image.Image:
    assert image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8), image.shape
    assert image.dtype in (np.uint8, np.uint16), image.dtype
    return Image.fromarray(np.ascontiguousarray(image, "<u2" if image.dtype == np.uint16 else np.uint8))


def _fit(size: tuple[int, int], crop: tuple[int, int, int, int], spec: InputSpec) -> Geometry:
    x0, y0, x1, y1 = crop
    width, height = spec.width, spec.height
    if spec.fit == "pad":
        scale = min(spec.width / (x1 - x0), spec.height / (y1 - y0))
        # Halves round up, not to even: a growing picture must not shrink its content.
        width = min(spec.width, max(1, math.floor((x1 - x0) * scale + 0.5)))
        height = min(spec.height, max(1, math.floor((y1 - y0) * scale + 0.5)))
    return Geometry(
        image_height=size[1],
        image_width=size[0],
        x0=x0,
        y0=y0,
        x1=x1,
        y1=y1,
        scale_x=width / (x1 - x0),
        scale_y=height / (y1 - y0),
        pad_x=(spec.width - width) // 2,
        pad_y=(spec.height - height) // 2,
    )


def _window(pixels: Pixels, spec: InputSpec, out: NDArray[np.float32]) -> None:
    if spec.window == "full":
        np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), out=out, dtype=np.float32)
        return
    upto = np.cumsum(np.bincount(pixels.ravel()))
    ranks = [max(1, math.ceil(percent / 100 * pixels.size)) for percent in (spec.low, spec.high)]
    low, high = (int(value) for value in np.searchsorted(upto, ranks))
    np.subtract(pixels, np.float32(low), out=out, dtype=np.float32)
    np.divide(out, np.float32(max(high - low, 1)), out=out)
    np.clip(out, 0, 1, out=out)


FOV_SIDE = 256  # pixels: the longer side of the thumbnail on which the field of view is sought
FOV_LEVEL = 0.15  # of the 99th percentile: the rim of a fundus photograph is dim, its surround is nearly black
FOV_FLOOR = 8 / 255  # of the full range: sensor noise
FOV_LINE = 0.02  # share of a row or column that must be lit: dust and hot pixels are less
FOV_LEAST = 0.25  # of a side: a smaller find is no field of view


def field_of_view(image: Image.Image) -> tuple[int, int, int, int]:
    """Find the lit rectangle (x0, y0, x1, y1) of a fundus photograph; the whole picture where none stands out."""
    width, height = image.size
    step = math.ceil(max(width, height) / FOV_SIDE)
    small = np.asarray(_reduced(image, step))
    light = small.max(axis=2) if small.ndim == 3 else small
    full = np.iinfo(light.dtype).max
    lit = light > max(FOV_FLOOR * full, FOV_LEVEL * float(np.percentile(light, 99, method="nearest")))
    left, right = _longest_run(lit.mean(axis=0) >= FOV_LINE)
    top, bottom = _longest_run(lit.mean(axis=1) >= FOV_LINE)
    # One thumbnail pixel more on each side, so that the rim itself is inside.
    x0, x1 = max(0, (left - 1) * step), min(width, (right + 1) * step)
    y0, y1 = max(0, (top - 1) * step), min(height, (bottom + 1) * step)
    if x1 - x0 < FOV_LEAST * width or y1 - y0 < FOV_LEAST * height:
        return 0, 0, width, height
    return x0, y0, x1, y1


def _longest_run(lit: NDArray[np.bool_]) -> tuple[int, int]:
    """Find the first longest run of lit lines (start, end): a name printed beside the disc is another run."""
    edges = np.flatnonzero(np.diff(lit, prepend=False, append=False)).reshape(-1, 2)
    if not len(edges):
        return 0, 0
    start, end = edges[np.argmax(edges[:, 1] - edges[:, 0])].tolist()
    return start, end


def _reduced(image: Image.Image, step: int) -> Image.Image:
    if image.mode != "I;16":
        return image.reduce(step)
    # Pillow's box reduction does not know 16 bits.
    size = (math.ceil(image.width / step), math.ceil(image.height / step))
    return image.resize(size, Image.Resampling.BOX, box=(0, 0, *image.size))


def prepare_mask(mask: NDArray[np.uint8], spec: InputSpec, geometry: Geometry) -> NDArray[np.uint8]:
    """Bring a label map (H, W) of the image to the input's height and width: nearest neighbour, padding 0."""
    assert mask.shape == (geometry.image_height, geometry.image_width), mask.shape
    width, height = geometry.content_width, geometry.content_height
    small = Image.fromarray(np.ascontiguousarray(geometry.of_crop(mask))).resize(
        (width, height), Image.Resampling.NEAREST
    )
    out = np.zeros((spec.height, spec.width), np.uint8)
    out[geometry.pad_y : geometry.pad_y + height, geometry.pad_x : geometry.pad_x + width] = np.asarray(small)
    return out


BAND_BYTES = 2**18  # of probabilities at a time: they stay in the processor's cache, four times as fast on large images


def mask_bands(
    probability: NDArray[np.float32], geometry: Geometry, spec: InputSpec
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Bring probabilities (K, h, w) on the network's grid to the crop's pixels, some rows at a time.

    Bilinear with pixel centres at halves, edges repeated (torch's `interpolate(align_corners=False)`). Columns first,
    while the array is small; then each image row mixes two neighbouring rows.

    Yields:
        Rows of the crop, counted from its top, and their probabilities (K, rows, crop width), good until the next.
    """
    g = geometry
    layers, h, w = probability.shape
    left, part = _neighbours(w, (np.arange(g.x1 - g.x0, dtype=np.float64) + 0.5) * g.scale_x + g.pad_x, spec.width)
    upper, drop = _neighbours(h, (np.arange(g.y1 - g.y0, dtype=np.float64) + 0.5) * g.scale_y + g.pad_y, spec.height)
    # `clip` spares numpy a checked copy; no index is out of range.
    wide = probability.take(left, axis=2, mode="clip")
    wide *= 1 - part
    wide += probability.take(np.minimum(left + 1, w - 1), axis=2, mode="clip") * part
    rise = np.diff(wide, axis=1, append=wide[:, -1:])
    step = max(8, BAND_BYTES // (layers * len(left) * wide.itemsize))
    # Two buffers for all bands: fresh memory of this size would be paged in each time.
    band, base = np.empty((2, layers, step, len(left)), np.float32)
    for start in range(0, len(upper), step):
        rows = slice(start, min(start + step, len(upper)))
        if rows.stop - start < step:
            band, base = band[:, : rows.stop - start], base[:, : rows.stop - start]
        rise.take(upper[rows], axis=1, mode="clip", out=band)
        wide.take(upper[rows], axis=1, mode="clip", out=base)
        band *= drop[rows, None]
        band += base
        yield rows, band


def mask_to_image(probability: NDArray[np.float32], geometry: Geometry, spec: InputSpec) -> NDArray[np.float32]:
    """Bring probabilities (K, h, w) on the network's grid to (K, image height, image width); zero outside the crop."""
    full = np.zeros((len(probability), geometry.image_height, geometry.image_width), np.float32)
    crop = geometry.of_crop(full)
    for rows, band in mask_bands(probability, geometry, spec):
        crop[:, rows] = band
    return full


def _neighbours(cells: int, at: NDArray[np.float64], length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Find, for positions in input pixels, the grid cell before each and the weight of the cell after it."""
    place = np.clip(at * (cells / length) - 0.5, 0, cells - 1)
    before = place.astype(np.intp)
    return before, (place - before).astype(np.float32)
