"""Drawings for plotters and drawings as they are painted, against what another renderer shows."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs
from random_scenes import SIZE, random_scene
from shown import on_white, shown

from guidance import cli
from guidance.canvas.paths import appearing, chosen
from guidance.canvas.raster import Scene, rasterize
from guidance.canvas.svg import plot_svg, to_svg

INKSCAPE = "{http://www.inkscape.org/namespaces/inkscape}"


def sketch(n: int, colours: int, *, seed: int = 0, long: float = 0.1) -> Scene:
    """Short strokes anywhere, each of one of a few colours."""
    random = torch.Generator().manual_seed(seed)
    start = torch.rand(n, 1, 2, generator=random)
    moves = long * (torch.rand(n, 3, 2, generator=random) - 0.5)
    inks = torch.rand(colours, 3, generator=random)
    return Scene(
        points=torch.cat([start, moves], 1).cumsum(1).flatten(0, 1),
        segments=torch.ones(n, dtype=torch.long),
        widths=torch.full((1, n), 0.01),
        colours=inks[torch.randint(0, colours, (n,), generator=random)][None],
        opacity=0.3 + 0.7 * torch.rand(1, n, generator=random),
        background=None,
    )


def way(svg: str) -> float:
    """How far the pen travels lifted, in the unit of the file."""
    ends = [
        (np.array(numbers[:2], dtype=float), np.array(numbers[-2:], dtype=float))
        for numbers in (re.findall(r"-?[\d.]+", data) for data in re.findall(r' d="([^"]+)"', svg))
    ]
    return sum(float(np.linalg.norm(b[0] - a[1])) for a, b in pairwise(ends))


@pytest.mark.parametrize(
    "scene", [sketch(80, 3), sketch(60, 60), sketch(50, 2, long=1.0), *map(random_scene, range(3))]
)
def test_the_plotters_picture_is_the_same(scene: Scene) -> None:
    scene, size = replace(scene, background=None), (150.0, 200.0)
    plotted, as_it_is, in_pixels = (
        on_white(shown(svg, *SIZE))
        for svg in (plot_svg(scene, size), to_svg(scene, size, unit="mm"), to_svg(scene, SIZE))
    )
    assert (plotted - as_it_is).abs().max() < 0.01
    # The renderer cuts curves into lines by the file's units.
    assert (plotted - in_pixels).abs().mean() < 0.002


def test_units_and_layers_are_those_that_plotters_know() -> None:
    svg = plot_svg(sketch(80, 3), (150, 200))
    root = ElementTree.fromstring(svg)
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("200mm", "150mm", "0 0 200 150")
    layers = [group for group in root.iter() if group.get(f"{INKSCAPE}groupmode") == "layer"]
    for number, layer in enumerate(layers, 1):
        strokes = {path.get("stroke") for path in layer}
        assert len(strokes) == 1
        assert re.fullmatch(rf"{number} #[0-9a-f]{{6}}", layer.get(f"{INKSCAPE}label", ""))
        assert all(path.get("stroke-width") == "2.000" and path.get("fill") is None for path in layer)
    assert sum(len(layer) for layer in layers) == 80
    # Few strokes meet, so there are far fewer layers than changes of colour.
    assert len(layers) < 15


def test_there_is_no_background_to_fill() -> None:
    assert "<rect" not in plot_svg(replace(sketch(5, 1), background=torch.ones(3)), (10, 10))


def test_the_pen_goes_short_ways() -> None:
    scene = sketch(120, 1)
    assert way(plot_svg(scene, (100, 100))) < 0.25 * way(to_svg(scene, 100))


def test_chosen_paths_are_painted_in_the_order_given() -> None:
    scene = random_scene(5)
    assert torch.equal(rasterize(chosen(scene, range(12)), SIZE), rasterize(scene, SIZE))
    one_by_one = rasterize(chosen(scene, [7]), SIZE)
    transparent = replace(scene, background=None)
    both = rasterize(chosen(transparent, [3, 7]), SIZE)
    first, second = (rasterize(chosen(transparent, [path]), SIZE) for path in (3, 7))
    assert torch.allclose(both, second + (1 - second[:, 3:]) * first, atol=1e-5)
    assert not torch.allclose(one_by_one, rasterize(scene, SIZE), atol=0.01)


def test_a_drawing_appears_path_by_path() -> None:
    scene = random_scene(5)
    pictures = list(appearing(scene, SIZE, 24))
    assert len(pictures) == 24
    for frame in (1, 11, 23):
        begun = rasterize(chosen(scene, range((frame + 1) // 2)), SIZE)
        assert torch.allclose(pictures[frame], begun, atol=1e-5)
    assert torch.equal(pictures[1], pictures[2])  # 12 paths in 24 pictures
    assert torch.allclose(pictures[-1], rasterize(scene, SIZE), atol=1e-5)


def test_commands_take_a_file_or_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "final.svg").write_text(to_svg(sketch(20, 2), 64))
    assert cli.main(["plot", str(tmp_path), "--width", "100"]) == 0
    assert 'width="100mm"' in (tmp_path / "plot.svg").read_text()
    film = tmp_path / "new" / "film.mp4"
    common = ["strokes", str(tmp_path / "final.svg"), "--size", "64"]
    assert cli.main([*common, "--seconds", "0.4", "--output", str(film)]) == 0
    assert count_frames_and_secs(str(film))[0] == 10 + 38
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    outputs = [["--output", name] for name in ("", ".", str(tmp_path), f"{tmp_path}/{'x' * 240}.mp4")]
    plots = [["none"], ["x" * 5000], [str(tmp_path), "--width", "0"], *([str(tmp_path), *o] for o in outputs)]
    sizes = [["--size", size] for size in ("0", "-5", "8193")]
    films = [["--seconds", "nan"], ["--output", str(tmp_path / "a" / "film.avi")], *sizes, *outputs]
    for wrong in ([["plot", *plot] for plot in plots], [[*common, *film] for film in films]):
        for command in [*wrong, ["strokes", "x" * 5000], ["rerun", "x" * 5000]]:
            assert cli.main(command) == 2
            assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
