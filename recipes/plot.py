"""A drawing as an SVG for a pen plotter."""

import os
from pathlib import Path

import guidance as g
from guidance.folder import check_file
from guidance.media import write_text


def main(drawing: Path, *, width: float = 200.0, output: Path | None = None) -> Path:
    """Prepare a drawing for a pen plotter: millimetres, a layer for each colour, short ways of the pen.

    Args:
        drawing: An SVG, or the folder of a run that has drawn one.
        width: The paper's width in millimetres.
        output: The file to write; plot.svg beside the drawing unless you say.
    """
    if not 1 <= width <= 10_000:
        raise g.InputError(f"width must be from 1 to 10000 millimetres, got {width:g}")
    svg = drawing / "final.svg" if os.path.isdir(drawing) else drawing
    path = output or svg.with_name("plot.svg")
    check_file(path)
    scene, (height, across) = g.read_svg(svg)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, g.plot_svg(scene, (width * height / across, width)))
    return path
