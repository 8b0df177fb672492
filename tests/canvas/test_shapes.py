"""Shapes that are hardly seen, found and drawn anew: VectorFusion's reinitialising of paths."""

from itertools import islice
from math import pi

import pytest
import torch

import guidance as g

SIZE = 64


def canvas(b: int = 1, seed: int = 0, paths: int = 6) -> g.Shapes:
    return g.Shapes(paths, SIZE, g.Clock(seed=seed), b=b, segments=(2, 5), radius=(0.1, 0.2), wobble=0.0)


def paths(shapes: g.Shapes) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Points and colour of each path of each member, in painting order."""
    points = iter(shapes.points.detach().clone().split((3 * shapes.segments.flatten()).tolist()))
    return [[(next(points), colour) for colour in member] for member in shapes.colours.detach().clone()]


def same(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(one, other, strict=True))


def stepped(shapes: g.Shapes, clock: g.Clock, steps: int = 3) -> torch.optim.Adam:
    optimizer = g.adam(shapes)

    def dark(image: torch.Tensor) -> torch.Tensor:
        return image.square().mean((1, 2, 3))

    for _ in islice(g.optimize(shapes, {"dark": dark}, clock, optimizer), steps):
        pass
    return optimizer


def test_what_is_hardly_seen_is_faint_or_small() -> None:
    shapes = g.Shapes(
        4, SIZE, g.Clock(), segments=(64, 64), radius=(0.1, 0.1), wobble=0.0, opacity=(0.5, 0.5)
    )
    shapes.colours.data[0, 1, 3] = 0.04
    first = shapes.points[: 3 * 64]
    first.data.copy_(0.3 * first + 0.5)  # a circle of a radius of 0.03
    assert shapes.unused(0.05, 1e-4).tolist() == [[False, True, False, False]]
    area = pi * 0.03**2
    assert shapes.unused(0.0, 1.01 * area).tolist() == [[True, False, False, False]]
    assert not shapes.unused(0.0, 0.99 * area).any()


def test_new_paths_lie_on_top_and_the_others_stay() -> None:
    shapes, clock = canvas(b=2), g.Clock(10)
    optimizer = stepped(shapes, clock)
    before, picture = paths(shapes), shapes().detach()
    chosen = torch.zeros(2, 6, dtype=torch.bool)
    chosen[0, 1] = chosen[1, 0] = chosen[1, 4] = True
    shapes.renew_(chosen, clock, optimizer, (0.7, 0.8))
    after = paths(shapes)
    for member, kept in enumerate(([0, 2, 3, 4, 5], [1, 2, 3, 5])):
        assert all(same(after[member][i], before[member][old]) for i, old in enumerate(kept))
        for points, colour in after[member][len(kept) :]:
            centre = points[::3].mean(0)  # the corners of a new path lie on a circle
            radii = (points[::3] - centre).norm(dim=1)
            assert radii.min() >= 0.1
            assert radii.max() - radii.min() < 1e-5
            assert 0.7 <= colour[3] <= 0.8
    assert not torch.equal(shapes(), picture)


def test_nothing_chosen_is_nothing_changed() -> None:
    shapes, clock = canvas(b=2), g.Clock(10)
    optimizer = stepped(shapes, clock)
    before, states = paths(shapes), [s["exp_avg"].clone() for s in optimizer.state.values()]
    shapes.renew_(torch.zeros(2, 6, dtype=torch.bool), clock, optimizer)
    assert all(
        same(a, b) for x, y in zip(before, paths(shapes), strict=True) for a, b in zip(x, y, strict=True)
    )
    assert all(torch.equal(a, s["exp_avg"]) for a, s in zip(states, optimizer.state.values(), strict=True))


def test_the_optimizer_goes_with_its_paths_and_forgets_the_new_ones() -> None:
    shapes, clock = canvas(), g.Clock(10)
    optimizer = stepped(shapes, clock)
    points, colours = (optimizer.state[p] for p in (shapes.points, shapes.colours))
    momentum = points["exp_avg"].split((3 * shapes.segments.flatten()).tolist())
    kept = torch.cat(momentum[:2] + momentum[3:])
    others, second = colours["exp_avg"][0, [0, 1, 3, 4, 5]].clone(), colours["exp_avg_sq"].clone()
    chosen = torch.zeros(1, 6, dtype=torch.bool)
    chosen[0, 2] = True
    shapes.renew_(chosen, clock, optimizer)
    assert torch.equal(points["exp_avg"][: len(kept)], kept)
    assert not points["exp_avg"][len(kept) :].any()
    assert torch.equal(colours["exp_avg"][0, :5], others)
    assert not colours["exp_avg"][0, 5].any()
    assert torch.equal(colours["exp_avg_sq"][0, :2], second[0, :2])
    begun = colours["exp_avg_sq"][0, 5]
    assert second.min() < begun.min() == begun.max() < second.max()
    assert colours["step"] == 3


def test_a_new_path_is_moved_no_further_than_others() -> None:
    """Where all gradients are alike, so are the steps, as far as the momentum has come."""
    shapes, clock = canvas(), g.Clock(2000)
    optimizer = torch.optim.Adam([{"name": "fixed", "params": [shapes.points], "lr": 1e-4}])
    for index in range(1200):
        if index == 1000:
            shapes.renew_(torch.arange(6)[None] == 0, clock, optimizer)
        before = shapes.points.detach().clone()
        optimizer.zero_grad()
        shapes.points.sum().backward()
        optimizer.step()
        assert (shapes.points - before).abs().max() < 1.01e-4


def test_a_member_is_renewed_as_in_a_single_drawing() -> None:
    found = []
    for b, seed in ((2, 0), (1, 1)):
        shapes, clock = canvas(b, seed), g.Clock(10, seed)
        optimizer = stepped(shapes, clock)
        shapes.renew_(torch.arange(6).expand(b, 6) % 2 == 0, clock, optimizer)
        stepped_on = g.optimize(shapes, {"light": lambda image: -image.mean((1, 2, 3))}, clock, optimizer)
        for _ in stepped_on:
            pass
        found.append(paths(shapes)[-1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("index", [3, 4])
def test_new_paths_are_a_function_of_the_step(index: int) -> None:
    drawn = []
    for steps in (index, index, index + 1):
        shapes, clock = canvas(), g.Clock(10, index=steps)
        shapes.renew_(torch.ones(1, 6, dtype=torch.bool), clock, g.adam(shapes))
        drawn.append(shapes.colours.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()
