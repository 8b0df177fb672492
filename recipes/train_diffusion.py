"""Train a small Stable Diffusion on captioned pictures, such as the embedded one, in diffusers' layout."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

import guidance as g
from guidance import options, training
from guidance.clip.data import read_captioned
from guidance.diffusion.export import save_pipeline
from guidance.diffusion.from_clip import text_encoder
from guidance.diffusion.pipeline import load_pipeline
from guidance.diffusion.train_diffusion import DiffusionTrainee, inherit, prepare, train_diffusion
from guidance.diffusion.vae import Vae, read_model

#: Channels of a head of attention, and groups of a norm.
HEAD, GROUPS = 32, 16


def main(
    data: Path,
    *,
    steps: int = 4500,
    image_size: int = 64,
    channels: tuple[int, ...] = (64, 128, 192),
    batch: int = 32,
    lr: float = 8e-4,
    vae: str = "tiny",
    clip: options.Clip = "tiny",
    start: str | None = None,
    seed: int = 0,
    device: options.Device = "auto",
    precision: options.Precision = "bfloat16",
    output: Path = Path("outputs/train_diffusion"),
) -> Path:
    """Train a Stable Diffusion on captioned pictures; the same command again goes on where it was stopped.

    Args:
        data: A folder with captions.csv (filepath, title).
        steps: How many batches are learned from.
        image_size: Side of the pictures that it learns from, in pixels.
        channels: Of every level of the U-Net, from the finest; each level but the last halves the latents.
        batch: Latents a step.
        lr: Highest learning rate of AdamW.
        vae: The autoencoder whose latents it learns: tiny, or any name that `guidance latents` takes.
        clip: The model whose text tower it listens to.
        start: A pipeline whose U-Net it starts from, instead of from nothing.
        seed: Another number gives another model.
        precision: Of the arithmetic: float32, or bfloat16, in which a step took 0.6 seconds instead of 1.1.
        output: The folder of the pipeline, its checkpoint and its metrics.
    """
    settings = {name: value for name, value in locals().items() if name not in ("output", "device")}
    where = g.device(device)
    clock = g.Clock(steps, seed)
    if not channels or any(width < HEAD or width % HEAD for width in channels):
        raise g.InputError(f"channels must be multiples of {HEAD}, got {channels}")
    autoencoder = read_model(vae)
    space = Vae(autoencoder, vae)
    unit = space.factor * 2 ** (len(channels) - 1)
    if space.quantised or image_size < unit or image_size % unit:
        raise g.InputError(
            f"it takes an AutoencoderKL, and an image_size that {unit} divides, got {image_size}"
        )
    guide = g.load(clip)
    encoder, tokenizer = text_encoder(guide)
    # A little larger than what the model sees, since views enlarge as well.
    pictures = read_captioned(data, image_size * 5 // 4)
    training.check_batch(batch, int((~pictures.held_out).sum()))
    inner = len(channels) - 1
    with torch.random.fork_rng(devices=[]):  # diffusers initialises from the global generator
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=image_size // space.factor,
            in_channels=space.channels,
            out_channels=space.channels,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * inner,
            up_block_types=["CrossAttnUpBlock2D"] * inner + ["UpBlock2D"],
            cross_attention_dim=encoder.config.hidden_size,
            attention_head_dim=[width // HEAD for width in channels],  # diffusers means how many heads
            norm_num_groups=GROUPS,
            # The whole text reaches every block along with the time, not only what attention picks from it.
            addition_embed_type="text",
            addition_embed_type_num_heads=encoder.config.num_attention_heads,
        )
    torch.nn.init.zeros_(unet.add_embedding.norm2.weight)  # it adds nothing before it has learned
    if start is not None:
        inherit(unet, load_pipeline(start).unet, start)
    scheduler = DDIMScheduler(
        beta_schedule="linear",
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    trainee = DiffusionTrainee(unet.train()).to(where)
    optimizer = torch.optim.AdamW(trainee.unet.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    training.open_folder(output, settings)
    taught = train_diffusion(
        trainee,
        prepare(pictures, space, guide._tokenizer, image_size, clock),
        encoder.to(where),
        scheduler,
        clock,
        optimizer,
        batch=batch,
        lr=lr,
        precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )

    def save() -> None:
        save_pipeline(output, trainee.mean_unet, autoencoder, encoder, tokenizer, scheduler)

    training.record(taught, output, trainee, optimizer, clock, save)
    return output
