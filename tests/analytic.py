"""A pipeline whose network is the best there is for Gaussian latents: what it makes is known exactly."""

from functools import cache
from types import SimpleNamespace

import diffusers
import torch

import guidance as g
from guidance.diffusion.from_clip import text_encoder
from guidance.diffusion.noise import Trained
from guidance.diffusion.pipeline import Pipeline
from guidance.diffusion.text_encoders import TextEncoders

MEAN, STD = 0.3, 0.5


def denoise(x: torch.Tensor, sigma: float | torch.Tensor, mean: float | torch.Tensor = MEAN) -> torch.Tensor:
    """E[x0 | x] for x0 ~ N(mean, STD²) and x = x0 + sigma * noise."""
    variance = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))[:, None, None, None] ** 2
    return (STD**2 * x + variance * mean) / (STD**2 + variance)


class Network:
    """The same as `denoise`, as a U-Net that says what its kind of prediction says; it sees no prompt."""

    def __init__(self, trained: Trained, dtype: torch.dtype = torch.float32) -> None:
        self.trained, self.dtype = trained, dtype
        self.config = SimpleNamespace(
            addition_embed_type=None, cross_attention_dim=128, block_out_channels=(8, 8), sample_size=8
        )

    def __call__(self, seen, times, encoder_hidden_states, added_cond_kwargs, return_dict):
        if self.trained.kind == "flow_prediction":
            s = (times / self.trained.times)[:, None, None, None]
            signal, spread = 1 - s, s
        else:
            below, sigmas = times.long().clamp(max=self.trained.times - 2), self.trained.sigmas.float()
            sigma = torch.lerp(sigmas[below], sigmas[below + 1], times - below)[:, None, None, None]
            signal, spread = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        x0 = MEAN + signal * STD**2 / (signal**2 * STD**2 + spread**2) * (seen - signal * MEAN)
        noise = (seen - signal * x0) / spread
        said = {
            "epsilon": noise,
            "v_prediction": signal * noise - spread * x0,
            "sample": x0,
            "flow_prediction": noise - x0,
        }[self.trained.kind]
        return (said.to(self.dtype),)


@cache
def text() -> TextEncoders:
    encoder, tokenizer = text_encoder(g.load("tiny"))
    return TextEncoders([encoder], [tokenizer])


vae = cache(g.load_vae)


def pipeline(kind: str = "epsilon", dtype: torch.dtype = torch.float32) -> Pipeline:
    """Latents of 8 × 8 with 4 channels, decoded by the embedded autoencoder."""
    if kind == "flow_prediction":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = diffusers.DDIMScheduler(
            prediction_type=kind, clip_sample=False, timestep_spacing="trailing"
        )
    trained = Trained.of(scheduler)
    return Pipeline(
        "analytic",
        text(),
        vae("tiny"),
        Network(trained, dtype),
        scheduler,
        trained,
        torch.device("cpu"),
    )
