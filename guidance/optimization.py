"""The loop: a generator of steps that change a canvas until its image loses less.

Progress bars, checkpoints, films and notebooks are consumers of the generator; there is nothing to register.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Clock, Schedule, at

#: One number for each image of the population.
Loss = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b"]]


@dataclass(frozen=True)
class Step:
    """What happened in one step: its index from 0, the number of all steps, the losses and the image.

    The losses are as each loss gave them, before their weights. The image was rendered *before* the
    update. All tensors are detached.
    """

    index: int
    total: int
    losses: dict[str, Float[Tensor, "b"]]
    image: Float[Tensor, "b 3 h w"]


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
) -> Iterator[Step]:
    """Lower the sum of the losses from step `clock.index` to `clock.steps`, yielding every step.

    A loss may come with a weight, `(weight, loss)`, a number or a function of progress. The optimizer is
    Adam by default; a group of it that is named like one of the canvas gets that one's learning rate at
    every step. At each yield canvas, optimizer and `clock.index` agree, so that they can be saved there
    and taken up again.

    Raises ValueError when a loss does not give one number an image, and FloatingPointError when a loss or
    a gradient is not finite; the canvas is then as it was after the last good step.
    """
    weighted = {name: loss if isinstance(loss, tuple) else (1.0, loss) for name, loss in losses.items()}
    optimizer = optimizer or adam(canvas)
    while clock.index < clock.steps:
        image = canvas()
        terms = {name: loss(image) for name, (_, loss) in weighted.items()}
        for name, term in terms.items():
            if term.shape != image.shape[:1]:
                raise ValueError(f"loss {name!r} must give [{len(image)}] numbers, got {list(term.shape)}")

        optimizer.zero_grad()
        weights = {name: at(weight, clock.progress) for name, (weight, _) in weighted.items()}
        torch.stack([weights[name] * term.sum() for name, term in terms.items()]).sum().backward()
        groups = canvas.param_groups()
        _check_finite(terms, groups, clock)

        rates = {group["name"]: at(group["lr"], clock.progress) for group in groups}
        for group in optimizer.param_groups:
            group["lr"] = rates.get(group.get("name", ""), group["lr"])
        optimizer.step()
        with torch.no_grad():
            canvas.project_()

        clock.index += 1
        detached = {name: term.detach() for name, term in terms.items()}
        yield Step(clock.index - 1, clock.steps, detached, image.detach())


def _check_finite(terms: dict[str, Tensor], groups: list[ParamGroup], clock: Clock) -> None:
    values = {f"loss {name!r}": [term] for name, term in terms.items()}
    for group in groups:
        grads = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        values[f"the gradient of {group['name']!r}"] = grads
    # One tensor for everything, since each look at a result makes a GPU wait.
    finite = torch.stack([value.isfinite().all() for group in values.values() for value in group])
    if not finite.all():
        bad = next(name for name, group in values.items() if not all(v.isfinite().all() for v in group))
        raise FloatingPointError(
            f"{bad} is not finite at step {clock.index} of {clock.steps}; "
            "a lower learning rate or float32 precision may help"
        )


def fit(canvas: Canvas, image: Float[Tensor, "1 3 h w"], clock: Clock) -> None:
    """Make the canvas look like a picture, by mean squared error in sRGB, in `clock.steps` steps of Adam.

    The picture is stretched to the canvas's size; every member of the population is fitted to it.
    """
    with torch.no_grad():
        size = canvas().shape[-2:]
    target = functional.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)

    def pixels(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        return (images - target).square().mean((1, 2, 3))

    for _ in optimize(canvas, {"pixels": pixels}, clock):
        pass
