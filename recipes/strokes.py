"""A film of a drawing that appears path by path, as it was painted."""

import os
from pathlib import Path

import guidance as g
from guidance.canvas.paths import appearing
from guidance.film import check_suffix, write_film
from guidance.folder import check_file
from guidance.media import jpeg


def main(drawing: Path, *, size: int = 512, seconds: float = 8.0, output: Path | None = None) -> Path:
    """Film a drawing as it is painted, path by path.

    Args:
        drawing: An SVG, or the folder of a run that has drawn one.
        size: The film's width in pixels.
        seconds: How long the painting takes; then the drawing stays for one and a half.
        output: The film to write, .mp4, .gif or .webp; strokes.mp4 beside the drawing unless you say.
    """
    if not 0.04 <= seconds <= 600:
        raise g.InputError(f"seconds must be from 0.04 to 600, got {seconds:g}")
    svg = drawing / "final.svg" if os.path.isdir(drawing) else drawing
    path = output or svg.with_name("strokes.mp4")
    check_suffix(path)
    check_file(path)
    scene, (height, width) = g.read_svg(svg)
    tall = max(1, round(size * height / width))
    if not 1 <= size <= 8192 or tall > 8192:
        raise g.InputError(f"size must be from 1 to 8192 pixels, the height too, got {size} and {tall}")
    pictures = appearing(scene, (tall, size), round(25 * seconds))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_film(path, (jpeg(picture) for picture in pictures))
    return path
