"""Guided sampling: a denoiser that any losses steer, by their gradient through its own prediction."""

from collections.abc import Callable, Mapping
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from guidance.clock import Clock, Schedule, at
from guidance.diffusion.denoiser import Denoiser, check_scale
from guidance.errors import InputError
from guidance.optimization import Loss


def guide(
    denoise: Denoiser,
    losses: Mapping[str, Loss | tuple[Schedule, Loss]],
    decode: Callable[[Float[Tensor, "b c gh gw"]], Float[Tensor, "b 3 h w"]],
    clock: Clock,
    scale: Schedule = 1.0,
    *,
    every: int = 1,
    window: tuple[float, float] = (0.0, 1.0),
    clamp: float = 0.3,
    limit: float = inf,
    through_network: bool = True,
    checkpointed: bool = False,
    record: dict[str, Float[Tensor, " b"]] | None = None,
) -> Denoiser:
    """A denoiser that goes where the decoded picture of its x0 loses less (Dhariwal and Nichol 2021).

    To guide is to sample from p(x0) exp(-s L(x0)), s = `scale` · gh · gw, instead of p. The score of x = x0 +
    sigma * noise is (x0 - x) / sigma² and gets -s ∇ₓL(decode(x0(x))) added; so x0 moves by -s sigma² ∇ₓL,
    whatever the scheduler and the kind of prediction. With the number of latents in s, a place moves as far
    in a large picture as in a small one; with losses that are means, of one number an image, as far with many
    crops or members as with one. The gradient is that of `denoise` as it is, with its prompt and negative
    prompt. Other tools: diffusers' community pipeline has s = 100, with the embeddings of no prompt in its
    gradient; Disco Diffusion has s = 5000.

    `losses` are weighted and scheduled as in `optimize`; the progress is that of `clock`, which `sample`
    moves and which the losses should share. Only every `every`-th step in `window` (shares of the run, from
    and before) asks for a gradient. The others are skipped, and those taken are `every` times as long: a
    gradient used again would have to be remembered by a run that is resumed. `clamp`: how far a gradient may
    move x0 at most, root mean square, in the standard deviations √(sigma² / (1 + sigma²)) of x0 given x for
    independent latents of unit variance; for each member by itself. (Disco Diffusion's 0.05 is times sigma,
    which lets x0 go anywhere while there is much noise.) `limit`: more noise is taken for this, as `denoiser`
    does with the most that its network knows.

    Without `through_network` the gradient is not taken through the denoiser, for less time and memory. By
    Tweedie's second formula, sigma² ∂x0/∂x is the covariance of x0 given x; in its place stands that of
    independent latents of unit variance, as in Song et al. (ΠGDM, 2023). `checkpointed` computes denoiser and
    decoder a second time, and only one of them is in memory. `record`: where each call puts the losses of its
    x0, before their weights, in place of those of the call before; none where it does not guide.

    Losses and gradients are float32; what goes back through a network in half precision has unit size. Raises
    InputError for no losses and for numbers out of range, and FloatingPointError for a gradient that is not
    finite.
    """
    if not losses:
        raise InputError("guide needs at least one loss, got none; give one, or take the denoiser as it is")
    check_scale(scale)
    if every < 1:
        raise InputError(f"every must be at least 1, got {every}")
    if not 0 <= window[0] < window[1] <= 1:
        raise InputError(f"window must be two shares in [0, 1], the smaller first, got {window}")
    if not clamp > 0 or not limit > 0:
        raise InputError(f"clamp and limit must be above 0, got {clamp} and {limit}")
    weighted = {name: loss if isinstance(loss, tuple) else (1.0, loss) for name, loss in losses.items()}

    def slope(x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gradient of the losses' sum to x0."""
        x0 = x0.detach().requires_grad_()
        image = checkpoint(decode, x0, use_reentrant=False) if checkpointed else decode(x0)
        found = {name: loss(image) for name, (_, loss) in weighted.items()}
        if record is not None:
            record.update({name: loss.detach() for name, loss in found.items()})
        terms = [at(weighted[name][0], clock.progress) * loss.sum() for name, loss in found.items()]
        return torch.autograd.grad(torch.stack(terms).sum(), x0)[0]

    def guided(x: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        if record is not None:
            record.clear()
        strength = at(scale, clock.progress)
        if strength == 0 or not is_guided(clock, every, window):
            with torch.no_grad():
                return denoise(x, sigma)
        given = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        sigma = given.clamp(max=limit)
        x = x * (sigma / given)[:, None, None, None]
        spread = sigma[:, None, None, None]
        variance = spread**2 / (1 + spread**2)
        with torch.enable_grad():
            if through_network:
                x = x.detach().requires_grad_()
                x0 = checkpoint(denoise, x, sigma, use_reentrant=False) if checkpointed else denoise(x, sigma)
                pull = slope(x0)
                # Of unit size: half precision rounds the gradients of a mean over many pixels to zero.
                size = _rms(pull).clamp(min=1e-30)
                pull = spread**2 * size * torch.autograd.grad(x0, x, pull / size)[0]
            else:
                with torch.no_grad():
                    x0 = denoise(x, sigma)
                pull = variance * slope(x0)
        pull = strength * x.shape[-2] * x.shape[-1] * pull
        if not pull.isfinite().all():
            raise FloatingPointError(
                f"the gradient is not finite at step {clock.index} of {clock.steps}; "
                "float32 precision may help"
            )
        most = clamp * variance.sqrt()
        return (x0 - every * pull * (most / _rms(pull).clamp(min=1e-30)).clamp(max=1)).detach()

    return guided


def is_guided(clock: Clock, every: int, window: tuple[float, float]) -> bool:
    """Whether `guide` asks for a gradient at the present step."""
    return clock.index % every == 0 and window[0] <= clock.progress < window[1]


def _rms(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 1 1"]:
    """The root mean square of each member."""
    return latents.square().mean((1, 2, 3), keepdim=True).sqrt()
