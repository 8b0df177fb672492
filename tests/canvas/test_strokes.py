"""CLIPDraw's canvas: how it begins, what it keeps to, and that its SVG shows the same picture."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
import resvg_py
import torch
from PIL import Image

from guidance.canvas import Scene, Strokes, rasterize, to_svg
from guidance.clock import Clock, at
from guidance.errors import InputError

SIZE = 96
SVG = "{http://www.w3.org/2000/svg}"


def resvg(svg: str, size: int) -> torch.Tensor:
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize("width", [(2.0, 2.0), (2.0, 30.0), (0.3, 2.0)])
def test_resvg_shows_the_same_picture(width: tuple[float, float]) -> None:
    canvas = Strokes(64, SIZE, Clock(seed=3), b=2, width=width, width_limits=(0, 100))
    image = canvas()[1].detach()
    assert (resvg(canvas.svg(1), SIZE) - image).abs().mean() < 1.5 / 255
    # Its own antialiasing is coarse, four lines a pixel: finer lines bring it nearer to us.
    fine = torch.nn.functional.avg_pool2d(resvg(canvas.svg(1), 8 * SIZE), 8)
    assert (fine - image).abs().mean() < 0.7 / 255


def test_an_svg_is_valid_whatever_the_title() -> None:
    canvas = Strokes(5, 40, Clock())
    root = ElementTree.fromstring(canvas.svg(title='a <b> & "c" \x00\x1b ]]> 🦊 \ud800'))
    assert root.get("viewBox") == "0 0 40 40"
    assert root.findtext(f"{SVG}title") == 'a <b> & "c"  ]]> 🦊 '
    paths = root.findall(f".//{SVG}path")
    assert len(paths) == 5
    assert [path.get("d", "").count(" ") for path in paths] == [
        1 + 6 * int(s) - 1 for s in canvas.segments[0]
    ]


def test_an_svg_is_of_its_member() -> None:
    canvas = Strokes(7, 40, Clock(seed=1), b=3)
    assert canvas.svg(2) == Strokes(7, 40, Clock(seed=3)).svg()
    for member in (-1, 3):
        with pytest.raises(InputError, match="member must be from 0 to 2"):
            canvas.svg(member)


def test_the_ground_is_the_background() -> None:
    ground = (0.2, 0.4, 0.6)
    canvas = Strokes(1, 40, Clock(), opacity=(0, 0), background=ground)
    expected = torch.tensor(ground)[:, None, None].expand(3, 40, 40)
    torch.testing.assert_close(canvas()[0].detach(), expected)
    assert (resvg(canvas.svg(), 40) - expected).abs().max() < 0.5 / 255


def test_it_begins_as_clipdraw_does() -> None:
    canvas = Strokes(2000, 224, Clock(), b=2)
    counts = canvas.segments.flatten()
    assert [(counts == s).float().mean().item() for s in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.03)
    paths = canvas.points.detach().split((3 * counts + 1).tolist())
    starts = torch.stack([path[0] for path in paths])
    assert starts.min() >= 0
    assert starts.max() < 1
    assert starts.mean().item() == pytest.approx(0.5, abs=0.02)
    moves = torch.cat([path.diff(dim=0) for path in paths])
    assert moves.abs().max() <= 0.05 + 1e-6
    assert moves.abs().mean().item() == pytest.approx(0.025, rel=0.02)
    # A radius of 1 pixel.
    torch.testing.assert_close(canvas.widths.detach() * 224, torch.full((2, 2000), 2.0))
    assert canvas.colours.mean().item() == pytest.approx(0.5, abs=0.02)


def test_learning_rates_are_clipdraws() -> None:
    rates = {group["name"]: group["lr"] for group in Strokes(2, 200, Clock()).param_groups()}
    assert [at(rates["points"], p) * 200 for p in (0, 0.49, 0.5, 0.74, 0.75, 1)] == pytest.approx(
        [1, 1, 0.4, 0.4, 0.1, 0.1]
    )
    assert at(rates["width"], 0.5) * 200 == pytest.approx(0.2)
    assert at(rates["colour"], 0.5) == 0.01


def test_projecting_keeps_to_the_limits() -> None:
    canvas = Strokes(4, 100, Clock(), width_limits=(1, 50))
    with torch.no_grad():
        canvas.widths.copy_(torch.tensor([[-1.0, 0.005, 0.3, 7.0]]))
        canvas.colours.copy_(canvas.colours * 6 - 3)
    canvas.project_()
    torch.testing.assert_close(canvas.widths.detach() * 100, torch.tensor([[1.0, 1.0, 30.0, 50.0]]))
    assert canvas.colours.min() == 0
    assert canvas.colours.max() == 1


def test_options_shape_the_beginning() -> None:
    options = {"segments": (2, 2), "extent": 0.2, "reach": 0.0, "width": (4.0, 6.0), "opacity": (0.1, 0.3)}
    canvas = Strokes(50, 100, Clock(), **options)
    assert (canvas.segments == 2).all()
    assert canvas.points.min() >= 0.4
    assert canvas.points.max() <= 0.6
    assert 4 <= canvas.widths.min() * 100 < canvas.widths.max() * 100 <= 6
    opacity = canvas.colours[:, :, 3]
    assert 0.1 <= opacity.min() < opacity.max() <= 0.3


def test_a_resumed_clock_builds_the_same_canvas() -> None:
    begun, resumed = Strokes(9, 40, Clock(10)), Strokes(9, 40, Clock(10, index=6))
    assert torch.equal(begun(), resumed())


def test_to_svg_draws_what_rasterize_draws() -> None:
    drawing = Scene(
        torch.tensor([[0.2, 0.2], [0.9, 0.1], [0.1, 0.9], [0.8, 0.8]]),
        torch.tensor([1]),
        torch.tensor([[0.1]]),
        torch.tensor([[[0.8, 0.1, 0.3]]]),
        torch.tensor([[0.6]]),
        torch.tensor([1.0, 1.0, 0.9]),
    )
    image = rasterize(drawing, SIZE)[0]
    assert (resvg(to_svg(drawing, SIZE), SIZE) - image).abs().mean() < 0.7 / 255


@pytest.mark.parametrize(
    "arguments",
    [
        {"paths": 0},
        {"size": 0},
        {"size": 20000},
        {"b": 0},
        {"paths": 10**11},
        {"b": 10**11},
        {"segments": (0, 3)},
        {"segments": (3, 1)},
        {"width": (-1.0, 2.0)},
        {"width_limits": (5.0, 1.0)},
        {"opacity": (0.0, 1.5)},
        {"extent": -0.1},
        {"reach": float("nan")},
        {"background": (0.0, 0.0, 2.0)},
    ],
    ids=str,
)
def test_bad_arguments_are_input_errors(arguments: dict) -> None:
    with pytest.raises(InputError, match=next(iter(arguments)) if "b" not in arguments else "population"):
        Strokes(**({"paths": 3, "size": 20, "clock": Clock()} | arguments))


def test_a_sketch_is_of_ink_and_only_its_points_move() -> None:
    starts = Clock(seed=9).uniform("starts", 2, (12, 2))
    canvas = Strokes(
        12, 64, Clock(), b=2, segments=(1, 1), reach=0.05, width=(3, 3), starts=starts, ink=(0.1, 0.2, 0.3)
    )
    points = canvas.points.detach().view(2, 12, 4, 2)
    torch.testing.assert_close(points[:, :, 0], starts)
    assert points.diff(dim=2).abs().max() <= 0.025 + 1e-6
    assert [name for name, _ in canvas.named_parameters()] == ["points"]
    assert [group["name"] for group in canvas.param_groups()] == ["points"]
    assert {"widths", "colours"} < canvas.state_dict().keys()
    # No pixel is beyond the ink: overlapping strokes are opaque.
    low = canvas().amin((0, 2, 3))
    torch.testing.assert_close(low, torch.tensor([0.1, 0.2, 0.3]), atol=2e-3, rtol=0)


def test_bad_sketches_are_input_errors() -> None:
    with pytest.raises(InputError, match=r"starts must be \[1, 3, 2\], got \[1, 4, 2\]"):
        Strokes(3, 20, Clock(), starts=torch.zeros(1, 4, 2))
    with pytest.raises(InputError, match="ink must be three numbers"):
        Strokes(3, 20, Clock(), ink=(0.0, 0.0, 2.0))
