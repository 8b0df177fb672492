"""Canvases: parameters that render to an image."""

from guidance.canvas.base import Canvas, ParamGroup, VectorCanvas
from guidance.canvas.raster import Scene, rasterize
from guidance.canvas.strokes import Strokes
from guidance.canvas.svg import to_svg

__all__ = ["Canvas", "ParamGroup", "Scene", "Strokes", "VectorCanvas", "rasterize", "to_svg"]
