"""Text steers an image: CLIP-guided drawing and optimisation.

    import guidance as g

    clock = g.Clock(steps=300)
    canvas = g.Strokes(paths=128, size=224, clock=clock)
    loss = g.ClipLoss(g.load("tiny"), g.parse("a red heart"), g.Crops.clipdraw(clock))
    for step in g.optimize(canvas, {"clip": loss}, clock):
        print(step.losses)

A public name is imported from its module when it is first used, so that `import guidance` loads no PyTorch.
"""

# ruff: noqa: F401 - the imports below are for type checkers

import os
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# A thread of PyTorch that has nothing to do spins for 4 ms before it sleeps, and takes a core from the
# rasteriser's: 2048 strokes at 1024² took 45 ms on two cores, 48 on one. Where it spins for 0.15 ms they take
# 30, and the steps of a CLIP as long as before; where not at all, those take 1.4 times as long. GNU OpenMP
# reads this when PyTorch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from guidance.canvas.base import Canvas, VectorCanvas
    from guidance.canvas.conditioning import Conditioning
    from guidance.canvas.drawing import Drawing
    from guidance.canvas.fourier import Fourier
    from guidance.canvas.latents import Latents
    from guidance.canvas.palette import Palette, read_palette
    from guidance.canvas.pixels import Pixels
    from guidance.canvas.raster import Gradients, Scene, cubics, rasterize
    from guidance.canvas.shapes import Shapes
    from guidance.canvas.strokes import Strokes
    from guidance.canvas.svg import plot_svg, read_svg, to_svg
    from guidance.clip import Clip, load
    from guidance.clip.embed import embed_images, embed_texts
    from guidance.clip.features import image_features, image_tokens, text_features, text_tokens
    from guidance.clip.index import Index
    from guidance.clip.interop import from_transformers, save_transformers, to_transformers
    from guidance.clip.salient import outlines, relevance, salience, salient_places
    from guidance.clip.search import Match, duplicates, search
    from guidance.clip.templates import read_templates
    from guidance.clip.vectors import save_embedding
    from guidance.clip.zero_shot import classifier, zero_shot
    from guidance.clock import Clock, cosine, linear, piecewise
    from guidance.crops import Crops
    from guidance.devices import device
    from guidance.diffusion.conditioning import Condition
    from guidance.diffusion.guided import guide
    from guidance.diffusion.text_encoders import TextEncoders
    from guidance.diffusion.vae import Vae, load_vae
    from guidance.errors import InputError
    from guidance.losses import (
        ClipLoss,
        DirectionalLoss,
        DistillationLoss,
        DiversityLoss,
        EdgeLoss,
        GramLoss,
        LatentLoss,
        PaletteLoss,
        PerceptualLoss,
        StrotssLoss,
        SymmetryLoss,
        XingLoss,
        clip_features,
        clip_losses,
        clip_score,
        cosine_distance,
        great_circle,
        guide_score,
        load_guides,
        out_of_range,
        saturation,
        total_variation,
        vgg16_features,
    )
    from guidance.media import read_image, write_png
    from guidance.optimization import Step, adam, optimize
    from guidance.prompts import Prompt, parse
    from guidance.run import Run
    from guidance.starting import fit, start_from

#: Where each public name lives. No module is called like a public name: importing the module would hide it.
_HOMES = {
    "guidance.canvas.base": ["Canvas", "VectorCanvas"],
    "guidance.canvas.conditioning": ["Conditioning"],
    "guidance.canvas.drawing": ["Drawing"],
    "guidance.canvas.fourier": ["Fourier"],
    "guidance.canvas.latents": ["Latents"],
    "guidance.canvas.palette": ["Palette", "read_palette"],
    "guidance.canvas.pixels": ["Pixels"],
    "guidance.canvas.raster": ["Gradients", "Scene", "cubics", "rasterize"],
    "guidance.canvas.shapes": ["Shapes"],
    "guidance.canvas.strokes": ["Strokes"],
    "guidance.canvas.svg": ["plot_svg", "read_svg", "to_svg"],
    "guidance.clip": ["Clip", "load"],
    "guidance.clip.embed": ["embed_images", "embed_texts"],
    "guidance.clip.features": ["image_features", "image_tokens", "text_features", "text_tokens"],
    "guidance.clip.index": ["Index"],
    "guidance.clip.interop": ["from_transformers", "save_transformers", "to_transformers"],
    "guidance.clip.salient": ["outlines", "relevance", "salience", "salient_places"],
    "guidance.clip.search": ["Match", "duplicates", "search"],
    "guidance.clip.templates": ["read_templates"],
    "guidance.clip.vectors": ["save_embedding"],
    "guidance.clip.zero_shot": ["classifier", "zero_shot"],
    "guidance.clock": ["Clock", "cosine", "linear", "piecewise"],
    "guidance.crops": ["Crops"],
    "guidance.devices": ["device"],
    "guidance.diffusion.conditioning": ["Condition"],
    "guidance.diffusion.guided": ["guide"],
    "guidance.diffusion.text_encoders": ["TextEncoders"],
    "guidance.diffusion.vae": ["Vae", "load_vae"],
    "guidance.errors": ["InputError"],
    "guidance.losses": [
        "ClipLoss",
        "DirectionalLoss",
        "DistillationLoss",
        "DiversityLoss",
        "EdgeLoss",
        "GramLoss",
        "LatentLoss",
        "PaletteLoss",
        "PerceptualLoss",
        "StrotssLoss",
        "SymmetryLoss",
        "XingLoss",
        "clip_features",
        "clip_losses",
        "clip_score",
        "cosine_distance",
        "great_circle",
        "guide_score",
        "load_guides",
        "out_of_range",
        "saturation",
        "total_variation",
        "vgg16_features",
    ],
    "guidance.media": ["read_image", "write_png"],
    "guidance.optimization": ["Step", "adam", "optimize"],
    "guidance.prompts": ["Prompt", "parse"],
    "guidance.run": ["Run"],
    "guidance.starting": ["fit", "start_from"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
