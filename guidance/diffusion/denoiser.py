"""A pipeline's network as a function from noisy latents to clean ones, its conditioning closed over."""

from collections.abc import Callable
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clock import Schedule, at
from guidance.diffusion.conditioning import Condition, stack
from guidance.diffusion.noise import clean
from guidance.diffusion.pipeline import Pipeline
from guidance.errors import InputError

#: From x = x0 + sigma * noise and sigma, one number or one for each member, to an estimate of x0.
Denoiser = Callable[[Float[Tensor, "b c h w"], float | Float[Tensor, " b"]], Float[Tensor, "b c h w"]]


def denoiser(
    pipeline: Pipeline,
    condition: Condition | Callable[[float], Condition],
    negative: Condition | None = None,
    scale: Schedule = 7.5,
) -> Denoiser:
    """A denoiser for a condition, one for all members or one for each, with classifier-free guidance.

    It goes from what `negative` (that of no prompt if None) predicts to what `condition` predicts, times
    `scale` (Ho and Salimans 2022); where `scale` is 1, only `condition` is asked. `scale` and `condition` may
    be functions of progress, which is 0 at the most noise that the network was trained with and 1 at none.
    Gradients flow to the conditions and the latents. More noise than was trained with is taken for the most.

    Raises InputError for a scale that is not finite; the denoiser does for conditions of another width than
    the network takes, and of another number than the latents.
    """
    check_scale(scale)
    trained = pipeline.trained
    negative = pipeline.text.encode_negative("") if negative is None else negative

    def denoise(x: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        b = len(x)
        given = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(b)
        noise = trained.limit(given)
        times = trained.time(noise)
        progress = (1 - times / (trained.times - 1)).clamp(0, 1).tolist()
        spread = noise.float()[:, None, None, None]
        x = x * (noise / given).float()[:, None, None, None]
        seen = x / (1 + spread) if trained.kind == "flow_prediction" else x / (1 + spread**2).sqrt()

        wanted = condition(progress[0]) if callable(condition) else condition
        _check(pipeline, wanted)
        scales = torch.tensor([at(scale, p) for p in progress], device=x.device)[:, None, None, None]
        if (scales == 1).all():
            said = _ask(pipeline, seen, times, _for_each(wanted, b))
        else:
            unwanted, wanted = pipeline.text.match(negative, wanted)
            both = stack([_for_each(c, b) for c in (unwanted, wanted)])
            without, said = _ask(pipeline, seen.repeat(2, 1, 1, 1), times.repeat(2), both).chunk(2)
            said = without + scales * (said - without)
        return clean(trained.kind, said, x, spread)

    return denoise


def check_scale(scale: Schedule) -> None:
    """Raises InputError for a scale that is a number and not finite."""
    if not callable(scale) and not isfinite(scale):
        raise InputError(f"scale must be a finite number, got {scale}")


def _ask(
    pipeline: Pipeline, seen: Float[Tensor, "n c h w"], times: Float[Tensor, " n"], condition: Condition
) -> Float[Tensor, "n c h w"]:
    network, kind = pipeline.unet, pipeline.unet.dtype
    more = None
    if network.config.addition_embed_type == "text_time":  # SDXL: sizes before and after cropping
        if condition.pooled is None:
            raise InputError(
                "this network takes pooled embeddings, and the condition has none; encode it anew"
            )
        height, width = (side * pipeline.vae.factor for side in seen.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=kind, device=seen.device)
        more = {"text_embeds": condition.pooled.to(seen.device, kind), "time_ids": sizes.repeat(len(seen), 1)}
    said = network(
        seen.to(kind),
        times.float(),
        encoder_hidden_states=condition.hidden.to(seen.device, kind),
        added_cond_kwargs=more,
        return_dict=False,
    )[0]
    return said.float()


def _for_each(condition: Condition, b: int) -> Condition:
    """One condition for each of b latents."""
    n = len(condition.hidden)
    if n not in (1, b):
        raise InputError(f"there must be one prompt, or one for each of the {b} pictures, got {n}")
    if n == b:
        return condition
    pooled = None if condition.pooled is None else condition.pooled.expand(b, -1)
    return Condition(condition.hidden.expand(b, -1, -1), pooled)


def _check(pipeline: Pipeline, condition: Condition) -> None:
    width = pipeline.unet.config.cross_attention_dim
    if condition.hidden.shape[-1] != width:
        raise InputError(
            f"{pipeline.name!r} takes {width} numbers a token, got {condition.hidden.shape[-1]}; "
            "encode the prompt with its own text encoders"
        )
