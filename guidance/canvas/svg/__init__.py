"""Scenes as SVG documents, out and in."""

from guidance.canvas.svg.plot import plot_svg
from guidance.canvas.svg.read import read_svg
from guidance.canvas.svg.warn import SvgWarning
from guidance.canvas.svg.write import to_svg

__all__ = ["SvgWarning", "plot_svg", "read_svg", "to_svg"]
