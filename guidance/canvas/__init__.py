"""Canvases: parameters that render to an image."""

from guidance.canvas.base import Canvas, ParamGroup, VectorCanvas
from guidance.canvas.conditioning import Conditioning
from guidance.canvas.drawing import Drawing
from guidance.canvas.fourier import Fourier
from guidance.canvas.latents import Latents
from guidance.canvas.palette import Palette, read_palette
from guidance.canvas.pixels import Pixels
from guidance.canvas.raster import Gradients, Scene, cubics, rasterize
from guidance.canvas.shapes import Shapes
from guidance.canvas.strokes import Strokes
from guidance.canvas.svg import SvgWarning, read_svg, to_svg

__all__ = [
    "Canvas",
    "Conditioning",
    "Drawing",
    "Fourier",
    "Gradients",
    "Latents",
    "Palette",
    "ParamGroup",
    "Pixels",
    "Scene",
    "Shapes",
    "Strokes",
    "SvgWarning",
    "VectorCanvas",
    "cubics",
    "rasterize",
    "read_palette",
    "read_svg",
    "to_svg",
]
