"""The constants of the model of coverage, which all backends share."""

from math import pi, sqrt

#: Half the diagonal of a pixel: no stroke whose edge is further from the pixel's centre crosses it.
REACH = sqrt(0.5)

#: A pixel blurs a round end along its edge, too, which moves the edge inwards by 1/(24·radius): the area
#: comes out right if the radius squared shrinks by this at the tip of the cap, by nothing at its sides.
CAP = pi / 24

#: Up to this radius, in pixels, a stroke is thin, and its outline is filled: the better model on this side.
THIN = 0.65

#: Pieces shorter than this, in pixels, are points: rounding gives them any direction.
STILL = 1 / 256

#: Lines that go less far along an axis, in pixels, go nowhere along it: to divide by that would overflow.
LEVEL = 1e-30

#: How far, in pixels, a flattened curve may be from the true one.
TOLERANCE = 0.1

#: A straight cubic needs no cuts to look right, but to feel how it would bend: along a piece the weights of
#: the control points are taken to be linear, which with 8 pieces is off by at most 1.2 %. A curve that would
#: need more than the most leaves the canvas by far.
FEWEST_PIECES, MOST_PIECES = 8, 1024

#: What a path of polylines is.
STROKE, NONZERO, EVEN_ODD = 0, 1, 2
