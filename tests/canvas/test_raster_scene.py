"""What a scene and the rasteriser refuse."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from raster_scenes import strokes

from guidance.canvas import rasterize
from guidance.errors import InputError

LINE = [(6.0, 9.0), (12.0, 12.0), (18.0, 15.0), (24.0, 18.0)]

BAD = {
    "a point that is not finite": {"points": torch.full((4, 2), torch.nan)},
    "a point far away": {"points": torch.full((4, 2), 1e5)},
    "a width that is not finite": {"widths": torch.tensor([[torch.inf]])},
    "a negative width": {"widths": torch.tensor([[-0.1]])},
    "too few points": {"points": torch.zeros(3, 2)},
    "segments by path": {"segments": torch.ones(1, 1, dtype=torch.long)},
    "no path": {"opacity": torch.ones(1, 0)},
    "a path without cubics": {"segments": torch.zeros(1, dtype=torch.long)},
    "colours without blue": {"colours": torch.zeros(1, 1, 2)},
    "doubles": {"opacity": torch.ones(1, 1, dtype=torch.float64)},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bad_scene_is_an_input_error(
    change: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A user has no shape checks but the scene's own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError):
        replace(strokes([LINE], 1.0), **change)


@pytest.mark.parametrize("size", [0, -5, 16385, (0, 4), (4, 16385)])
def test_a_bad_size_is_an_input_error(size: int | tuple[int, int]) -> None:
    with pytest.raises(InputError, match="size must be"):
        rasterize(strokes([LINE], 1.0), size)
