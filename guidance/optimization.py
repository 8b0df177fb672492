"""The loop: a generator of steps that change a canvas until its image loses less.

Progress bars, checkpoints, films and notebooks are consumers of the generator; there is nothing to register.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.canvas.base import Canvas
from guidance.clock import Clock, Schedule, at
from guidance.errors import InputError

#: One number for each image of the population.
Loss = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b"]]

#: How often a step that fails is halved before it is given up: to a thousandth.
HALVINGS = 10


class StepWarning(UserWarning):
    """A step was taken smaller than it was meant."""


@dataclass(frozen=True)
class Report:
    """The gradients of a step's losses, before their weights, with respect to the rendered image.

    There they compare whatever the canvas is. `norms` are Euclidean, 0 for a loss that does not look at the
    image; `cosines` are those between two losses' gradients, by the pair of their names, 0 where one
    vanishes. One number for each image of the population.
    """

    norms: dict[str, Float[Tensor, "b"]]
    cosines: dict[tuple[str, str], Float[Tensor, "b"]]


@dataclass(frozen=True)
class Step:
    """What happened in one step: its index from 0, the number of all steps, the losses and the image.

    The losses are as each loss gave them, before their weights. The image was rendered *before* the
    update. `report` is there if it was asked for. All tensors are detached.
    """

    index: int
    total: int
    losses: dict[str, Float[Tensor, "b"]]
    image: Float[Tensor, "b 3 h w"]
    report: Report | None = None


def adam(canvas: Canvas) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015, PyTorch's defaults) with one named group for each of the canvas's."""
    return torch.optim.Adam(
        [
            {"name": group["name"], "params": group["params"], "lr": at(group["lr"], 0.0)}
            for group in canvas.param_groups()
        ]
    )


def optimize(
    canvas: Canvas,
    losses: Mapping[str, Loss | tuple[Schedule, Loss]],
    clock: Clock,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    report: bool = False,
    on_nan: Literal["stop", "smaller"] = "stop",
) -> Iterator[Step]:
    """Lower the sum of the losses from step `clock.index` to `clock.steps`, yielding every step.

    A loss may come with a weight, `(weight, loss)`, a number or a function of progress. The optimizer is
    Adam by default; a group of it that is named like one of the canvas gets that one's learning rate at
    every step. At each yield canvas, optimizer and `clock.index` agree, so that they can be saved there
    and taken up again.

    With `report`, every step has a `Report`, for one more pass back to the image a loss; the steps are the
    same. With `on_nan` "smaller", a step after which a loss or a gradient is not finite is taken again with
    half its learning rates, up to ten times, and a `StepWarning` tells; the next step has its full rates
    again, so that nothing must be remembered.

    Raises ValueError when a loss does not give one number an image, and FloatingPointError when a loss or
    a gradient is not finite; the canvas is then as it was after the last good step.
    """
    if on_nan not in ("stop", "smaller"):
        raise InputError(f"on_nan must be stop or smaller, got {on_nan!r}")
    weighted = {name: loss if isinstance(loss, tuple) else (1.0, loss) for name, loss in losses.items()}
    optimizer = optimizer or adam(canvas)
    ahead: tuple[_Seen, _State] | None = None
    while clock.index < clock.steps:
        # What was seen ahead holds, unless the loop's body has changed the canvas.
        seen = (
            ahead[0]
            if ahead and ahead[1].is_of(canvas)
            else _look(canvas, weighted, optimizer, clock, report)
        )
        if seen.bad is not None:
            raise FloatingPointError(_not_finite(seen.bad, clock))
        if on_nan == "stop":
            _take(canvas, optimizer, clock)
        else:
            ahead = _take_finite(canvas, weighted, optimizer, clock, report)
        yield Step(clock.index - 1, clock.steps, seen.losses, seen.image, seen.report)


@dataclass(frozen=True)
class _Seen:
    """What a look at a canvas showed, and the name of what is not finite; the parameters have gradients."""

    losses: dict[str, Tensor]
    image: Tensor
    report: Report | None
    bad: str | None


