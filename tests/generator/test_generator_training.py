"""Training on four plain pictures: they are learned, and latents are drawn near them."""

import pytest
import torch
from torch import Tensor

from guidance.clock import Clock
from guidance.generator.stylegan2 import Generator, randomize_
from guidance.generator.train import Trainee, adam, edges, fit_mapping, train


def pictures() -> Tensor:
    """Four colours, each with a darker half."""
    images = torch.rand(4, 3, 1, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 8, 8)
    images[:, :, :, 4:] *= 0.5
    return images


def trainee(clock: Clock) -> Trainee:
    generator = Generator((8, 8), style_dim=6, mapping_layers=2)
    randomize_(generator, clock)
    return Trainee(generator, 4, clock)


def test_pictures_are_learned_and_training_goes_on_the_same() -> None:
    clock = Clock(40, seed=1)
    whole = trainee(clock)
    steps = list(train(whole, pictures(), clock, adam(whole), batch=3, lr=0.05))
    assert [step.index for step in steps] == list(range(40))
    assert steps[-1].error < 0.13 < 0.3 < steps[0].error
    assert torch.equal(whole.generator.style[1].weight, trainee(clock).generator.style[1].weight)

    clock = Clock(40, seed=1)
    parts = trainee(clock)
    optimizer = adam(parts)
    for step in train(parts, pictures(), clock, optimizer, batch=3, lr=0.05):
        if step.index == 20:
            break
    for _ in train(parts, pictures(), clock, optimizer, batch=3, lr=0.05):
        pass
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_edges_are_differences_of_neighbours() -> None:
    image = torch.zeros(1, 3, 4, 4)
    image[:, 0, :, 2:] = 0.5
    assert edges(image).shape == (1, 2 * 3 * 4 * 3)
    assert edges(image).sum() == 4 * 0.5
    assert torch.equal(edges(image + 0.25), edges(image))


def test_the_mapping_network_learns_to_draw_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidance.generator.train.MAPPING_STEPS", 300)
    clock = Clock(seed=1)
    generator = trainee(clock).generator
    w = 3 * clock.normal("w", 1, (12, 6))[0]
    fit_mapping(generator, w, clock)
    drawn = generator.draw(Clock(seed=2), 64, 1.0)[:, 0]
    distance = torch.cdist(drawn, w).amin(1).mean()
    anywhere = w.mean(0) + w.std(0) * clock.normal("anywhere", 1, (64, 6))[0]
    assert distance < 0.7 * torch.cdist(anywhere, w).amin(1).mean()
    # From different latents different pictures, not one mean.
    assert drawn.std(0).mean() > 0.4 * w.std(0).mean()
    many = generator.draw(Clock(seed=3), 4000, 1.0)[:, 0]
    torch.testing.assert_close(generator.latent_avg, many.mean(0), atol=0.3, rtol=0)
