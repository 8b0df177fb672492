"""What resvg, a renderer of others, shows of an SVG."""

import io

import numpy as np
import resvg_py
import torch
from PIL import Image


def shown(svg: str, height: int, width: int, *, fine: int = 4) -> torch.Tensor:
    """[1, 4, h, w], colours multiplied by opacity; of `fine` lines a pixel, for its own are few."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width * fine, height=height * fine, dpi=96)
    pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"), dtype=np.float32) / 255
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    image[:, :3] *= image[:, 3:]
    return torch.nn.functional.adaptive_avg_pool2d(image, (height, width))


def on_white(image: torch.Tensor) -> torch.Tensor:
    """[1, 3, h, w]"""
    return image[:, :3] + 1 - image[:, 3:]
