"""The loop's order and schedules on a canvas whose every step is known in closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Clock, Schedule, linear
from guidance.optimization import Step, adam, optimize


class Flat(Canvas):
    """b images of one grey each, and a brightness they have in common."""

    def __init__(self, greys: list[float], lr: Schedule = 0.1) -> None:
        super().__init__()
        self.grey = nn.Parameter(torch.tensor(greys))
        self.gain = nn.Parameter(torch.ones(()))
        self.lr = lr

    def forward(self) -> Tensor:
        return (self.grey * self.gain).view(-1, 1, 1, 1).expand(-1, 3, 4, 6)

    def param_groups(self) -> list[ParamGroup]:
        return [
            {"name": "grey", "params": [self.grey], "lr": self.lr},
            {"name": "gain", "params": [self.gain], "lr": 0.0},
        ]

    def project_(self) -> None:
        self.grey.clamp_(0, 1)


def mean(image: Tensor) -> Tensor:
    return image.mean((1, 2, 3))


def sgd(canvas: Flat) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"name": "grey", "params": [canvas.grey]}], lr=7.0)


def test_a_step_tells_what_was_before_its_update() -> None:
    canvas, clock = Flat([0.5, 0.8]), Clock(steps=3)
    seen = []
    for step in optimize(canvas, {"mean": mean}, clock, sgd(canvas)):
        assert clock.index == step.index + 1
        assert not step.image.requires_grad
        seen.append((step.index, step.total, step.losses["mean"].tolist(), step.image[:, 0, 0, 0].tolist()))
        assert torch.allclose(canvas.grey, step.image[:, 0, 0, 0] - 0.1)
    assert [s[:2] for s in seen] == [(0, 3), (1, 3), (2, 3)]
    for i, (_, _, losses, pixels) in enumerate(seen):
        assert losses == pytest.approx([0.5 - 0.1 * i, 0.8 - 0.1 * i])
        assert pixels == pytest.approx(losses)


def test_learning_rate_and_weight_follow_progress() -> None:
    canvas, clock = Flat([1.0], lr=linear(0.2, 0.0)), Clock(steps=4)
    weighted = {"mean": (linear(1.0, 0.0), mean)}
    greys = [canvas.grey.item() for _ in optimize(canvas, weighted, clock, sgd(canvas))]
    # Step i moves by rate × weight at progress i/4; a loss is told without its weight.
    expected = 1.0 - torch.tensor([0.2 * (1 - i / 4) ** 2 for i in range(4)]).cumsum(0)
    assert greys == pytest.approx(expected.tolist())


def test_it_goes_on_from_the_clock_and_stops_at_its_end() -> None:
    canvas, clock = Flat([0.5]), Clock(steps=5, index=3)
    assert [step.index for step in optimize(canvas, {"mean": mean}, clock)] == [3, 4]
    assert list(optimize(canvas, {"mean": mean}, clock)) == []


def test_every_step_ends_with_valid_parameters() -> None:
    canvas = Flat([0.15])
    greys = [canvas.grey.item() for _ in optimize(canvas, {"mean": mean}, Clock(3), sgd(canvas))]
    assert greys == pytest.approx([0.05, 0.0, 0.0])


def test_members_do_not_influence_each_other() -> None:
    def run(greys: list[float]) -> Tensor:
        canvas = Flat(greys)
        for _ in optimize(canvas, {"square": lambda image: mean(image).square()}, Clock(5)):
            pass
        return canvas.grey.detach()

    assert torch.equal(run([0.3, 0.9]), torch.cat([run([0.3]), run([0.9])]))


def test_terms_are_added() -> None:
    canvas = Flat([0.5])
    losses = {"mean": mean, "three": (3.0, mean)}
    (step,) = optimize(canvas, losses, Clock(1), sgd(canvas))
    assert step.losses["three"].tolist() == step.losses["mean"].tolist() == [0.5]
    assert canvas.grey.item() == pytest.approx(0.5 - 0.1 * 4)


def test_adam_is_pytorchs_with_the_canvas_groups() -> None:
    canvas, twin = Flat([0.5]), Flat([0.5])
    reference = torch.optim.Adam([twin.grey], lr=0.1)
    for _ in optimize(canvas, {"square": lambda image: mean(image).square()}, Clock(5)):
        reference.zero_grad()
        mean(twin()).square().sum().backward()
        reference.step()
    assert canvas.grey.item() == pytest.approx(twin.grey.item(), abs=1e-6)
    assert [group["name"] for group in adam(canvas).param_groups] == ["grey", "gain"]


def bad_loss(image: Tensor) -> Tensor:
    return mean(image) / (0 if image.mean() < 0.35 else 1)


def bad_gradient(image: Tensor) -> Tensor:
    return mean(image) + ((mean(image) - mean(image)).sqrt() if image.mean() < 0.35 else 0)


@pytest.mark.parametrize(("loss", "told"), [(bad_loss, "loss 'bad'"), (bad_gradient, "gradient of 'grey'")])
def test_what_is_not_finite_is_named_and_changes_nothing(loss: Callable[[Tensor], Tensor], told: str) -> None:
    canvas, clock = Flat([0.5]), Clock(steps=10)
    with pytest.raises(FloatingPointError, match=rf"{told} is not finite at step 1 of 10"):
        list(optimize(canvas, {"mean": mean, "bad": loss}, clock, sgd(canvas)))
    assert clock.index == 1
    assert canvas.grey.item() == pytest.approx(0.5 - 2 * 0.1)


def test_a_loss_must_give_a_number_for_each_image() -> None:
    with pytest.raises(ValueError, match=r"loss 'mean' must give \[2\] numbers, got \[\]"):
        next(optimize(Flat([0.1, 0.2]), {"mean": lambda image: image.mean()}, Clock(1)))


def test_a_step_is_frozen() -> None:
    step = Step(0, 1, {}, torch.zeros(1, 3, 2, 2))
    with pytest.raises(AttributeError):
        step.index = 5  # type: ignore[misc]
