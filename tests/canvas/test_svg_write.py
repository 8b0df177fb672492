"""An SVG that is written shows the scene: by closed forms, by sampling, and by what `rasterize` draws."""

import numpy as np
import pytest
import torch
from random_scenes import HEIGHT, SIZE, WIDTH, random_scene
from shown import on_white, shown

from guidance.canvas import Scene, rasterize
from guidance.canvas.raster import Gradients
from guidance.canvas.svg import to_svg
from guidance.errors import InputError


def polygon(*corners: tuple[float, float]) -> torch.Tensor:
    """A closed contour of lines, in pixels of a canvas 64 wide."""
    ends = torch.tensor(corners) / WIDTH
    steps = (ends.roll(-1, 0) - ends) / 3
    return torch.stack([ends, ends + steps, ends + 2 * steps], 1).flatten(0, 1)


def filled(*contours: torch.Tensor, even_odd: bool = False, gradients: Gradients | None = None) -> Scene:
    """One filled path."""
    return Scene(
        points=torch.cat(contours),
        segments=torch.tensor([len(contour) // 3 for contour in contours]),
        widths=torch.zeros(1, 1),
        colours=torch.tensor([[[0.2, 0.4, 0.6]]]),
        opacity=torch.tensor([[0.8]]),
        background=None,
        contours=torch.tensor([[len(contours)]]),
        closed=torch.ones(len(contours), dtype=torch.bool),
        filled=torch.tensor([[True]]),
        even_odd=torch.tensor([[even_odd]]),
        gradients=gradients,
    )


def test_open_strokes_are_written_compactly() -> None:
    scene = Scene(
        torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]),
        torch.tensor([1]),
        torch.tensor([[0.05]]),
        torch.tensor([[[1.0, 0.5, 0.0]]]),
        torch.tensor([[0.25]]),
        torch.tensor([1.0, 1.0, 1.0]),
    )
    assert to_svg(scene, 100) == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"\n width="100" height="100">\n'
        '<rect width="100" height="100" fill="rgb(100.00%, 100.00%, 100.00%)"/>\n'
        '<g fill="none" stroke-linecap="round" stroke-linejoin="round">\n'
        '<path d="M10.000 20.000C30.000 40.000 50.000 60.000 70.000 80.000"'
        ' stroke="rgb(100.00%, 50.00%, 0.00%)" stroke-opacity="0.2500" stroke-width="5.000"/>\n'
        "</g>\n</svg>\n"
    )


@pytest.mark.parametrize("even_odd", [False, True])
def test_compound_fills_keep_their_rule(even_odd: bool) -> None:
    """Squares in each other, both clockwise: the inner one is a hole by the even-odd rule alone."""
    outer = polygon((8, 8), (40, 8), (40, 40), (8, 40))
    inner = polygon((16, 16), (32, 16), (32, 32), (16, 32))
    expected = torch.zeros(HEIGHT, WIDTH)
    expected[8:40, 8:40] = 0.8
    if even_odd:
        expected[16:32, 16:32] = 0
    image = shown(to_svg(filled(outer, inner, even_odd=even_odd), SIZE), HEIGHT, WIDTH)
    assert (image[0, 3] - expected).abs().max() < 0.6 / 255
    assert (image[0, :3] - expected * torch.tensor([0.2, 0.4, 0.6])[:, None, None]).abs().max() < 1.5 / 255


def test_a_closed_stroke_has_no_ends() -> None:
    """A square's stroke: all but the rounded outer corners is a frame of whole pixels."""
    frame = polygon((10, 10), (40, 10), (40, 40), (10, 40))
    scene = filled(frame)
    scene = Scene(
        scene.points, scene.segments, torch.full((1, 1), 4 / WIDTH), scene.colours, scene.opacity, None,
        closed=torch.tensor([True]),
    )  # fmt: skip
    alpha = shown(to_svg(scene, SIZE), HEIGHT, WIDTH)[0, 3]
    expected = torch.zeros(HEIGHT, WIDTH)
    expected[8:42, 8:42] = 0.8
    expected[12:38, 12:38] = 0
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    for corner_y in (8, 40):
        for corner_x in (8, 40):
            rounded = (y >= corner_y) & (y < corner_y + 2) & (x >= corner_x) & (x < corner_x + 2)
            assert 0.8 * 0.6 < alpha[rounded].mean() < 0.8 * 0.95  # π/4 is 0.785
            alpha[rounded] = expected[rounded]
    assert (alpha - expected).abs().max() < 0.6 / 255


