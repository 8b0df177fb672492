"""Training a small generator on few pictures, without an adversary.

First every picture learns a w of its own together with the layers that make the picture of it (generative
latent optimisation, GLO, Bojanowski et al. 2018, in W); noise on the w's makes their neighbourhoods alike:

    L = mean |G(wᵢ + 0.2 ε) - xᵢ| + mean |∇G(wᵢ + 0.2 ε) - ∇xᵢ| + 0.001 · mean wᵢ²,

where ∇ are the differences of neighbouring pixels, which keep edges sharp. Then the mapping network learns to
make such w's of normal latents z (`fit_mapping`). A few dozen pictures are learned in minutes on one core,
where adversarial training takes GPU days; there is nothing to find that was not in the pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from guidance.clock import Clock, cosine, warm_up
from guidance.generator.stylegan2 import MAPPING_RATE, Generator

#: Standard deviation of the noise on w's.
NOISE = 0.2
#: How much a latent belongs to one picture.
SHARPNESS = 100.0
#: Numbers of a latent that matter: in more the pictures are too far apart to be learned by a small network.
COMPONENTS = 4
#: How many batches the mapping network learns from.
MAPPING_STEPS = 3000


class Trainee(nn.Module):
    """A generator in training, and a w for each of so many pictures."""

    def __init__(self, generator: Generator, pictures: int, clock: Clock) -> None:
        super().__init__()
        self.generator = generator
        start = replace(clock, index=0)
        self.w = nn.Parameter(start.normal("train-generator/w", 1, (pictures, generator.style_dim))[0])


@dataclass(frozen=True)
class Trained:
    """What one step saw: the mean absolute error, and that of the edges."""

    index: int
    error: float
    edge_error: float


def adam(trainee: Trainee) -> torch.optim.Adam:
    """Adam on the w's and all of the generator but its mapping network."""
    mapping = {id(parameter) for parameter in trainee.generator.style.parameters()}
    learned = [parameter for parameter in trainee.parameters() if id(parameter) not in mapping]
    return torch.optim.Adam(learned, betas=(0.9, 0.99))


def train(
    trainee: Trainee,
    pictures: Float[Tensor, "n 3 s s"],
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    lr: float,
) -> Iterator[Trained]:
    """Train from step `clock.index` to `clock.steps`, yielding every step; all draws come from the clock."""
    generator = trainee.generator
    while clock.index < clock.steps:
        rows = torch.randperm(len(pictures), generator=clock.generator("train-generator/rows"))[:batch]
        w = trainee.w[rows]
        noise = NOISE * clock.normal("train-generator/noise", 1, tuple(w.shape))[0].to(w)
        images, wanted = generator(generator.spread(w + noise)), pictures[rows]
        error = (images - wanted).abs().mean()
        edge_error = (edges(images) - edges(wanted)).abs().mean()
        optimizer.zero_grad()
        (error + edge_error + 0.001 * w.square().mean()).backward()
        for group in optimizer.param_groups:
            group["lr"] = warm_up(cosine(lr, 0.01 * lr))(clock.progress)
        optimizer.step()
        clock.index += 1
        yield Trained(clock.index - 1, error.item(), edge_error.item())


def fit_mapping(generator: Generator, w: Float[Tensor, "n d"], clock: Clock) -> None:
    """Teach the mapping network to make w's like those given of normal latents; sets `latent_avg`.

    A z shall become the mean of the w's weighted with exp(SHARPNESS · cosine(z', aᵢ)), where aᵢ is wᵢ in its
    first principal components, whitened, and z' as many first numbers of z: the w of one picture, or between
    some that are near each other in W.
    """
    count = min(COMPONENTS, *w.shape)
    left, _, _ = torch.linalg.svd(w - w.mean(0), full_matrices=False)
    anchors = functional.normalize(left[:, :count], dim=1)
    optimizer = torch.optim.Adam(generator.style.parameters(), betas=(0.9, 0.99))
    fit = Clock(MAPPING_STEPS, clock.seed)
    while fit.index < fit.steps:
        z = fit.normal("fit-mapping/z", 1, (256, generator.style_dim))[0].to(w)
        cosines = functional.normalize(z[:, :count], dim=1) @ anchors.T
        optimizer.zero_grad()
        (generator.mapping(z) - (SHARPNESS * cosines).softmax(1) @ w).square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = cosine(0.2, 0.0)(fit.progress) / MAPPING_RATE
        optimizer.step()
        fit.index += 1
    with torch.no_grad():
        z = fit.normal("fit-mapping/mean", 1, (4096, generator.style_dim))[0].to(w)
        generator.latent_avg.copy_(generator.mapping(z).mean(0))


def edges(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b _"]:
    """The differences of neighbouring pixels, both ways."""
    return torch.cat([images.diff(dim=2).flatten(1), images.diff(dim=3).flatten(1)], dim=1)