def _look(
    canvas: Canvas,
    weighted: Mapping[str, tuple[Schedule, Loss]],
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    report: bool,
) -> _Seen:
    image = canvas()
    terms = {name: loss(image) for name, (_, loss) in weighted.items()}
    for name, term in terms.items():
        if term.shape != image.shape[:1]:
            raise ValueError(f"loss {name!r} must give [{len(image)}] numbers, got {list(term.shape)}")
    # Passes of their own, since a sum of parts would round the gradients differently.
    told = _report(terms, image) if report else None
    optimizer.zero_grad()
    weights = {name: at(weight, clock.progress) for name, (weight, _) in weighted.items()}
    torch.stack([weights[name] * term.sum() for name, term in terms.items()]).sum().backward()
    losses = {name: term.detach() for name, term in terms.items()}
    return _Seen(losses, image.detach(), told, _bad(losses, canvas))


def _report(terms: Mapping[str, Tensor], image: Tensor) -> Report:
    gradients = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(
            term.sum(), image, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients[name] = gradient.flatten(1)
    norms = {name: gradient.norm(dim=1) for name, gradient in gradients.items()}
    cosines = {
        (one, other): torch.cosine_similarity(gradients[one], gradients[other])
        for one, other in combinations(gradients, 2)
    }
    return Report(norms, cosines)


def _bad(losses: Mapping[str, Tensor], canvas: Canvas) -> str | None:
    """The name of the first loss or gradient that is not finite."""
    values = {f"loss {name!r}": [loss] for name, loss in losses.items()}
    for group in canvas.param_groups():
        grads = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        values[f"the gradient of {group['name']!r}"] = grads
    # One tensor for everything, since each look at a result makes a GPU wait.
    if torch.stack([value.isfinite().all() for group in values.values() for value in group]).all():
        return None
    return next(name for name, group in values.items() if not all(v.isfinite().all() for v in group))


def _not_finite(bad: str, clock: Clock) -> str:
    advice = "a lower learning rate or float32 precision may help"
    return f"{bad} is not finite at step {clock.index} of {clock.steps}; {advice}"


def _take(canvas: Canvas, optimizer: torch.optim.Optimizer, clock: Clock, scale: float = 1.0) -> None:
    """One step along the gradients, at the canvas's learning rates times `scale`."""
    rates = {group["name"]: at(group["lr"], clock.progress) for group in canvas.param_groups()}
    full = [rates.get(group.get("name", ""), group["lr"]) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, full, strict=True):
        group["lr"] = scale * rate
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, full, strict=True):
        group["lr"] = rate
    with torch.no_grad():
        canvas.project_()
    clock.index += 1


def _take_finite(
    canvas: Canvas,
    weighted: Mapping[str, tuple[Schedule, Loss]],
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    report: bool,
) -> tuple["_Seen", "_State"]:
    """The largest halving of a step after which all is finite, and what is then seen.

    Looking before the step is yielded keeps states that must be left out of checkpoints.
    """
    before = _State(canvas, optimizer)
    for halving in range(HALVINGS + 1):
        _take(canvas, optimizer, clock, 0.5**halving)
        seen = _look(canvas, weighted, optimizer, clock, report)
        if seen.bad is None:
            return seen, _State(canvas, optimizer)
        failure = _not_finite(seen.bad, clock)
        before.restore(canvas, optimizer)
        clock.index -= 1
        told = f"{seen.bad} was not finite after step {clock.index}, which is taken again, half as large"
        warnings.warn(StepWarning(told), stacklevel=1)
    raise FloatingPointError(failure)


class _State:
    """A copy of a canvas, its optimizer and its gradients."""

    def __init__(self, canvas: Canvas, optimizer: torch.optim.Optimizer) -> None:
        self._canvas = deepcopy(canvas.state_dict())
        self._optimizer = deepcopy(optimizer.state_dict())
        self._gradients = deepcopy([parameter.grad for parameter in canvas.parameters()])

    def is_of(self, canvas: Canvas) -> bool:
        now = canvas.state_dict()
        return all(torch.equal(value, now[name]) for name, value in self._canvas.items())

    def restore(self, canvas: Canvas, optimizer: torch.optim.Optimizer) -> None:
        canvas.load_state_dict(self._canvas)
        optimizer.load_state_dict(deepcopy(self._optimizer))  # which would take these tensors as its own
        for parameter, gradient in zip(canvas.parameters(), self._gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
