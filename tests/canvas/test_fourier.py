"""Fourier: against numpy's transforms and Lucid's formulas."""

import numpy as np
import pytest
import torch

from guidance.canvas import Fourier
from guidance.clock import Clock
from guidance.errors import InputError

#: Lucid's matrix as it is published, a column for each axis.
SVD_SQRT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
SIZES = [(16, 24), (15, 24), (16, 21), (15, 21), (2, 2)]


def by_lucid(canvas: Fourier, decay: float, colours: float, contrast: float) -> np.ndarray:
    """The picture as Lucid and aphantasia compute it, in numpy."""
    h, w = canvas.size
    spectrum = canvas.spectrum.detach().double().numpy()
    spectrum = spectrum[..., 0] + 1j * spectrum[..., 1]
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)
    scale = np.sqrt(h * w) / np.maximum(np.sqrt(fx * fx + fy * fy), 4 / max(h, w)) ** decay
    waves = np.fft.irfft2(scale * spectrum, (h, w), norm="ortho")
    waves *= contrast / waves.std(axis=(1, 2, 3), keepdims=True, ddof=1)
    axes = SVD_SQRT / [colours, 1, 1]
    axes /= np.linalg.norm(axes, axis=0).max()
    return 1 / (1 + np.exp(-np.einsum("bahw,ca->bchw", waves, axes)))


@pytest.mark.parametrize("size", SIZES[:4])
def test_it_is_aphantasias_picture(size: tuple[int, int]) -> None:
    canvas = Fourier(size, Clock(seed=4), b=2, decay=1.5, lowest=4.0, colours=1.8, contrast=1.1)
    np.testing.assert_allclose(canvas().detach(), by_lucid(canvas, 1.5, 1.8, 1.1), atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_real_and_of_its_size(size: tuple[int, int]) -> None:
    image = Fourier(size, Clock(), b=2)()
    assert image.shape == (2, 3, *size)
    assert image.dtype == torch.float32


def test_without_contrast_it_may_be_a_blank_page() -> None:
    canvas = Fourier(12, Clock(), colour=(0.9, 0.5, 0.2))
    with torch.no_grad():
        canvas.spectrum.zero_()
    ground = torch.tensor([0.9, 0.5, 0.2])[:, None, None].expand(1, 3, 12, 12)
    torch.testing.assert_close(canvas().detach(), ground)


def test_decay_is_what_falls_with_frequency() -> None:
    many = [Fourier(128, Clock(seed=s), decay=1.0, sd=0.01)().logit() for s in range(8)]
    power = torch.fft.rfft2(torch.cat(many)).abs().square().mean((0, 1))
    near, far = power[6:10, 6:10].mean(), power[28:36, 28:36].mean()
    # Four times the frequency at decay 1: a sixteenth of the power.
    assert (near / far).item() == pytest.approx(16, rel=0.25)


@pytest.mark.parametrize(("old", "factor"), [((15, 21), 2), ((16, 24), 3), ((15, 24), 2)])
def test_a_larger_picture_shows_the_same_waves(old: tuple[int, int], factor: int) -> None:
    canvas = Fourier(old, Clock(), sd=0.3, contrast=0.8)
    with torch.no_grad():  # of an even size's highest waves a grid shows only half
        if old[0] % 2 == 0:
            canvas.spectrum[:, :, old[0] // 2] = 0
        if old[1] % 2 == 0:
            canvas.spectrum[..., -1, :] = 0
    new = (factor * old[0], factor * old[1])
    torch.testing.assert_close(canvas(new)[..., ::factor, ::factor], canvas(), atol=2e-3, rtol=0)


def test_a_smaller_picture_shows_the_waves_that_it_can() -> None:
    canvas = Fourier((30, 44), Clock(), sd=0.1)
    with torch.no_grad():
        canvas.spectrum[:, :, 5:-4] = 0
        canvas.spectrum[:, :, :, 6:] = 0
    torch.testing.assert_close(canvas((15, 22)), canvas()[..., ::2, ::2], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"size": (1, 8)},
        {"size": (20000, 5)},
        {"b": 0},
        {"sd": 0.0},
        {"decay": -1.0},
        {"colours": 0.0},
        {"contrast": 0.0},
        {"lr": float("nan")},
        {"colour": (0.0, -0.5, 0.0)},
    ],
    ids=str,
)
def test_bad_arguments_are_input_errors(arguments: dict) -> None:
    with pytest.raises(InputError, match=next(iter(arguments)) if "b" not in arguments else "population"):
        Fourier(**({"size": 20, "clock": Clock()} | arguments))
