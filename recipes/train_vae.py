"""Train a small autoencoder of pictures, such as the embedded `tiny_vae`, in diffusers' layout."""

from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor

import guidance as g
from guidance import options, training
from guidance.clip.data import read_captioned
from guidance.diffusion.train_vae import VaeTrainee, begin_linear_, psnr, standardise_, train_vae, views
from guidance.diffusion.vae import read_model


def main(
    data: Path,
    *,
    steps: int = 6000,
    image_size: int = 64,
    channels: tuple[int, ...] = (16, 32, 64),
    latent_channels: int = 4,
    batch: int = 8,
    lr: float = 5e-4,
    perceptual: float = 0.25,
    kl: float = 1e-4,
    clip: options.Clip = "tiny",
    start: Path | None = None,
    seed: int = 0,
    device: options.Device = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    output: Path = Path("outputs/train_vae"),
) -> Path:
    """Train an AutoencoderKL on captioned pictures; the same command again goes on where it was stopped.

    Args:
        data: A folder with captions.csv (filepath, title).
        steps: How many batches are learned from.
        image_size: Side of the pictures that it learns from, in pixels.
        channels: Of every level, from the finest; each level but the last halves the picture.
        latent_channels: Of the latent, whose side is that of the last level.
        batch: Pictures a step.
        lr: Highest learning rate of AdamW.
        perceptual: Weight of the distance between the features of the CLIP.
        kl: Weight of the divergence of the latents from a standard normal, sum against the sum of pixels.
        start: A folder trained with these channels to start from; of any image size.
        seed: Another number gives another model.
        precision: Of the autoencoder's arithmetic: float32, or bfloat16.
        output: The folder of the model, its checkpoint and its metrics.
    """
    settings = {name: value for name, value in locals().items() if name not in ("output", "device")}
    where = g.device(device)
    clock = g.Clock(steps, seed)
    if not channels or any(width < 16 or width % 4 for width in channels):
        raise g.InputError(f"channels must be multiples of 4 from 16, got {channels}")
    factor = 2 ** (len(channels) - 1)
    if image_size < factor or image_size % factor:
        raise g.InputError(f"image_size must be a multiple of {factor}, got {image_size}")
    if latent_channels < 3:
        raise g.InputError(f"latent_channels must be at least 3, one for each colour, got {latent_channels}")
    judge = g.load(clip, device=where)
    # A little larger than what the model sees, since views enlarge as well.
    pictures = read_captioned(data, image_size * 5 // 4)
    training.check_batch(batch, int((~pictures.held_out).sum()))
    with torch.random.fork_rng(devices=[]):  # diffusers initialises from the global generator
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * len(channels),
            up_block_types=["UpDecoderBlock2D"] * len(channels),
            block_out_channels=channels,
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=4,
            mid_block_add_attention=False,  # convolutions alone: latents of any size
            sample_size=image_size,
            force_upcast=False,
        )
    begin_linear_(vae)
    if start is not None:
        vae.load_state_dict(read_weights(start, vae))
    trainee = VaeTrainee(vae.train().requires_grad_()).to(where)
    optimizer = torch.optim.AdamW(trainee.vae.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    training.open_folder(output, settings)
    steps_done = train_vae(
        trainee,
        pictures,
        judge,
        clock,
        optimizer,
        size=image_size,
        batch=batch,
        lr=lr,
        perceptual=perceptual,
        kl=kl,
        precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )

    generator = g.Clock(seed=seed).generator("standardise")
    rows = (~pictures.held_out).nonzero()[:, 0][:256]
    sample = views(pictures, rows, image_size, generator, where)

    def save() -> None:
        made = deepcopy(trainee.mean_vae)
        standardise_(made, sample)
        made.half().save_pretrained(output)

    training.record(steps_done, output, trainee, optimizer, clock, save)
    if pictures.held_out.any():
        print(f"held-out pictures: {psnr(trainee.mean_vae, pictures, pictures.held_out, image_size):.2f} dB")
    return output


def read_weights(folder: Path, vae: AutoencoderKL) -> dict[str, Tensor]:
    """The weights of a trained folder, which must be of the same architecture."""
    weights: dict[str, Tensor] = read_model(f"local-dir:{folder}").state_dict()
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in vae.state_dict().items()}:
        raise g.InputError(f"{folder} has another architecture; start from one with the same channels")
    return weights
