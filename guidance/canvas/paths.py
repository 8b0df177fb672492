"""Some of a drawing's paths, and the drawing as it is painted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.canvas.raster import Gradients, Scene, rasterize


def chosen(scene: Scene, paths: Sequence[int]) -> Scene:
    """These paths of a scene, at least one, painted in this order; for a population of one."""
    device = scene.opacity.device
    order = torch.tensor(paths, device=device)
    contours = torch.cat([torch.nonzero(scene.owners == path)[:, 0] for path in paths])
    ends = scene.sizes.cumsum(0)
    begins = ends - scene.sizes
    rows = torch.cat([torch.arange(int(begins[c]), int(ends[c]), device=device) for c in contours])

    def of_paths(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[:, order]

    return Scene(
        points=scene.points[rows],
        segments=scene.segments[contours],
        widths=scene.widths[rows] if scene.widths.ndim == 1 else scene.widths[:, order],
        colours=scene.colours[:, order],
        opacity=scene.opacity[:, order],
        background=scene.background,
        contours=of_paths(scene.contours),
        closed=None if scene.closed is None else scene.closed[contours],
        filled=of_paths(scene.filled),
        even_odd=of_paths(scene.even_odd),
        gradients=_gradients(scene.gradients, paths),
    )


def _gradients(gradients: Gradients | None, paths: Sequence[int]) -> Gradients | None:
    numbers = [] if gradients is None else gradients.paths.tolist()
    found = [(new, numbers.index(old)) for new, old in enumerate(paths) if old in numbers]
    if gradients is None or not found:
        return None
    places, which = torch.tensor(found, device=gradients.paths.device).T
    return Gradients(
        places,
        gradients.radial[which],
        gradients.transforms[which],
        gradients.offsets[which],
        gradients.colours[which],
    )


@torch.no_grad()
def appearing(scene: Scene, size: tuple[int, int], frames: int) -> Iterator[Float[Tensor, "1 3 h w"]]:
    """The scene as its paths appear in painting order, in `frames` pictures of (height, width), on white.

    The last is the whole drawing; for a population of one.
    """
    ground = torch.ones(3) if scene.background is None else scene.background
    picture = ground.view(1, 3, 1, 1).expand(1, 3, *size)
    transparent, n, painted = replace(scene, background=None), scene.opacity.shape[1], 0
    for frame in range(1, frames + 1):
        until = frame * n // frames
        if until > painted:
            layer = rasterize(chosen(transparent, range(painted, until)), size)
            picture = layer[:, :3] + (1 - layer[:, 3:]) * picture
            painted = until
        yield picture
