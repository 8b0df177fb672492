"""Pipelines in diffusers' Stable Diffusion layout, by name: text encoders, autoencoder, U-Net, scheduler."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clock import Clock
from guidance.devices import device as find_device
from guidance.diffusion.noise import Trained
from guidance.diffusion.parts import Parts, check_parts, read_parts
from guidance.diffusion.schedulers import replace_scheduler
from guidance.diffusion.text_encoders import TextEncoders
from guidance.diffusion.vae import Vae, told_in_one_line
from guidance.errors import InputError

Precision = Literal["float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]


@dataclass(frozen=True)
class Pipeline:
    """The frozen parts of a Stable Diffusion; `unet` and `scheduler` are diffusers' own.

    `trained` is what the U-Net predicts and the noise that it was trained with, whatever the scheduler.
    """

    name: str
    text: TextEncoders
    vae: Vae
    unet: Any
    scheduler: Any
    trained: Trained
    device: torch.device

    @property
    def size(self) -> int:
        """Side in pixels of the pictures that it was trained on."""
        return int(self.unet.config.sample_size) * self.vae.factor

    def noise(self, clock: Clock, b: int, size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Standard normal latents of pictures of (h, w) pixels, each member's drawn by itself.

        Raises InputError when the U-Net cannot halve their sides as often as it does.
        """
        unit = self.vae.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if any(side < unit or side % unit for side in size):
            raise InputError(
                f"the sides of pictures must be multiples of {unit} pixels for {self.name!r}, "
                f"got {size[0]} × {size[1]}"
            )
        return self.vae.noise(clock, b, size).to(self.device)

    def with_scheduler(self, name: str) -> "Pipeline":
        """The same with another scheduler (`SchedulerName`); raises InputError for an unknown one."""
        return replace(self, scheduler=replace_scheduler(self.scheduler, name))


def load_pipeline(
    name: str = "tiny",
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    offload: Offload = "none",
    slicing: bool = False,
    tiling: bool = False,
) -> Pipeline:
    """A frozen Stable Diffusion 1, 2 or XL by name, in diffusers' formats.

    `name`: "tiny", the embedded one; "local-dir:path", a folder that diffusers wrote; "hf-hub:org/name"; the
    path of a single .safetensors file in the layout of Stable Diffusion's authors, with model_index.json and
    the configurations and tokenizers that it names in the file's folder (that layout has the U-Nets of Stable
    Diffusion and XL: as many layers in every level, and no other inputs). Only "hf-hub:" touches the network;
    only safetensors are read. `precision`: of weights and arithmetic; latents and pictures are float32, and
    so is the autoencoder with float16, in which Stable Diffusion XL's gives NaN. `offload`: on a GPU, only
    the part that computes is there (model), or only the layer (sequential). `slicing` decodes one picture at
    a time, `tiling` a piece of a picture.

    Raises InputError for an unknown name, parts that are missing, broken or do not fit each other, and for
    offloading without a GPU or without the package accelerate.
    """
    for what, value, kinds in (("precision", precision, Precision), ("offload", offload, Offload)):
        if value not in get_args(kinds):
            raise InputError(f"{what} must be one of {', '.join(get_args(kinds))}, got {value!r}")
    where = find_device(str(device))
    if offload != "none" and where.type != "cuda":
        raise InputError(
            f"offload moves weights between a GPU and memory, and the device is {where}; leave it out"
        )
    with told_in_one_line(name):
        parts = read_parts(name, getattr(torch, precision))
        trained = Trained.of(parts.scheduler)
        check_parts(parts, name)
        # `to` would warn of modules that no autoencoder has.
        parts.vae.bfloat16() if precision == "bfloat16" else parts.vae.float()
        parts.vae.use_slicing, parts.vae.use_tiling = slicing, tiling
        for model in (parts.unet, parts.vae, *parts.text_encoders):
            model.eval().requires_grad_(False)
        _place(parts, where, offload)
        text = TextEncoders(parts.text_encoders, parts.tokenizers, device=where, zeros=parts.zeros)
        return Pipeline(name, text, Vae(parts.vae, name), parts.unet, parts.scheduler, trained, where)


def _place(parts: Parts, where: torch.device, offload: Offload) -> None:
    """Bring the models where they compute, or let accelerate bring them when they do."""
    models = [*parts.text_encoders, parts.unet, parts.vae]  # in the order of their use
    if offload == "none":
        for model in models:
            model.to(where)
        return
    try:
        from accelerate import cpu_offload, cpu_offload_with_hook
    except ImportError as error:
        raise InputError(
            "offload needs the package accelerate; pip install 'clip-guidance[offload]'"
        ) from error
    before = None
    for model in models:
        if offload == "sequential":
            cpu_offload(model, where)
        else:
            _, before = cpu_offload_with_hook(model, where, prev_module_hook=before)
