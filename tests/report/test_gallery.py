import numpy as np
import pytest

from hypoxnet.geometry import Grid
from hypoxnet.report.gallery import PLANES, gallery_case, read_gallery_case, write_gallery_case
from hypoxnet.report.page import interval

SHAPE = (20, 24, 16)


def grid(flip=()):
    """RAS+ at 2 x 2 x 4 mm, or the same voxels stored with some axes reversed."""
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    for axis in flip:
        affine[axis, 3] = affine[axis, axis] * (SHAPE[axis] - 1)
        affine[axis, axis] *= -1
    return Grid.from_affine(SHAPE, affine)


def volumes():
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    truth = np.zeros(SHAPE, dtype=bool)
    truth[8:12, 10:15, 6:9] = True
    return image, truth


def test_planes_do_not_depend_on_how_a_file_orders_its_axes():
    image, truth = volumes()
    plain = gallery_case("P1", "t", images={"FDG_SUV": image}, masks={"truth": truth, "prediction": truth}, grid=grid())
    turned = gallery_case(
        "P1",
        "t",
        images={"FDG_SUV": image[::-1, ::-1]},
        masks={"truth": truth[::-1, ::-1], "prediction": truth[::-1, ::-1]},
        grid=grid(flip=(0, 1)),
    )
    for plane in PLANES:
        assert np.array_equal(plain.pixels[plane], turned.pixels[plane])
        assert np.array_equal(plain.contours[plane]["truth"], turned.contours[plane]["truth"])
    assert plain.aspect == {"axial": 1.0, "coronal": 2.0, "sagittal": 2.0}


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    """A mark at the right front of the patient (high x and y in RAS+) is at the upper left of the axial plane."""
    _, truth = volumes()
    image = np.zeros(SHAPE, dtype=np.float32)
    image[14:, 17:, :] = 1.0
    case = gallery_case("P1", "t", images={"T1W": image}, masks={"truth": truth, "prediction": truth}, grid=grid())
    rows, columns = np.nonzero(case.pixels["axial"][0])
    height, width = case.pixels["axial"][0].shape
    assert rows.mean() < height / 2
    assert columns.mean() < width / 2


def test_a_case_comes_back_from_its_file(tmp_path):
    image, truth = volumes()
    masks = {"truth": truth, "prediction": ~truth, "tumour": truth}
    case = gallery_case("P1", "P1: Dice 0.00", images={"FDG_SUV": image, "T1W": -image}, masks=masks, grid=grid())
    write_gallery_case(tmp_path / "case.npz", case)
    again = read_gallery_case(tmp_path / "case.npz")
    assert (again.key, again.title, again.channels, again.aspect) == (case.key, case.title, case.channels, case.aspect)
    for plane in PLANES:
        assert np.array_equal(again.pixels[plane], case.pixels[plane])
        assert again.contours[plane].keys() == masks.keys()


def test_nothing_outlined_shows_the_middle():
    image, _ = volumes()
    nothing = np.zeros(SHAPE, dtype=bool)
    case = gallery_case("P1", "t", images={"T1W": image}, masks={"truth": nothing, "prediction": nothing}, grid=grid())
    assert case.pixels["axial"].size > 0


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"value": 0.7149, "low": 0.661, "high": 0.7601}, "0.71 (0.66 to 0.76)"),
        ({"value": 0.7149, "low": None, "high": None}, "0.71 (no interval)"),
        ({"value": None, "low": None, "high": None}, "not defined"),
    ],
)
def test_a_figure_in_words(figure, words):
    assert interval(figure) == words
