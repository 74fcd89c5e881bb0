"""The transform of images gives the same small square whatever comes in."""

import subprocess
import sys

import numpy as np
import pytest
from mmbench_vision.pixels import SquarePixels, square_side

from mmbench import Modality


def photo(size):
    return Modality(name="photo", kind="image", facts={"channels": 1, "size": size})


def test_an_image_of_the_right_shape_passes_unchanged():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)

    np.testing.assert_array_equal(SquarePixels(side=8, channels=1)(image), image)


@pytest.mark.parametrize(
    ("size", "max_side", "multiple_of", "expected"),
    [([8, 8], 32, 1, 8), ([100, 60], 32, 1, 32), ([10, 20], 32, 1, 20), ([30, 30], 32, 4, 28), ([3, 3], 32, 4, 4)],
)
def test_the_square_is_as_large_as_the_image_but_not_larger_than_allowed(size, max_side, multiple_of, expected):
    assert square_side(photo(size), max_side, multiple_of=multiple_of) == expected


def test_halving_an_image_weighs_neighbours_by_a_triangle():
    row = np.array([0, 0, 0, 0, 240, 240, 240, 240], dtype=np.uint8)
    image = np.tile(row, (8, 1))[np.newaxis]

    resized = SquarePixels(side=4, channels=1)(image)

    # Output pixel j is centred on 2j + 0.5; weights 1, 3, 3, 1 (of 8) for the four nearest input pixels.
    assert resized.dtype == np.uint8
    assert resized[0].tolist() == [[0, 30, 210, 240]] * 4


def test_resizing_agrees_with_pillow():
    image_module = pytest.importorskip(
        "PIL.Image", reason="Pillow, which the result is compared with, is not installed"
    )
    image = np.random.default_rng(0).integers(0, 256, size=(1, 50, 70), dtype=np.uint8)

    resized = SquarePixels(side=16, channels=1)(image)

    pillow = np.asarray(image_module.fromarray(image[0]).resize((16, 16), image_module.Resampling.BILINEAR))
    assert np.abs(resized[0].astype(int) - pillow.astype(int)).max() <= 1


def test_a_constant_image_keeps_its_value():
    image = np.full((3, 50, 31), 201, dtype=np.uint8)

    resized = SquarePixels(side=16, channels=3)(image)

    assert resized.shape == (3, 16, 16)
    assert (resized == 201).all()


def test_colour_becomes_grey_by_luma():
    image = np.array([[[200, 0, 0]], [[0, 200, 0]], [[0, 0, 200]]], dtype=np.uint8)  # red, green, blue
    image = np.repeat(image, 3, axis=1)

    grey = SquarePixels(side=3, channels=1)(image)

    assert grey[0, 0].tolist() == [60, 117, 23]  # 200 times 0.299, 0.587, 0.114


def test_grey_becomes_colour_by_repetition():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)

    colour = SquarePixels(side=3, channels=3)(image)

    np.testing.assert_array_equal(colour, np.repeat(image, 3, axis=0))


def test_equal_transforms_are_equal_so_that_encoders_share_the_cache():
    assert SquarePixels(side=8, channels=1) == SquarePixels(side=8, channels=1)


def test_the_light_module_imports_no_torch():
    code = "import sys, mmbench_vision; mmbench_vision.mmbench_encoders(); print('torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
