"""The geometry loss on cubics made by hand."""

from math import sqrt

import pytest
import torch

from guidance.canvas import Drawing, Scene, Shapes, Strokes
from guidance.clock import Clock
from guidance.losses import XingLoss

IMAGE = torch.zeros(1, 3, 4, 4)
ARCH = [(0.1, 0.5), (0.3, 0.2), (0.7, 0.2), (0.9, 0.5)]
#: The last arm leaves towards the upper left, across the first.
LOOP = [(0.1, 0.5), (0.9, 0.1), (0.9, 0.9), (0.1, 0.1)]
#: Turns right, then left by a right angle of CD against AB.
BENT = [(0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.3, 0.1)]
LINE = [(0.1, 0.1), (0.3, 0.1), (0.6, 0.1), (0.9, 0.1)]


def drawing(*members: list[list[tuple[float, float]]]) -> Drawing:
    """A canvas of members of equally many cubics."""
    b, n = len(members), len(members[0])
    points = torch.tensor([point for member in members for cubic in member for point in cubic])
    scene = Scene(
        points,
        torch.ones(b * n, dtype=torch.long),
        torch.full((b, n), 0.05),
        torch.zeros(b, n, 3),
        torch.ones(b, n),
        torch.ones(3),
    )
    return Drawing(scene, 32)


def mirrored(cubic: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(1 - x, y) for x, y in cubic]


def test_an_arch_and_a_line_cross_nothing() -> None:
    for cubic in (ARCH, mirrored(ARCH), ARCH[::-1], LINE):
        assert XingLoss(drawing([[*cubic]]))(IMAGE).item() == pytest.approx(0, abs=1e-6)


def test_what_turns_back_costs_the_sine_of_its_arms() -> None:
    # By hand: AB = (0.2, 0), BC = (0, 0.2), CD = (0, -0.2): AB×BC > 0, and CD is at −90°.
    for cubic in (BENT, mirrored(BENT)):
        assert XingLoss(drawing([[*cubic]]))(IMAGE).item() == pytest.approx(1, abs=1e-4)
    # AB = (0.8, -0.4), CD = (-0.8, -0.8): |0.8·−0.8 − −0.4·−0.8| / (√0.8·√1.28) = 0.96 / 1.012.
    value = XingLoss(drawing([[*LOOP]]))(IMAGE).item()
    assert value == pytest.approx(0.96 / sqrt(0.8 * 1.28), rel=1e-4)


def test_it_is_the_mean_over_each_members_cubics() -> None:
    canvas = drawing([ARCH, BENT, LINE, BENT], [ARCH, ARCH, LINE, BENT])
    assert XingLoss(canvas)(IMAGE.expand(2, -1, -1, -1)).tolist() == pytest.approx([0.5, 0.25], abs=1e-4)


def test_it_uncrosses() -> None:
    canvas = drawing([[*LOOP]])
    loss = XingLoss(canvas)
    optimizer = torch.optim.Adam(canvas.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss(IMAGE).sum().backward()
        assert canvas.points.grad.isfinite().all()
        optimizer.step()
    assert loss(IMAGE).item() == pytest.approx(0, abs=1e-4)


def test_an_arm_of_no_length_has_a_finite_gradient() -> None:
    canvas = drawing([[(0.5, 0.5)] * 4, [(0.5, 0.5), (0.5, 0.5), (0.6, 0.5), (0.6, 0.4)]])
    XingLoss(canvas)(IMAGE).sum().backward()
    assert canvas.points.grad.isfinite().all()


@pytest.mark.parametrize("make", [Strokes, Shapes])
def test_members_are_those_of_single_canvases(make: type[Strokes] | type[Shapes]) -> None:
    together = XingLoss(make(9, 32, Clock(seed=4), b=3))(IMAGE.expand(3, -1, -1, -1))
    alone = [XingLoss(make(9, 32, Clock(seed=4 + i)))(IMAGE).item() for i in range(3)]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
    assert min(alone) > 0
