"""Palette: few colours exactly, in crisp blocks, learned or given."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from guidance.canvas import Palette, read_palette
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.media import read_image, write_png
from guidance.optimization import optimize
from guidance.starting import fit

PICO = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.25), (1.0, 1.0, 1.0), (0.0, 0.5, 1.0)]


def colours(image: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(colour) for colour in image.detach().flatten(1).T.tolist()}


def draw(canvas: Palette, clock: Clock) -> torch.Tensor:
    """A finished picture of a green disc on blue."""
    size = canvas().shape[-1]
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    disc = (x**2 + y**2 < 0.5).float()
    target = torch.stack([0.1 * disc, 0.8 * disc, 1 - 0.9 * disc])
    for _ in optimize(canvas, {"l2": lambda image: (image - target).square().mean((1, 2, 3))}, clock):
        pass
    return canvas()


@pytest.mark.parametrize("n", [2, 5])
def test_a_finished_picture_has_n_colours_at_most(n: int, tmp_path: Path) -> None:
    clock = Clock(40)
    canvas = Palette(12, clock, b=3, colours=n, block=3)
    assert len(colours(canvas()[0])) > n
    for member in draw(canvas, clock):
        assert len(colours(member)) <= n
        write_png(tmp_path / "final.png", member[None])
        # Twice as many as may be, so that none too many is missed.
        assert len(Image.open(tmp_path / "final.png").convert("RGB").getcolors(2 * n)) <= n


def test_a_finished_picture_is_the_one_that_was_drawn() -> None:
    clock = Clock(60)
    before, after = Palette(16, Clock(), block=1), Palette(16, clock, block=1)
    image = draw(after, clock)[0].detach()
    torch.testing.assert_close(image[:, 8, 8], torch.tensor([0.1, 0.8, 0.1]), atol=0.15, rtol=0)
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([0.0, 0.0, 1.0]), atol=0.15, rtol=0)
    assert (before()[0] - image).abs().mean() > 0.2


def test_a_given_palette_stays() -> None:
    clock = Clock(20)
    canvas = Palette(8, clock, b=2, colours=PICO)
    image = draw(canvas, clock)
    assert colours(image[0]) <= set(PICO)
    assert len(colours(image[0])) > 1
    assert [group["name"] for group in canvas.param_groups()] == ["cells"]


def test_a_page_begins_light() -> None:
    begin = Palette(8, Clock(), colours=PICO, noise=0, ground=5.0)()
    assert begin.min() > 0.95
    learned = Palette(8, Clock(seed=3), b=4, noise=0, ground=20.0)()
    torch.testing.assert_close(learned.detach(), torch.ones_like(learned))


def test_cells_are_crisp_blocks() -> None:
    image = Palette((4, 6), Clock(), block=5)()
    assert image.shape == (1, 3, 20, 30)
    blocks = image.unflatten(3, (6, 5)).unflatten(2, (4, 5))
    assert (blocks == blocks[:, :, :, :1, :, :1]).all()
    assert len(colours(image[0])) == 24


def test_choices_harden_as_the_clock_goes_on() -> None:
    clock = Clock(100)
    canvas = Palette(8, clock, colours=4, block=1)

    def softness() -> float:
        return torch.cdist(canvas()[0].flatten(1).T, canvas.colours[0]).amin(1).mean().item()

    values = []
    for clock.index in (0, 50, 99, 100):
        values.append(softness())
    assert values[0] > values[1] > values[2] > values[3]
    assert values[3] < 1e-3  # torch.cdist's rounding


def test_a_fitted_picture_survives_the_choice() -> None:
    clock = Clock()
    canvas = Palette(16, clock, colours=6, block=2)
    target = torch.zeros(1, 3, 32, 32)
    target[:, 0, :16], target[:, 2, :, 16:], target[:, 1, 10:20, 10:20] = 0.9, 0.7, 0.8
    fit(canvas, target, Clock(100))
    clock.index = 1
    assert (canvas() - target).abs().mean() < 0.06  # soft, it fits to 0.01


def test_palettes_are_read(tmp_path: Path) -> None:
    assert read_palette("#ff0000, white,#00f", 8) == [(1, 0, 0), (1, 1, 1), (0, 0, 1)]
    write_png(tmp_path / "a.png", torch.tensor(PICO).T[None, :, None].repeat(1, 1, 4, 8))
    written = colours(read_image(tmp_path / "a.png")[0])
    read = torch.tensor(read_palette(f"@{tmp_path / 'a.png'}", 8))
    assert {tuple(colour) for colour in read.tolist()} == written
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 8, 64)
    write_png(tmp_path / "ramp.png", ramp)
    few = sorted(read_palette(f"@{tmp_path / 'ramp.png'}", 4))
    assert [colour[0] for colour in few] == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=0.08)


def test_commas_of_a_colour_are_its_own() -> None:
    assert read_palette("red, rgb(0, 0, 255)", 8) == [(1, 0, 0), (0, 0, 1)]


@pytest.mark.parametrize("n", [0, 1, 257])
def test_a_palette_has_a_number_of_colours(tmp_path: Path, n: int) -> None:
    write_png(tmp_path / "a.png", torch.rand(1, 3, 4, 4))
    with pytest.raises(InputError, match="from 2 to 256 colours"):
        read_palette(f"@{tmp_path / 'a.png'}", n)


@pytest.mark.parametrize("text", ["", "#12345", "#ff000080", "red,,blue", "@missing.png", "nonsense"])
def test_what_is_no_palette_is_told(text: str) -> None:
    with pytest.raises(InputError, match=r"colour|missing\.png"):
        read_palette(text, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cells": 0}, "size"),
        ({"cells": 3000, "block": 10}, "size"),
        ({"b": 0}, "population"),
        ({"colours": 1}, "from 2 to 256 colours, got 1"),
        ({"colours": 257}, "got 257"),
        ({"colours": [(0.0, 0.0, 0.0), (0.0, 0.0, 1.5)]}, "a colour"),
        ({"block": 0}, "block"),
        ({"temperature": (1.0, 0.0)}, "temperature"),
        ({"noise": -1.0}, "noise"),
        ({"ground": float("inf")}, "ground"),
        ({"lr": 0.0}, "lr"),
        ({"colour_lr": float("nan")}, "colour_lr"),
    ],
    ids=str,
)
def test_bad_arguments_are_input_errors(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Palette(**({"cells": 8, "clock": Clock()} | arguments))
