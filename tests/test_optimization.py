"""The loop's order and schedules on a canvas whose every step is known in closed form."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Clock, Schedule, linear
from guidance.optimization import Step, StepWarning, adam, optimize


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


def limited(least: float, slope: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A loss that is no number for images darker than this."""
    return lambda image: torch.where(mean(image) < least, float("nan"), slope * mean(image))


@pytest.mark.filterwarnings("ignore::guidance.optimization.StepWarning")
def test_a_step_into_nan_is_taken_again_half_as_large_until_it_is_good() -> None:
    canvas, clock = Flat([0.5]), Clock(steps=5)
    steps = optimize(canvas, {"mean": limited(0.36)}, clock, sgd(canvas), on_nan="smaller")
    with pytest.warns(StepWarning, match=r"loss 'mean' was not finite after step 1, which is taken again"):
        greys = [canvas.grey.item() for _ in steps]
    expected, grey = [], 0.5
    for _ in range(5):
        grey -= next(0.1 / 2**k for k in range(20) if grey - 0.1 / 2**k >= 0.36)
        expected.append(grey)
    assert greys == pytest.approx(expected)
    assert clock.index == 5


def test_what_was_taken_back_left_nothing_behind() -> None:
    """Adam's moments are those of the steps that were taken: as if the rates had been so from the start."""
    canvas, twin = Flat([0.5], lr=0.1), Flat([0.5], lr=lambda progress: 0.1 if progress == 0 else 0.05)
    with pytest.warns(StepWarning):
        first = list(
            zip(range(2), optimize(canvas, {"a": limited(0.34)}, Clock(9), on_nan="smaller"), strict=False)
        )
    second = list(zip(range(2), optimize(twin, {"a": mean}, Clock(9)), strict=False))
    assert canvas.grey.item() == twin.grey.item() == pytest.approx(0.35)
    assert [step.losses["a"].item() for _, step in first] == [step.losses["a"].item() for _, step in second]


@pytest.mark.filterwarnings("ignore::guidance.optimization.StepWarning")
def test_smaller_steps_are_the_same_after_a_stop_anywhere() -> None:
    def run(stops: int) -> tuple[float, list[float]]:
        canvas, clock = Flat([0.5]), Clock(6)
        optimizer, seen = adam(canvas), []
        while clock.index < clock.steps:
            steps = optimize(canvas, {"a": limited(0.33)}, clock, optimizer, on_nan="smaller")
            seen += [step.losses["a"].item() for _, step in zip(range(stops), steps, strict=False)]
        return canvas.grey.item(), seen

    assert run(1) == run(2) == run(100)


def test_steps_that_are_never_good_end_the_run_in_the_last_good_state() -> None:
    canvas, clock = Flat([0.5]), Clock(5)
    steps = optimize(canvas, {"mean": limited(0.49995)}, clock, sgd(canvas), on_nan="smaller")
    with pytest.warns(StepWarning), pytest.raises(FloatingPointError, match="not finite at step 1 of 5"):
        list(steps)
    assert (canvas.grey.item(), clock.index) == (0.5, 0)


def test_looking_ahead_sees_what_the_loop_has_changed() -> None:
    canvas = Flat([0.9])
    seen = []
    for step in optimize(canvas, {"mean": mean}, Clock(2), sgd(canvas), on_nan="smaller"):
        seen.append(step.losses["mean"].item())
        with torch.no_grad():
            canvas.grey.fill_(0.4)
    assert seen == pytest.approx([0.9, 0.4])


@pytest.mark.parametrize("on_nan", ["stop", "smaller"])
def test_ways_with_nan_do_not_change_a_good_run(on_nan: Literal["stop", "smaller"]) -> None:
    canvas, twin = Flat([0.5, 0.7]), Flat([0.5, 0.7])
    losses = {"square": lambda image: mean(image).square()}
    told = [step.losses["square"] for step in optimize(canvas, losses, Clock(6), on_nan=on_nan)]
    plain = [step.losses["square"] for step in optimize(twin, losses, Clock(6))]
    assert torch.equal(torch.stack(told), torch.stack(plain))
    assert torch.equal(canvas.grey, twin.grey)


def test_gradients_are_reported_as_they_are() -> None:
    def run(report: bool) -> tuple[Tensor, list[Step]]:
        canvas = Flat([0.3, 0.6])
        losses = {
            "mean": mean,
            "left": (5.0, lambda image: mean(image[..., :3])),
            "away": lambda image: -2 * mean(image),
            "square": lambda image: image.square().sum((1, 2, 3)),
            "apart": lambda image: canvas.grey.square(),
        }
        return canvas.grey, list(optimize(canvas, losses, Clock(3), report=report))

    grey, steps = run(True)
    plain_grey, plain_steps = run(False)
    assert torch.equal(grey, plain_grey)
    assert all(step.report is None for step in plain_steps)
    report = steps[0].report
    assert report is not None
    # d mean / d pixel = 1/72 for 72 numbers, d left = 1/36 for 36; before the weight of 5.
    expected = {"mean": 72**-0.5, "left": 36**-0.5, "away": 2 * 72**-0.5, "apart": 0.0}
    for name, norm in expected.items():
        assert report.norms[name].tolist() == pytest.approx([norm, norm], abs=1e-7)
    assert report.norms["square"].tolist() == pytest.approx([2 * 0.3 * 72**0.5, 2 * 0.6 * 72**0.5])
    cosines = {pair: cosine.tolist() for pair, cosine in report.cosines.items()}
    assert len(cosines) == 10
    assert cosines["mean", "left"] == pytest.approx([2**-0.5] * 2)
    assert cosines["mean", "away"] == pytest.approx([-1, -1])
    assert cosines["mean", "square"] == pytest.approx([1, 1])
    assert cosines["mean", "apart"] == [0, 0]


def test_a_loss_must_give_a_number_for_each_image() -> None:
    with pytest.raises(ValueError, match=r"loss 'mean' must give \[2\] numbers, got \[\]"):
        next(optimize(Flat([0.1, 0.2]), {"mean": lambda image: image.mean()}, Clock(1)))


def test_a_step_is_frozen() -> None:
    step = Step(0, 1, {}, torch.zeros(1, 3, 2, 2))
    with pytest.raises(AttributeError):
        step.index = 5  # type: ignore[misc]
