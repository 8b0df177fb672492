"""How much of a pixel a stroke covers, from the distance to its centre line: analytic antialiasing."""

from jaxtyping import Float
from torch import Tensor

#: Below this the width of the ramp across a pixel is that of a straight step, and its division is safe.
_STEEPEST = 1e-4


def coverage(
    distance: Float[Tensor, "f"], x: Float[Tensor, "f"], y: Float[Tensor, "f"], radius: Float[Tensor, "f"]
) -> tuple[Float[Tensor, "f"], Float[Tensor, "f"], Float[Tensor, "f"]]:
    """The share of the pixel that lies in the stroke, and its derivatives by the distance and by the radius.

    (x, y) is the unit normal of the centre line, at `distance` pixels from the pixel's centre. A pixel seen
    along the normal is the convolution of two boxes of widths |x| and |y|: a trapezoid, whose integral is the
    area on one side of a straight edge. A stroke is what lies between two edges, so that one thinner than the
    pixel covers its width.
    """
    wide, narrow = x.abs(), y.abs()
    wide, narrow = wide.maximum(narrow), wide.minimum(narrow).clamp_min_(_STEEPEST)
    half, flat = (wide + narrow) / 2, (wide - narrow) / 2

    def integral(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.clamp(-half, half)
        corner = (z.abs() - flat).clamp_min_(0) / narrow
        return (z - z.sign() * corner.square() * (narrow / 2)) / wide, (1 - corner) / wide

    outer, outer_slope = integral(radius + distance)
    inner, inner_slope = integral(radius - distance)
    return outer + inner, outer_slope - inner_slope, outer_slope + inner_slope
