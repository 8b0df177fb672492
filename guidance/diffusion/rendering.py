"""From a condition to a picture, always the same one, with gradients and little memory."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from guidance.clock import Clock, Schedule
from guidance.diffusion.conditioning import Condition
from guidance.diffusion.denoiser import check_scale, denoiser
from guidance.diffusion.pipeline import Pipeline
from guidance.diffusion.sampling import evaluations, sample

Renderer = Callable[[Condition], Float[Tensor, "b 3 h w"]]


def renderer(
    pipeline: Pipeline,
    noise: Float[Tensor, "b c h w"],
    negative: Condition,
    *,
    steps: int,
    scale: Schedule = 4.0,
    seed: int = 0,
    checkpointed: bool = True,
) -> Renderer:
    """A function from a condition to the pictures that `steps` steps make of it, always of the same noise.

    The steps are those of the pipeline's scheduler; noise that it adds is that of `seed`, each time again.
    `scale` is that of classifier-free guidance from `negative`. `checkpointed`: only the latents between the
    steps are kept, and in the backward pass each step, and at last the decoder, computes a second time (Chen
    et al. 2016), so that a picture of many steps takes as much memory as one of one step. Raises InputError
    as `sample` and `denoiser` do, at once.
    """
    evaluations(pipeline.scheduler, steps)
    check_scale(scale)

    def bounded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if not checkpointed:
            return function
        # Nothing in it is random, so there is no generator's state to keep.
        return lambda *given: checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)

    def generate(condition: Condition) -> Float[Tensor, "b 3 h w"]:
        denoise = bounded(denoiser(pipeline, condition, negative, scale))
        latents = noise
        for step in sample(denoise, pipeline.scheduler, noise, Clock(seed=seed), steps=steps):
            latents = step.latents
        return bounded(pipeline.vae.decode)(latents)

    return generate
