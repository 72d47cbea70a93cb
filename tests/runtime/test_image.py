from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import (
    Geometry,
    decode_image,
    field_of_view,
    mask_to_image,
    prepare,
    prepare_mask,
    read_image,
    read_mask,
)
from foveola.runtime.manifest import InputSpec

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (24, 31), np.uint8)
RGB = RNG.integers(0, 256, (24, 31, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (24, 31), np.uint16)


def file_of(pixels: np.ndarray[Any, Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def with_alpha(alpha: int) -> Image.Image:
    picture = Image.fromarray(RGB).convert("RGBA")
    picture.putalpha(alpha)
    return picture


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_of_claimed_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


# --- reading


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (file_of(GREY), GREY),
        (file_of(DEEP), DEEP),
        (file_of(RGB), RGB),
        (file_of(GREY, "TIFF"), GREY),
        (file_of(DEEP, "TIFF"), DEEP),
        (file_of(DEEP, "TIFF", compression="tiff_lzw"), DEEP),
        (file_of(Image.fromarray(DEEP.astype(">u2")), "TIFF"), DEEP),
        (file_of(RGB, "TIFF", compression="tiff_deflate"), RGB),
        (file_of(GREY, "BMP"), GREY),
        (file_of(RGB, "BMP"), RGB),
        (file_of(with_alpha(255)), RGB),
        (file_of(Image.fromarray(GREY).convert("LA")), GREY),
        (file_of(Image.fromarray((GREY > 9).astype(np.uint8) * 255).convert("1")), (GREY > 9).astype(np.uint8) * 255),
    ],
    ids=[
        "grey png", "deep png", "rgb png", "grey tiff", "deep tiff", "deep lzw tiff", "deep big-endian tiff",
        "rgb deflate tiff", "grey bmp", "rgb bmp", "opaque rgba", "opaque la", "one bit",
    ],
)  # fmt: skip
def test_lossless_files_give_their_pixels(content: bytes, expected: np.ndarray[Any, Any]) -> None:
    image = read_image(content)

    np.testing.assert_array_equal(image, expected)
    assert image.dtype == expected.dtype


def test_a_palette_is_resolved_to_its_colours() -> None:
    colours = Image.fromarray(GREY // 64).convert("P")
    colours.putpalette([9, 8, 7, 50, 60, 70, 0, 255, 0, 1, 2, 3])

    image = read_image(file_of(colours))

    np.testing.assert_array_equal(image, np.asarray(colours.convert("RGB")))


def test_a_jpeg_is_decoded_as_pillow_does() -> None:
    content = file_of(RGB, "JPEG", quality=95)

    np.testing.assert_array_equal(read_image(content), np.asarray(Image.open(io.BytesIO(content))))


REFUSED = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, this is a text file", r"not a PNG, JPEG, TIFF or BMP file \(begins with b'hello, this '\)"),
    "dicom": (b"\0" * 128 + b"DICM" + b"\0" * 99, "a DICOM file"),
    "gif": (file_of(GREY, "GIF"), "not a PNG"),
    "signature only": (b"\x89PNG\r\n\x1a\n", "truncated or broken"),
    "half a png": (file_of(GREY)[:400], "truncated or broken"),
    "half a jpeg": (file_of(RGB, "JPEG")[:-300], "truncated or broken"),
    "half a tiff": (file_of(RGB, "TIFF")[:300], "truncated or broken"),
    "half a bmp": (file_of(RGB, "BMP")[:300], "truncated or broken"),
    "flipped bit": (file_of(GREY)[:200] + b"\0\0\0" + file_of(GREY)[203:], "truncated or broken"),
    "no columns": (png_of_claimed_size(0, 5), "0 x 5 pixels|truncated or broken"),
    "bomb": (png_of_claimed_size(2**16 - 1, 2**16 - 1), "absurd size of 65535 x 65535 pixels"),
    "long": (png_of_claimed_size(2**15 + 1, 1), "absurd size of 32769 x 1 pixels"),
    "cmyk jpeg": (
        file_of(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        "CMYK, the colours of print; export it as RGB",
    ),
    "cmyk tiff": (file_of(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "CMYK"),
    "float tiff": (file_of(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "pixels of mode F"),
    "transparent": (file_of(with_alpha(254)), "parts of the picture are transparent"),
    "transparent grey": (file_of(Image.fromarray(GREY), transparency=int(GREY[0, 0])), "are transparent"),
    "transparent deep": (file_of(Image.fromarray(DEEP), transparency=5), "16-bit grey with a transparent value"),
    "two pages": (
        file_of(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
        "more than one picture",
    ),
    "animated": (
        file_of(Image.fromarray(GREY), "PNG", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        "more than one picture",
    ),
    "negative 16-bit": (file_of(Image.fromarray(DEEP), "TIFF", tiffinfo={262: 0}), "stored as a negative"),
    "mirrored": (file_of(RGB, "JPEG", exif=turned(2)), "EXIF orientation 2 mirrors the picture"),
    "mirrored tiff": (file_of(RGB, "TIFF", exif=turned(5)), "EXIF orientation 5 mirrors the picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_without_doubt_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, fault = REFUSED[name]
    path = tmp_path / "scan.png"
    path.write_bytes(content)

    for source, place in ((content, "image: "), (path, f"{path}: ")):
        with pytest.raises(FoveolaError, match=fault) as caught:
            read_image(source)

        assert str(caught.value).startswith(place)
        assert "\n" not in str(caught.value)


def test_a_tag_that_pillow_only_warns_of_is_a_doubt_also_where_nobody_looks_at_warnings() -> None:
    content = bytearray(file_of(GREY, "TIFF"))
    entry = content.index(struct.pack("<HHI", 284, 3, 1))  # PlanarConfiguration, one SHORT
    content[entry + 4 : entry + 8] = struct.pack("<I", 2)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        with pytest.raises(FoveolaError, match="truncated or broken"):
            read_image(bytes(content))

    assert not seen


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="no such file; give the path of an image file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(FoveolaError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(FoveolaError, match=r"no such file|cannot be read"):
        read_image(Path("with\0null.png"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_turned_picture_is_set_upright(kind: str, orientation: int, quarters: int) -> None:
    smooth = np.add.outer(np.arange(24) * 5, np.arange(31) * 3).astype(np.uint8)

    image = read_image(file_of(smooth, kind, exif=turned(orientation)))

    expected = np.rot90(smooth, quarters)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= (3 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (file_of(GREY), GREY),
        (file_of(Image.fromarray(GREY // 64).convert("P")), GREY // 64),
        (file_of(np.stack([GREY] * 3, axis=2)), GREY),
        (file_of(GREY.astype(np.uint16)), GREY),
        (file_of(Image.fromarray(GREY > 9)), (GREY > 9).astype(np.uint8)),
    ],
    ids=["grey", "palette", "grey as rgb", "small 16-bit labels", "one bit"],
)
def test_a_mask_keeps_its_labels(content: bytes, expected: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(read_mask(content), expected)


def test_colours_and_large_numbers_are_no_labels() -> None:
    with pytest.raises(FoveolaError, match="is no label map"):
        read_mask(file_of(RGB))
    with pytest.raises(FoveolaError, match="is no label map"):
        read_mask(file_of(DEEP))
    with pytest.raises(FoveolaError, match="truncated or broken"):
        read_mask(file_of(GREY)[:300])


SEEDS = [
    file_of(GREY), file_of(DEEP), file_of(RGB, "JPEG"), file_of(RGB, "TIFF"), file_of(GREY, "BMP"),
    file_of(with_alpha(255)),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    cut=st.integers(0, 4000),
    edits=st.lists(st.tuples(st.integers(0, 3999), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    seed: bytes, cut: int, edits: list[tuple[int, int]]
) -> None:
    damaged = bytearray(seed[: cut or None])
    for at, value in edits:
        damaged[at % len(damaged)] = value

    try:
        image = read_image(bytes(damaged))
    except FoveolaError:
        return
    assert image.dtype in (np.uint8, np.uint16)


# --- preparing


def ramp(height: int, width: int, top: int) -> np.ndarray[Any, Any]:
    """A pattern of integers alone, so that it is the same on every machine."""
    y, x = np.mgrid[:height, :width]
    return np.asarray((x * 7919 + y * 104729 + x * y * 31) % (top + 1))


SPECS = {
    "grey pad": InputSpec(height=16, width=16, channels=1),
    "grey stretch": InputSpec(height=12, width=20, channels=1, fit="stretch"),
    "colour": InputSpec(height=16, width=16, channels=3),
    "percentile": InputSpec(height=16, width=24, channels=1, window="percentile", low=2, high=98),
}
# Equal under Pillow 11.0 and 13.0. A change here is a change of every bundle's input: it needs a new manifest format.
GOLDEN = {
    "grey pad/8": "52fffa34cb8b7596",
    "grey pad/16": "9a5c66d7bae7bce6",
    "grey pad/rgb": "f42dc2873f745262",
    "grey stretch/8": "9e393b99011b72fe",
    "grey stretch/16": "9f8edfb571d453fb",
    "grey stretch/rgb": "63228e670a54559e",
    "colour/8": "020f7a6adf37ee4a",
    "colour/16": "d6b67e7f68ba09a8",
    "colour/rgb": "55a34606612f24b4",
    "percentile/8": "e7ca3f1f93f5ca70",
    "percentile/16": "ebc8b1232b41814b",
    "percentile/rgb": "39229760686491c9",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_preparing_is_the_same_bit_for_bit_everywhere(name: str) -> None:
    spec, kind = name.split("/")
    images: dict[str, Any] = {
        "8": ramp(37, 53, 255).astype(np.uint8),
        "16": ramp(37, 53, 65535).astype(np.uint16),
        "rgb": np.stack([ramp(37, 53, top) for top in (255, 200, 90)], axis=2).astype(np.uint8),
    }

    x_CHW, _ = prepare(images[kind], SPECS[spec])

    assert hashlib.sha256(x_CHW.astype("<f4").tobytes()).hexdigest()[:16] == GOLDEN[name]


def test_preparing_known_pixels_gives_known_numbers() -> None:
    image = np.array([[0, 51, 102, 153], [51, 102, 153, 204]], np.uint8)
    spec = InputSpec(height=2, width=2, channels=1)

    x_CHW, geometry = prepare(image, spec)

    # Halved to 1 x 2 and centred; columns weigh (3 3 1) / 7 and (1 3 3) / 7 at the borders, rows (1 1) / 2.
    assert (geometry.pad_x, geometry.pad_y, geometry.scale_x, geometry.scale_y) == (0, 0, 0.5, 0.5)
    left = np.average([0, 51, 102, 51, 102, 153], weights=[3, 3, 1, 3, 3, 1])
    right = np.average([51, 102, 153, 102, 153, 204], weights=[1, 3, 3, 1, 3, 3])
    np.testing.assert_allclose(x_CHW[0, 0] * 255, [left, right], atol=1)
    assert not x_CHW[0, 1].any()


def test_reduction_does_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))

    x_CHW, _ = prepare(stripes, InputSpec(height=16, width=16, channels=1))

    assert np.abs(x_CHW - 0.5)[..., 1:-1].max() < 1 / 255  # at the border the kernel has one pixel less
    assert np.abs(x_CHW - 0.5).max() < 0.05


@pytest.mark.parametrize("pixels", [GREY, RGB, DEEP], ids=["grey", "colour", "deep"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_a_pillow_image_and_its_array_are_prepared_alike(pixels: np.ndarray[Any, Any], spec: InputSpec) -> None:
    one, place = prepare(pixels, spec)
    other, same_place = prepare(decode_image(file_of(pixels)), spec)

    np.testing.assert_array_equal(one, other)
    assert place == same_place
    assert one.shape == (spec.channels, spec.height, spec.width)
    assert one.dtype == np.float32
    assert one.flags.c_contiguous
    assert one.min() >= 0
    assert one.max() <= 1


def test_white_is_one_and_black_is_zero_at_every_depth() -> None:
    for white in (np.full((9, 9), 255, np.uint8), np.full((9, 9), 65535, np.uint16), np.full((9, 9, 3), 255, np.uint8)):
        for channels in (1, 3):
            spec = InputSpec(height=6, width=6, channels=channels)
            assert (prepare(white, spec)[0] == 1).all()
            assert (prepare(white * 0, spec)[0] == 0).all()


def test_grey_is_repeated_and_colour_becomes_luma() -> None:
    three, _ = prepare(GREY, SPECS["colour"])
    one, _ = prepare(np.full((8, 8, 3), (255, 0, 0), np.uint8), InputSpec(height=8, width=8, channels=1))

    np.testing.assert_array_equal(three[0], three[1])
    np.testing.assert_array_equal(three[0], three[2])
    np.testing.assert_allclose(one, 0.299, atol=1 / 255)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_the_percentile_window_is_the_nearest_rank(depth: Any) -> None:
    image = np.arange(256).astype(depth).reshape(16, 16)
    spec = InputSpec(height=16, width=16, channels=1, window="percentile", low=10, high=90)

    x_CHW, _ = prepare(image, spec)

    low, high = np.percentile(image, [10, 90], method="inverted_cdf")
    expected = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(x_CHW[0], expected, atol=1e-7)


def test_a_flat_picture_becomes_black_under_a_percentile_window() -> None:
    x_CHW, _ = prepare(np.full((20, 20), 77, np.uint8), SPECS["percentile"])

    assert not x_CHW.any()


def test_padding_stays_black_under_a_percentile_window() -> None:
    x_CHW, geometry = prepare(GREY, InputSpec(height=32, width=64, channels=1, window="percentile"))

    assert geometry.pad_x > 0
    assert not x_CHW[:, :, : geometry.pad_x].any()
    assert not x_CHW[:, :, geometry.pad_x + geometry.content_width :].any()


# --- geometry


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    spec=st.sampled_from([*SPECS.values(), InputSpec(height=224, width=320, channels=1)]),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_return_from_the_input(height: int, width: int, spec: InputSpec, corners: list[float]) -> None:
    geometry = prepare(np.zeros((height, width), np.uint8), spec)[1]
    a, b, c, d = corners
    box = np.array([[min(a, b) * width, min(c, d) * height, max(a, b) * width, max(c, d) * height, 9.0]])

    there = geometry.boxes_to_input(box)
    back = geometry.boxes_to_image(there)

    np.testing.assert_allclose(back, box, atol=1e-6 * max(height, width))
    assert there[:, :4].min() >= 0
    assert there[0, 2] <= spec.width + 1e-9
    assert there[0, 3] <= spec.height + 1e-9
    assert 1 <= geometry.content_width <= spec.width
    assert 1 <= geometry.content_height <= spec.height


def test_boxes_keep_their_further_columns_and_their_type() -> None:
    geometry = prepare(GREY, SPECS["grey pad"])[1]
    box = np.array([[1, 2, 3, 4, 7]], np.float32)

    moved = geometry.boxes_to_input(box)

    assert moved.dtype == np.float32
    assert moved[0, 4] == 7
    np.testing.assert_array_equal(box[0], [1, 2, 3, 4, 7])
    assert geometry.boxes_to_image(np.zeros((0, 6))).shape == (0, 6)


def fundus(size: tuple[int, int], centre: tuple[int, int], radius: int) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[: size[0], : size[1]]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    image = np.where(inside[..., None], np.array([180, 90, 40]), np.array([3, 2, 4])).astype(np.uint8)
    image[4:12, 4:60] = 250  # a printed name
    return image


@pytest.mark.parametrize("step", [1, 3])
def test_the_field_of_view_is_found_beside_printed_text(step: int) -> None:
    image = fundus((240 * step, 400 * step), (200 * step, 120 * step), 100 * step)

    x0, y0, x1, y1 = field_of_view(Image.fromarray(image))

    # The outermost lines of a disc hold too few lit pixels to count; a rim of 3 % is allowed to go.
    assert np.abs(np.subtract((x0, y0, x1, y1), np.multiply((100, 20, 300, 220), step))).max() <= 6 * step


def test_the_crop_goes_through_geometry_boxes_and_masks() -> None:
    image = fundus((240, 400), (200, 120), 100)
    spec = InputSpec(height=64, width=64, channels=3, crop="fov")

    x_CHW, geometry = prepare(image, spec)

    assert geometry.x0 > 80
    assert x_CHW[0].mean() > 0.5  # the surround is gone
    box = np.array([[150.0, 70.0, 250.0, 170.0]])
    np.testing.assert_allclose(geometry.boxes_to_image(geometry.boxes_to_input(box)), box)
    assert np.ptp(geometry.boxes_to_input(np.array([[0.0, 0.0, 50.0, 50.0]]))[0, ::2]) == 0
    full = mask_to_image(np.ones((2, 16, 16), np.float32), geometry, spec)
    assert full.shape == (2, 240, 400)
    assert (full[:, geometry.y0 : geometry.y1, geometry.x0 : geometry.x1] == 1).all()
    assert full.sum() == 2 * (geometry.x1 - geometry.x0) * (geometry.y1 - geometry.y0)


@pytest.mark.parametrize(
    "image",
    [np.zeros((50, 60, 3), np.uint8), np.full((50, 60), 200, np.uint8), np.full((500, 600), 40000, np.uint16)],
    ids=["black", "lit everywhere", "deep"],
)
def test_without_a_field_of_view_the_whole_picture_stays(image: np.ndarray[Any, Any]) -> None:
    assert field_of_view(Image.fromarray(image)) == (0, 0, image.shape[1], image.shape[0])


def test_a_mask_lies_on_its_image() -> None:
    mask = np.zeros((100, 60), np.uint8)
    mask[20:70, 10:40] = 3
    spec = InputSpec(height=50, width=50, channels=1)
    geometry = prepare(mask * 80, spec)[1]

    small = prepare_mask(mask, spec, geometry)

    expected = np.zeros((50, 50), np.uint8)
    expected[10:35, geometry.pad_x + 5 : geometry.pad_x + 20] = 3
    np.testing.assert_array_equal(small, expected)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (301, 200), (20, 30)])
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_masks_grow_as_torch_interpolates(height: int, width: int, fit: Any) -> None:
    spec = InputSpec(height=64, width=64, channels=1, fit=fit)
    geometry = prepare(np.zeros((height, width), np.uint8), spec)[1]
    grid = RNG.random((3, 16, 16), np.float32)

    full = mask_to_image(grid, geometry, spec)

    if fit == "stretch":
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(grid)[None], (height, width), mode="bilinear", align_corners=False
        )[0].numpy()
    else:
        expected = _sampled(grid, geometry, spec)
    np.testing.assert_allclose(full, expected, atol=2e-6)
    assert full.dtype == np.float32


def _sampled(grid: np.ndarray[Any, Any], geometry: Geometry, spec: InputSpec) -> np.ndarray[Any, Any]:
    """Torch's other road: each image pixel's place in the input, looked up by `grid_sample`."""
    x = (torch.arange(geometry.image_width, dtype=torch.float64) + 0.5) * geometry.scale_x + geometry.pad_x
    y = (torch.arange(geometry.image_height, dtype=torch.float64) + 0.5) * geometry.scale_y + geometry.pad_y
    where = torch.stack(torch.meshgrid(x / spec.width * 2 - 1, y / spec.height * 2 - 1, indexing="xy"), dim=-1)
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(grid).double()[None], where[None], padding_mode="border", align_corners=False
    )
    return np.asarray(sampled[0].numpy())
