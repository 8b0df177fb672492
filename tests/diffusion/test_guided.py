"""Guided sampling against Gaussian data, whose guided posterior is known in closed form."""

from dataclasses import replace

import analytic
import pytest
import torch
from analytic import MEAN, STD, denoise

import guidance as g
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.guided import guide
from guidance.diffusion.sampling import evaluations, sample

SCHEDULERS = ["ddim", "pndm", "lms", "euler", "euler-ancestral", "dpm++", "unipc"]
SIDE = 4
#: What is asked of each latent, in standard deviations of no guidance.
PUSH = torch.linspace(-1, 1, 3 * SIDE * SIDE).view(1, 3, SIDE, SIDE)


def linear(image: torch.Tensor) -> torch.Tensor:
    """p(x0) exp(-L SIDE²) is Gaussian again: its mean has moved by STD² PUSH."""
    return -(PUSH * image).sum((1, 2, 3)) / SIDE**2


def same(latents: torch.Tensor) -> torch.Tensor:
    return latents


def guided(losses: dict | None = None, clock: g.Clock | None = None, **options):
    return guide(denoise, losses or {"push": linear}, same, clock or g.Clock(), **{"clamp": 1e9} | options)


def latents(b: int, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    return g.Clock(seed=seed).normal("x", b, (3, side, side))


@pytest.mark.parametrize("sigma", [0.05, 0.7, 14.0])
def test_a_linear_loss_gives_the_mean_of_the_tilted_data(sigma: float) -> None:
    x = (STD**2 + sigma**2) ** 0.5 * latents(2)
    mean = MEAN + STD**2 * PUSH
    expected = (STD**2 * x + sigma**2 * mean) / (STD**2 + sigma**2)
    assert torch.allclose(guided()(x, sigma), expected, atol=1e-5)
    sigmas = torch.tensor([sigma, 2 * sigma])
    assert torch.allclose(guided()(x, sigmas)[:1], expected[:1], atol=1e-5)


def test_a_quadratic_loss_moves_x0_as_its_formula_says() -> None:
    target, sigma = latents(1, seed=7), 0.8
    x = latents(2)

    def near(image: torch.Tensor) -> torch.Tensor:
        return (image - target).square().sum((1, 2, 3)) / SIDE**2

    # Var[x0 | x] times the gradient: sigma² ∂x0/∂x is the posterior's variance (Tweedie's second formula).
    posterior = STD**2 * sigma**2 / (STD**2 + sigma**2)
    expected = denoise(x, sigma) - 0.3 * posterior * 2 * (denoise(x, sigma) - target)
    assert torch.allclose(guided({"near": near}, scale=0.3)(x, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "flow-matching"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_every_scheduler_samples_the_tilted_data(scheduler: str, kind: str) -> None:
    if kind == "flow_prediction" and scheduler != "flow-matching":
        pytest.skip("the other schedulers know no flows")
    pipeline = analytic.pipeline(kind)
    if kind != "flow_prediction":
        pipeline = pipeline.with_scheduler(scheduler)
    push = torch.linspace(-1, 1, 4)[:, None, None]

    def pushed(image: torch.Tensor) -> torch.Tensor:
        return -(push * image).sum((1, 2, 3)) / 64

    plain = denoiser(pipeline, pipeline.text.encode(""), scale=1.0)
    clocks = g.Clock(seed=3), g.Clock(seed=3)
    most = pipeline.trained.limit(torch.tensor([1e9], dtype=torch.float64)).item()
    towards = guide(plain, {"push": pushed}, same, clocks[0], clamp=1e9, limit=most)

    def exact(x: torch.Tensor, sigma: float) -> torch.Tensor:
        noise = min(sigma, most)
        return denoise(x * noise / sigma, noise, MEAN + STD**2 * push)

    found, expected = (
        list(sample(way, pipeline.scheduler, pipeline.noise(clock, 2, (32, 32)), clock, steps=6))[-1].latents
        for way, clock in zip((towards, exact), clocks, strict=True)
    )
    assert torch.allclose(found, expected, atol=2e-2)
    assert ((found.mean((0, 2, 3)) - MEAN).abs() > 0.05)[[0, 3]].all()


@pytest.mark.parametrize("through_network", [True, False])
def test_strength_is_the_same_for_members_sizes_and_copies_of_a_view(through_network: bool) -> None:
    x = latents(3)
    to = {"scale": 2.0, "through_network": through_network}
    together = guided(**to)(x, 0.8)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], guided(**to)(x[i : i + 1], 0.8), atol=1e-6)

    def bright(image: torch.Tensor) -> torch.Tensor:
        return image.square().mean((1, 2, 3))

    large = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    small_step, large_step = (guided({"bright": bright}, **to)(y, 0.8) - denoise(y, 0.8) for y in (x, large))
    assert small_step.std() > 0.02
    assert torch.allclose(large_step[:, :, ::4, ::4], small_step, atol=1e-5)


def test_its_strength_does_not_depend_on_the_number_of_crops() -> None:
    clip, vae = g.load("tiny"), analytic.vae("tiny")
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = []
    for k in (1, 4):
        moved = []
        for seed in range(2):
            clock = g.Clock(seed=seed)
            loss = g.ClipLoss(clip, g.parse("a red heart"), g.Crops.calm(clock, k))
            moved.append(
                guide(denoise, {"clip": loss}, vae.decode, clock, clamp=1e9)(x, 1.0) - denoise(x, 1.0)
            )
        sizes.append(torch.cat(moved).mean(0).norm())
    # With a sum over the crops it would be four times as much; a mean of noisy gradients is a little longer.
    assert 0.5 < sizes[1] / sizes[0] < 1.5


def test_without_the_network_it_is_the_same_for_data_of_unit_variance() -> None:
    def unit(x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        variance = torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2
        return (x + variance * MEAN) / (1 + variance)

    x, clock = latents(2), g.Clock()
    through, around = (
        guide(unit, {"push": linear}, same, clock, clamp=1e9, through_network=way)(x, 0.9)
        for way in (True, False)
    )
    assert (through - unit(x, 0.9)).std() > 0.1
    assert torch.allclose(through, around, atol=1e-6)


def test_checkpointing_changes_nothing() -> None:
    vae = analytic.vae("tiny")
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def dark(image: torch.Tensor) -> torch.Tensor:
        return image.mean((1, 2, 3))

    plain, checkpointed = (
        guide(denoise, {"dark": dark}, vae.decode, g.Clock(), checkpointed=way)(x, 1.0)
        for way in (False, True)
    )
    assert not torch.equal(plain, denoise(x, 1.0))
    assert torch.equal(plain, checkpointed)


def test_it_guides_in_its_window_every_so_often_and_then_as_much_longer() -> None:
    x = latents(1)
    moves = []
    for index in range(10):
        clock = g.Clock(10, index=index)
        options = {"every": 3, "window": (0.2, 0.8)}
        moves.append((guided(clock=clock, **options)(x, 0.8) - denoise(x, 0.8)).norm().item())
    once = (guided()(x, 0.8) - denoise(x, 0.8)).norm().item()
    expected = [3 * once if index in (3, 6) else 0 for index in range(10)]
    assert moves == pytest.approx(expected, rel=1e-5)


def test_weights_and_scale_are_schedules_of_the_clock() -> None:
    x, clock = latents(1), g.Clock(4, index=2)
    losses = {"push": (g.linear(0, 2), linear), "nothing": (0.0, linear)}
    moved = guided(losses, clock, scale=g.linear(3, 1))(x, 0.8) - denoise(x, 0.8)
    assert torch.allclose(moved, 2 * (guided()(x, 0.8) - denoise(x, 0.8)), atol=1e-6)
    assert torch.equal(guided(scale=0)(x, 0.8), denoise(x, 0.8))


def test_losses_are_recorded_where_it_guides_without_asking_twice() -> None:
    asked, x, clock, record = [], latents(2), g.Clock(4), {}

    def counted(x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        asked.append(sigma)
        return denoise(x, sigma)

    losses = {"push": (g.linear(5, 6), linear), "nothing": (0.0, linear)}
    towards = guide(counted, losses, same, clock, window=(0.0, 0.5), record=record)
    towards(x, 0.8)
    assert torch.allclose(record["push"], linear(denoise(x, 0.8)))
    assert torch.equal(record["push"], record["nothing"])
    assert not record["push"].requires_grad
    clock.index = 3
    towards(x, 0.5)
    assert record == {}
    assert len(asked) == 2


@pytest.mark.parametrize("sigma", [0.1, 2.0, 100.0])
def test_the_clamp_is_of_each_member_by_itself(sigma: float) -> None:
    x = latents(2)

    def of_one(image: torch.Tensor) -> torch.Tensor:
        return linear(image) * torch.tensor([1000.0, 1e-3])

    moved = guided({"push": of_one}, clamp=0.05)(x, sigma) - denoise(x, sigma)
    rms = moved.square().mean((1, 2, 3)).sqrt()
    assert rms[0].item() == pytest.approx(0.05 * sigma / (1 + sigma**2) ** 0.5, rel=1e-3)
    free = guided({"push": of_one})(x, sigma) - denoise(x, sigma)
    assert torch.equal(moved[1], free[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_gradient(dtype: torch.dtype) -> None:
    net = torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)
    with torch.no_grad():
        net.weight.copy_(0.1 * torch.randn(net.weight.shape, generator=torch.Generator().manual_seed(0)))
    half = torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)
    half.load_state_dict(net.state_dict())
    half.to(dtype)

    def tiny(image: torch.Tensor) -> torch.Tensor:
        return 1e-9 * linear(image)  # what float16 rounds to zero

    x = latents(2)
    moves = []
    for network in (net, half):

        def predict(x: torch.Tensor, sigma: float, network: torch.nn.Module = network) -> torch.Tensor:
            return network(x.to(network.weight.dtype)).float()

        moves.append(guide(predict, {"t": tiny}, same, g.Clock(), 1e9, clamp=1e9)(x, 1.0) - predict(x, 1.0))
    full, rough = moves
    assert rough.dtype == torch.float32
    assert torch.allclose(full, rough, atol=0.02 * full.abs().max().item())


def test_a_gradient_that_is_no_number_stops() -> None:
    def broken(image: torch.Tensor) -> torch.Tensor:
        return (0 * image.sum((1, 2, 3))).sqrt()

    with pytest.raises(FloatingPointError, match="not finite at step 2 of 5"):
        guided({"broken": broken}, g.Clock(5, index=2))(latents(1), 1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": float("inf")},
        {"every": 0},
        {"window": (0.5, 0.5)},
        {"window": (0, 2)},
        {"clamp": 0.0},
        {"limit": 0.0},
    ],
)
def test_options_out_of_range_are_told(wrong: dict) -> None:
    with pytest.raises(g.InputError, match=next(iter(wrong))):
        guided(**wrong)


def test_no_losses_are_told() -> None:
    with pytest.raises(g.InputError, match="at least one loss, got none"):
        guide(denoise, {}, same, g.Clock())


def test_the_gradient_knows_the_prompt_and_the_negative() -> None:
    """The peer's gradient is that of the network without any prompt."""
    pipeline = analytic.pipeline()
    network = pipeline.unet

    class Steered:
        config, dtype = network.config, network.dtype

        def __call__(self, seen, times, encoder_hidden_states, added_cond_kwargs, return_dict):
            self.told = encoder_hidden_states
            # Each prompt scales what the network sees by its own number.
            return ((encoder_hidden_states.mean((1, 2)) * 10)[:, None, None, None] * seen,)

    pipeline = replace(pipeline, unet=Steered())
    wanted, unwanted = (pipeline.text.encode(words) for words in ("a red heart", "blue"))
    a, b = (10 * c.hidden.mean().item() for c in (wanted, unwanted))
    x, sigma = pipeline.noise(g.Clock(), 2, (32, 32)), 2.0

    def pushed(image: torch.Tensor) -> torch.Tensor:
        return image.sum((1, 2, 3)) / 64

    plain = denoiser(pipeline, wanted, unwanted, 3.0)
    moved = guide(plain, {"push": pushed}, same, g.Clock(), 0.1, clamp=1e9)(x, sigma) - plain(x, sigma)
    slope = 1 - sigma * (b + 3 * (a - b)) / (1 + sigma**2) ** 0.5
    assert torch.allclose(moved, torch.full_like(moved, -0.1 * sigma**2 * slope), rtol=1e-3)


def test_image_to_image_and_masks_go_on_as_without() -> None:
    pipeline, clock = analytic.pipeline().with_scheduler("dpm++"), g.Clock()
    assert evaluations(pipeline.scheduler, 10, 0.5) == 5
    noise = pipeline.noise(clock, 2, (32, 32))
    start = torch.full((1, 4, 8, 8), MEAN)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1

    def pushed(image: torch.Tensor) -> torch.Tensor:
        return -2 * image.sum((1, 2, 3)) / 64

    plain = denoiser(pipeline, pipeline.text.encode(""), scale=1.0)
    towards = guide(plain, {"push": pushed}, same, clock, clamp=1e9)
    inside = {"steps": 10, "start": start, "strength": 0.5, "mask": mask}
    *_, last = sample(towards, pipeline.scheduler, noise, clock, **inside)
    assert torch.allclose(last.latents[..., 4:], start[..., 4:].expand(2, -1, -1, -1), atol=1e-5)
    assert (last.latents[..., :4].mean((1, 2, 3)) > MEAN + 0.25).all()
