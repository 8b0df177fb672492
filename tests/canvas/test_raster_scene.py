"""What a scene and the rasteriser refuse."""

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from raster_scenes import strokes

from guidance.canvas import rasterize
from guidance.canvas.raster import Gradients, Scene
from guidance.errors import InputError

LINE = [(6.0, 9.0), (12.0, 12.0), (18.0, 15.0), (24.0, 18.0)]

GRADIENT = Gradients(
    paths=torch.tensor([0]),
    radial=torch.tensor([True]),
    transforms=torch.zeros(1, 2, 3),
    offsets=torch.zeros(1, 1),
    colours=torch.zeros(1, 1, 4),
)

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
    "segments as int32": {"segments": torch.ones(1, dtype=torch.int32)},
    "segments whose sum overflows": {"segments": torch.full((1,), 2**62)},
    "doubles": {"opacity": torch.ones(1, 1, dtype=torch.float64)},
    "opacity as a list": {"opacity": [[1.0]]},
    "colours as a NumPy array": {"colours": np.ones((1, 1, 3), np.float32)},
    "no points": {"points": None},
    "flags as a list": {"filled": [[True]]},
    "a background as a tuple": {"background": (1.0, 1.0, 1.0)},
    "gradients as a table": {"gradients": {}},
    "colours elsewhere": {"colours": torch.ones(1, 1, 3, device="meta")},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bad_scene_is_an_input_error(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    # A user has no shape checks but the scene's own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError):
        replace(strokes([LINE], 1.0), **change)  # type: ignore[arg-type]


BAD_GRADIENTS = {
    "offsets as a list": {"offsets": [[0.0]]},
    "colours elsewhere": {"colours": torch.zeros(1, 1, 4, device="meta")},
    "no stops": {"offsets": torch.zeros(1, 0), "colours": torch.zeros(1, 0, 4)},
    "a path that is no list": {"paths": torch.tensor(0)},
    "a path that there is not": {"paths": torch.tensor([1])},
    "offsets that are no table": {"offsets": torch.tensor(0.5)},
    "offsets that descend": {"offsets": torch.tensor([[0.5, 0.2]]), "colours": torch.zeros(1, 2, 4)},
}


@pytest.mark.parametrize("change", BAD_GRADIENTS.values(), ids=BAD_GRADIENTS.keys())
def test_a_bad_gradient_is_an_input_error(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError):
        replace(strokes([LINE], 1.0), gradients=replace(GRADIENT, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "size", [0, -5, 16385, (0, 4), (4, 16385), 16.0, "16", (16,), (16.5, 16), None, True, (16, True)]
)
def test_a_bad_size_is_an_input_error(size: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="size must be"):
        rasterize(strokes([LINE], 1.0), size)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [np.int64(16), (np.int32(16), np.int64(16)), [16, 16]])
def test_a_size_may_be_any_whole_number(size: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    drawing = strokes([LINE], 1.0)
    assert torch.equal(rasterize(drawing, size), rasterize(drawing, 16))  # type: ignore[arg-type]


def test_a_member_without_gradients_among_those_with() -> None:
    one = strokes([LINE], 1.0)
    both = Scene(
        *(
            torch.cat([getattr(one, name)] * 2)
            for name in ("points", "segments", "widths", "colours", "opacity")
        ),
        background=one.background,
        gradients=GRADIENT,
    )
    assert torch.equal(rasterize(both.member(1), 32), rasterize(one, 32))
    assert torch.equal(rasterize(both.member(0), 32)[0], rasterize(both, 32)[0])