@pytest.mark.parametrize(
    "widths", [[2.0, 14, 0, 9], [0, 0, 0, 16.0], [12, 12, 12, 12.5], [20, 0, 0, 0]], ids=str
)
@pytest.mark.parametrize("closed", [False, True])
def test_a_width_that_varies_is_the_union_of_discs(widths: list[float], closed: bool) -> None:
    points = np.array([[12.0, 10], [60, 2], [2, 46], [50, 40]])
    radii = np.array(widths) / 2
    rows = np.column_stack([points, radii])
    curves = [rows]
    if closed:  # a second segment back to the start
        rows = np.concatenate([rows, [[60, 20, 1], [30, 30, 3]]])
        curves.append(np.concatenate([rows[3:], rows[:1]]))
    t = np.linspace(0, 1, 600)[:, None]
    s = 1 - t
    discs = np.concatenate(
        [s**3 * a + 3 * s * s * t * b + 3 * s * t * t * c + t**3 * d for a, b, c, d in curves]
    )
    grid = (np.arange(WIDTH * 4) + 0.5) / 4
    inside = np.zeros((HEIGHT * 4, WIDTH * 4), bool)
    for x, y, r in discs:
        inside |= (grid[None] - x) ** 2 + (grid[: HEIGHT * 4, None] - y) ** 2 <= r * r
    expected = torch.from_numpy(inside.reshape(HEIGHT, 4, WIDTH, 4).mean((1, 3))).float()
    scene = Scene(
        torch.from_numpy(rows[:, :2] / WIDTH).float(),
        torch.tensor([len(curves)]),
        torch.from_numpy(2 * rows[:, 2] / WIDTH).float(),
        torch.zeros(1, 1, 3),
        torch.ones(1, 1),
        None,
        closed=torch.tensor([closed]),
    )
    error = (shown(to_svg(scene, SIZE), HEIGHT, WIDTH)[0, 3] - expected).abs()
    assert error.mean() < 0.7 / 255
    assert error.max() < 0.2


def test_equal_widths_along_a_path_are_a_stroke() -> None:
    scene = random_scene(0)
    level = Scene(
        scene.points, scene.segments, torch.full_like(scene.widths, 0.05), scene.colours, scene.opacity,
        scene.background, scene.contours, scene.closed,
    )  # fmt: skip
    one = Scene(
        scene.points, scene.segments, torch.full((1, 12), 0.05), scene.colours, scene.opacity,
        scene.background, scene.contours, scene.closed,
    )  # fmt: skip
    assert to_svg(level, SIZE) == to_svg(one, SIZE)


def evaluate(gradients: Gradients) -> torch.Tensor:
    """The gradient's colours at the centres of the pixels, [4, h, w]: colours multiplied by opacity."""
    y, x = np.meshgrid((np.arange(HEIGHT) + 0.5) / WIDTH, (np.arange(WIDTH) + 0.5) / WIDTH, indexing="ij")
    u, v = np.einsum(
        "ij,jhw->ihw", gradients.transforms[0].double().numpy(), np.stack([x, y, np.ones_like(x)])
    )
    place = np.hypot(u, v) if gradients.radial[0] else u
    stops = gradients.colours[0].double().numpy().T
    colours = np.stack([np.interp(place, gradients.offsets[0].double().numpy(), stop) for stop in stops])
    colours[3] *= 0.8
    return torch.from_numpy(np.concatenate([colours[:3] * colours[3:], colours[3:]])).float()


@pytest.mark.parametrize(
    ("radial", "transform"),
    [
        (False, [[1.0, 0.5, -0.2], [0, 0, 0]]),
        (False, [[-1.5, 2.0, 0.3], [4, 4, 4]]),
        (False, [[0.0, 0, 0.3], [0, 0, 0]]),
        (False, [[3e-4, 1e-4, 0.6], [1, 2, 3]]),
        (True, [[2.0, 0, -1], [0, 2, -0.8]]),
        (True, [[1.5, 1.0, -1], [-0.5, 3, -0.8]]),
        (True, [[1.5, 1.0, -1], [1.5, 1.0, -1]]),  # of rank 1, through the middle and beside it
        (True, [[1.0, 0.0, -0.5], [0, 0, 0.3]]),
        (True, [[0.0, 0, 0.3], [0, 0, -0.2]]),
    ],
)
def test_gradients_by_their_formula(radial: bool, transform: list[list[float]]) -> None:
    gradients = Gradients(
        torch.tensor([0]),
        torch.tensor([radial]),
        torch.tensor([transform]),
        torch.tensor([[0.1, 0.5, 0.9]]),
        torch.tensor([[[1.0, 0, 0, 1], [0, 1, 0.5, 0.2], [0, 0.2, 1, 0.9]]]),
    )
    page = polygon((0, 0), (64, 0), (64, 48), (0, 48))
    image = shown(to_svg(filled(page, gradients=gradients), SIZE), HEIGHT, WIDTH)[0]
    error = (image - evaluate(gradients)).abs()
    assert error.mean() < 0.7 / 255
    assert error.max() < 5 / 255  # at a stop, the mean of a pixel is not its middle's


def test_without_a_background_it_is_transparent() -> None:
    assert (
        shown(to_svg(filled(polygon((9, 9), (9, 20), (20, 20))), SIZE), HEIGHT, WIDTH)[0, 3, 30:].max() == 0
    )


@pytest.mark.parametrize("seed", range(4))
def test_it_shows_what_rasterize_draws(seed: int) -> None:
    scene = random_scene(seed, b=2)
    for member, image in enumerate(rasterize(scene, SIZE)):
        assert (
            on_white(shown(to_svg(scene, SIZE, member=member), HEIGHT, WIDTH)) - image
        ).abs().mean() < 1 / 255


def test_no_size_is_an_input_error() -> None:
    with pytest.raises(InputError, match="size must be at least 1"):
        to_svg(random_scene(0), (0, 5))
    with pytest.raises(InputError, match="member"):
        to_svg(random_scene(0), 5, member=1)
