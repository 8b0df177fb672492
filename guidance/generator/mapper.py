"""StyleCLIP's latent mapper (Patashnik et al. 2021, section 5): a small network for one text that moves any
latent, trained on latents that are drawn anew at every step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Clock, Schedule
from guidance.errors import InputError
from guidance.generator.stylegan2 import EqualLinear, Generator, normalize, randomize_
from guidance.media import replacing

#: The groups of w's in W+: of layers up to 8 pixels, up to 32, and beyond (the paper's).
GROUPS = {"coarse": slice(0, 4), "medium": slice(4, 8), "fine": slice(8, None)}
#: Layers of a group's network.
DEPTH = 4


class Mapper(nn.Module):
    """W+ to a change of W+; of the groups only those named change, each by a network of its own.

    A network has four linear layers of the w's width with leaky ReLUs between; what it gives counts a tenth.
    Its last layer begins at zero, so that the first change is none; the others' weights are drawn from the
    clock. Raises InputError for an unknown group.
    """

    def __init__(self, style_dim: int, groups: Sequence[str], clock: Clock) -> None:
        super().__init__()
        if not groups or not set(groups) <= set(GROUPS):
            raise InputError(f"groups must be some of {', '.join(GROUPS)}, got {', '.join(groups) or 'none'}")
        self.networks = nn.ModuleDict(
            {
                name: nn.ModuleList([EqualLinear(style_dim, style_dim) for _ in range(DEPTH)])
                for name in groups
            }
        )
        randomize_(self, clock)
        for name in groups:
            nn.init.zeros_(self._layers(name)[-1].weight)

    def forward(self, w: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The change, to be added."""
        change = torch.zeros_like(w)
        for name in self.networks:
            *hidden, last = self._layers(name)
            x = normalize(w[:, GROUPS[name]])
            for layer in hidden:
                x = functional.leaky_relu(layer(x), 0.2)
            change[:, GROUPS[name]] = 0.1 * last(x)
        return change

    def _layers(self, name: str) -> list[EqualLinear]:
        layers: Any = self.networks[name]
        return list(layers)


class MappedLatents(Canvas):
    """What a mapper makes of `b` latents, drawn anew at every step; its parameters are the mapper's.

    Raises InputError as `Generator.draw` does.
    """

    def __init__(
        self,
        generator: Generator,
        mapper: Mapper,
        clock: Clock,
        b: int,
        *,
        truncation: float,
        lr: Schedule,
    ) -> None:
        super().__init__()
        self.mapper = mapper
        self.lr = lr
        # Functions, since the weights of a module that is held here would be the canvas's, too.
        self._decode = generator.forward
        self._draw = lambda: generator.draw(clock, b, truncation)
        self._draw()  # says what is wrong with the numbers

    def forward(self) -> Float[Tensor, "b 3 h w"]:
        """The images of the changed latents, float32 sRGB in [0, 1]."""
        w = self._draw()
        return self._decode(w + self.mapper(w))

    def size_of_change(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        """The mean square of the change of each latent: a loss, which does not look at the image."""
        return self.mapper(self._draw()).square().mean((1, 2))

    def param_groups(self) -> list[ParamGroup]:
        """One group, "mapper"."""
        return [{"name": "mapper", "params": list(self.mapper.parameters()), "lr": self.lr}]


def save_mapper(path: Path, mapper: Mapper) -> None:
    """Write a mapper as a safetensors file, atomically."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in mapper.state_dict().items()}
    with replacing(path) as temporary:
        save_file(weights, temporary)


def load_mapper(path: Path, generator: Generator) -> Mapper:
    """A mapper that `save_mapper` wrote; raises InputError for a file that is none or of another width."""
    if not path.is_file():
        raise InputError(f"there is no mapper at {path}; give the mapper.safetensors of a run")
    try:
        weights = load_file(path)
        groups = tuple(name for name in GROUPS if f"networks.{name}.0.weight" in weights)
        mapper = Mapper(generator.style_dim, groups, Clock())
        mapper.load_state_dict(weights)
    except (OSError, RuntimeError, SafetensorError, InputError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no mapper for this generator ({reason}); train one") from error
    return mapper.requires_grad_(False).to(generator.latent_avg.device)
