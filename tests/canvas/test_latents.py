"""Latents of a generator: what is a parameter and what is not, and what keeps them in range."""

import pytest
import torch
from torch import nn

from guidance.canvas import Latents
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.optimization import adam, optimize

GENERATOR = nn.Sequential(nn.Linear(6, 3 * 4 * 5), nn.Sigmoid(), nn.Unflatten(1, (3, 4, 5)))


class Holder:
    """A thing that is no module and holds one, as `Vae` does."""

    def __init__(self) -> None:
        self.model = GENERATOR
        self.calls = 0

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.model(latents)


def start(b: int = 2) -> torch.Tensor:
    return Clock().normal("latents", b, (6,))


def dark(image: torch.Tensor) -> torch.Tensor:
    return image.mean((1, 2, 3))


def test_the_generator_is_neither_parameter_nor_state() -> None:
    canvas = Latents(Holder().decode, start())
    assert [name for name, _ in canvas.named_parameters()] == ["latents"]
    assert list(canvas.state_dict()) == ["latents"]
    assert list(canvas.children()) == []


def test_it_begins_as_it_is_told_and_leaves_that_alone() -> None:
    begin = start()
    canvas = Latents(Holder().decode, begin)
    assert torch.equal(canvas(), GENERATOR(begin))
    assert canvas().shape == (2, 3, 4, 5)  # as the generator makes it: not square
    for _ in optimize(canvas, {"dark": dark}, Clock(2)):
        pass
    assert torch.equal(begin, start())
    assert not torch.equal(canvas.latents, begin)


def test_steps_end_in_bounds_of_each_number() -> None:
    least, greatest = torch.full((6,), -0.1), torch.linspace(0.05, 0.3, 6)
    canvas = Latents(Holder().decode, start(), bounds=(least, greatest))
    torch.testing.assert_close(canvas.latents.detach(), start().maximum(least).minimum(greatest))
    for _ in optimize(canvas, {"dark": dark}, Clock(5)):
        assert (canvas.latents >= least).all()
        assert (canvas.latents <= greatest).all()
    assert not torch.equal(canvas.latents, start().clamp(least, greatest))


def test_on_the_sphere_only_the_length_is_changed() -> None:
    canvas = Latents(Holder().decode, 5 * start(), sphere=True)
    expected = [row * (6**0.5 / row.norm()) for row in start()]
    torch.testing.assert_close(canvas.latents.detach(), torch.stack(expected))
    for _ in optimize(canvas, {"dark": dark}, Clock(5)):
        torch.testing.assert_close(canvas.latents.norm(dim=1), torch.full((2,), 6**0.5))
    assert (canvas.latents.detach() - torch.stack(expected)).abs().max() > 0.1


def test_checkpointing_decodes_again_for_the_same_gradient() -> None:
    plain, saving = Holder(), Holder()
    gradients = []
    for holder, checkpointed in ((plain, False), (saving, True)):
        canvas = Latents(holder.decode, start(), checkpointed=checkpointed)
        dark(canvas()).sum().backward()
        gradients.append(canvas.latents.grad)
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)
    assert (plain.calls, saving.calls) == (1, 2)


def test_its_learning_rate_is_a_schedule() -> None:
    canvas = Latents(Holder().decode, start(), lr=lambda progress: 0.5 - 0.25 * progress)
    optimizer = adam(canvas)
    rates = [optimizer.param_groups[0]["lr"] for _ in optimize(canvas, {"dark": dark}, Clock(2), optimizer)]
    assert rates == [0.5, 0.375]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(InputError, match="decode must be a function, got a module"):
        Latents(GENERATOR, start())
    with pytest.raises(InputError, match="give one of the two"):
        Latents(Holder().decode, start(), bounds=(-1, 1), sphere=True)
    with pytest.raises(InputError, match="least < greatest"):
        Latents(Holder().decode, start(), bounds=(1, torch.tensor([0.0, 2, 2, 2, 2, 2])))
