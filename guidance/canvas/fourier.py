"""Sine waves of colours that occur together: Lucid's and aphantasia's picture."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Complex64, Float
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.canvas.grids import check_colour, check_members, check_number, frame
from guidance.clock import Clock, Schedule, at

#: A square root of the covariance of colours in photographs (Lucid; Olah et al. 2017): a row for each of
#: three independent axes, of light, of warm against cold, and of green against the rest.
_AXES = ((0.26, 0.27, 0.27), (0.09, 0.0, -0.09), (0.02, -0.05, 0.03))


class Fourier(Canvas):
    """A population of b pictures whose parameters are Fourier coefficients of decorrelated colours (Olah et
    al., Feature Visualization, 2017; with aphantasia's settings).

    `size` is (height, width), or one number for a square. A parameter, normal with deviation `sd` at first,
    is the amplitude of a wave, times (f₀ / max(f, f₀))^`decay` for its frequency f; f₀ is `lowest` waves
    on the longer side: so a step of equal size for all changes the large forms most. The waves are mixed into
    colours, the more vivid the larger `colours`, added to the logit of `colour` (sRGB in [0, 1]), and go
    through a sigmoid. With a `contrast`, the waves of a picture are scaled to this standard deviation
    whatever the amplitudes, as in aphantasia: such a picture is never a blank page.

    One parameter group, "spectrum", with the learning rate `lr` in units of the amplitudes. The picture
    begins as that of the clock's step 0 wherever the clock is. Raises `InputError` for numbers out of range.
    """

    spectrum: nn.Parameter
    scale: Float[Tensor, "h f"]
    axes: Float[Tensor, "3 3"]
    ground: Float[Tensor, "3 1 1"]

    def __init__(
        self,
        size: int | tuple[int, int],
        clock: Clock,
        *,
        b: int = 1,
        sd: float = 0.05,
        decay: float = 1.5,
        lowest: float = 1.0,
        colours: float = 1.8,
        contrast: float | None = None,
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        lr: Schedule = 0.05,
    ) -> None:
        super().__init__()
        height, width = frame(size)
        check_members(b)
        check_colour("colour", colour)
        check_number("decay", decay, most=10)
        for name, value in (("sd", sd), ("lowest", lowest), ("colours", colours)):
            check_number(name, value, least=1e-6)
        for progress in (0.0, 1.0):
            check_number("lr", at(lr, progress), least=1e-6)
        if contrast is not None:
            check_number("contrast", contrast, least=1e-6)

        self.size = (height, width)
        self.contrast = contrast
        self.lr = lr
        start = replace(clock, index=0).normal("fourier", b, (3, height, width // 2 + 1, 2))
        self.spectrum = nn.Parameter(sd * start)
        frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
        base = lowest / max(height, width)
        scale = (base / frequency.clamp(min=base)) ** decay
        axes = torch.tensor(_AXES) / torch.tensor([[colours], [1.0], [1.0]])
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("axes", axes / axes.norm(dim=1).max(), persistent=False)
        # Pure white would be infinite.
        ground = torch.tensor(colour).clamp(0.01, 0.99).logit()
        self.register_buffer("ground", ground[:, None, None], persistent=False)

    def forward(self, size: int | tuple[int, int] | None = None) -> Float[Tensor, "b 3 h w"]:
        """The pictures, float32 sRGB in [0, 1], at the canvas's own size or at another.

        A larger size shows the same waves, a smaller one those that it can.
        """
        height, width = self.size if size is None else frame(size)
        coefficients = torch.view_as_complex(self.spectrum) * self.scale
        if (height, width) != self.size:
            coefficients = _resized(coefficients, self.size, (height, width))
        waves = torch.fft.irfft2(coefficients, (height, width), norm="forward")
        if self.contrast is not None:
            waves = waves * self.contrast / waves.std((1, 2, 3), keepdim=True)
        return torch.sigmoid(torch.einsum("bahw,ac->bchw", waves, self.axes) + self.ground)

    def param_groups(self) -> list[ParamGroup]:
        """The coefficients."""
        return [{"name": "spectrum", "params": [self.spectrum], "lr": self.lr}]


def _resized(
    coefficients: Complex64[Tensor, "b 3 h f"], old: tuple[int, int], new: tuple[int, int]
) -> Complex64[Tensor, "b 3 H F"]:
    """The coefficients of the waves that both sizes have, but for the highest of an even size."""
    rows, columns = ((min(a, z) - 1) // 2 for a, z in zip(old, new, strict=True))
    kept = coefficients[..., : columns + 1]
    ends = kept.shape[2] - rows
    gap = new[0] - 2 * rows - 1
    kept = torch.cat(
        [kept[:, :, : rows + 1], kept.new_zeros(*kept.shape[:2], gap, columns + 1), kept[:, :, ends:]], 2
    )
    return F.pad(kept, (0, new[1] // 2 - columns))
