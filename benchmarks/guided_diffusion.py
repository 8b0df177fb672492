"""What does CLIP guidance cost a step of sampling, and what against diffusers' community pipeline?

    python benchmarks/guided_diffusion.py [--model tiny] [--crops 4] [--rounds 5] [--threads 2]

On one pipeline, with one CLIP and as many crops: a plain step with classifier-free guidance, ours guided (the
gradient through the network, or to the predicted picture only), and the algorithm of diffusers' community
pipeline clip_guided_stable_diffusion, written again from its source: PNDM's branch, cutouts. Schedulers do
not take part: their own step is the same. All take turns in one process; the fastest round counts. Then, what
the peer's gradient is of: how alike it is to that of the picture that is sampled, and what more members do to
it. The peer knows epsilon only; what a network predicts is told to it as epsilon.
"""

import argparse
import time
from collections.abc import Callable

import guidance as g  # before PyTorch, whose threads it has spin less

# isort: split
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from guidance.diffusion.conditioning import Condition
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.guided import guide
from guidance.diffusion.pipeline import Pipeline, load_pipeline

PROMPT, NEGATIVE, SCALE, CFG, TIME = "a red heart", "blue", 100.0, 4.0, 600


class Community:
    """A guided prediction as the community pipeline makes it, with its names."""

    def __init__(self, pipeline: Pipeline, clip: g.Clip) -> None:
        self.pipeline = pipeline
        self.clip = clip
        self.cut_size = clip.image_size
        self.text_embeddings_clip = clip.encode_text([PROMPT])
        self.alpha = 1 / (1 + pipeline.trained.sigmas[TIME].item() ** 2)
        self.embeddings = [pipeline.text.encode(words) for words in ("", PROMPT)]  # there is no negative

    def unet(self, latents: Tensor, embeddings: Tensor) -> Tensor:
        """The network's prediction as epsilon, whatever its kind."""
        noisy, sigma = latents / self.alpha**0.5, ((1 - self.alpha) / self.alpha) ** 0.5
        x0 = denoiser(self.pipeline, Condition(embeddings), self.embeddings[0], 1.0)(noisy, sigma)
        return (noisy - x0) / sigma

    def cutouts(self, images: Tensor, num_cutouts: int) -> Tensor:
        side = min(images.shape[2:])
        cutouts = []
        for _ in range(num_cutouts):
            size = int(torch.rand([]) * (side - min(side, self.cut_size)) + min(side, self.cut_size))
            x, y = (torch.randint(0, s - size + 1, ()) for s in reversed(images.shape[2:]))
            cutouts.append(F.adaptive_avg_pool2d(images[:, :, y : y + size, x : x + size], self.cut_size))
        return torch.cat(cutouts)

    def step(self, latents: Tensor, num_cutouts: int) -> Tensor:
        b = len(latents)
        with torch.no_grad():
            rows = torch.cat([c.hidden.expand(b, -1, -1) for c in self.embeddings])
            without, said = self.unet(torch.cat([latents] * 2), rows).chunk(2)
        noise_pred = without + CFG * (said - without)
        return noise_pred - (1 - self.alpha) ** 0.5 * self.grads(latents, num_cutouts)

    def grads(self, latents: Tensor, num_cutouts: int) -> Tensor:
        """The gradient of `cond_fn`; 0 cutouts are the whole picture."""
        latents = latents.detach().requires_grad_()
        noise_pred = self.unet(latents, self.embeddings[0].hidden)
        beta = 1 - self.alpha
        sample = (latents - beta**0.5 * noise_pred) / self.alpha**0.5
        sample = sample * beta**0.5 + latents * (1 - beta**0.5)
        image = self.pipeline.vae.decode(sample)
        image = self.cutouts(image, num_cutouts) if num_cutouts else TF.resize(image, self.cut_size)
        apart = (self.clip.encode_image(image) - self.text_embeddings_clip).norm(dim=-1)
        dists = apart.div(2).arcsin().pow(2).mul(2)
        if num_cutouts:
            loss = dists.view([num_cutouts, len(latents), -1]).sum(2).mean(0).sum() * SCALE
        else:
            loss = dists.mean() * SCALE
        return -torch.autograd.grad(loss, latents)[0]


def fastest(what: Callable[[], object], rounds: int) -> float:
    """Milliseconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        what()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    pipeline, clip, clock = load_pipeline(options.model), g.load("tiny"), g.Clock()
    community = Community(pipeline, clip)
    alpha = community.alpha
    sigma = ((1 - alpha) / alpha) ** 0.5
    noisy = pipeline.noise(clock, 4, (pipeline.size, pipeline.size)) * (1 + sigma**2) ** 0.5
    wanted, without, unwanted = (pipeline.text.encode(words) for words in (PROMPT, "", NEGATIVE))
    loss = g.ClipLoss(clip, g.parse(PROMPT), g.Crops.calm(clock, options.crops))

    def guided(through_network: bool, negative: Condition = without, views: g.Crops | None = None):
        plain = denoiser(pipeline, wanted, negative, CFG)
        seen = {"clip": g.ClipLoss(clip, g.parse(PROMPT), views, g.great_circle) if views else loss}
        return guide(plain, seen, pipeline.vae.decode, clock, clamp=1e9, through_network=through_network)

    plain = denoiser(pipeline, wanted, without, CFG)
    one = noisy[:1]

    @torch.no_grad()
    def unguided() -> Tensor:
        return plain(one, sigma)

    steps: dict[str, Callable[[], object]] = {
        "not guided": unguided,
        "ours, through the network": lambda: guided(True)(one, sigma),
        "ours, to the picture only": lambda: guided(False)(one, sigma),
        "the community pipeline": lambda: community.step(one * alpha**0.5, options.crops),
    }
    times = {name: float("inf") for name in steps}
    for _ in range(options.rounds):
        times = {name: min(times[name], fastest(step, 1)) for name, step in steps.items()}
    for name, milliseconds in times.items():
        ratio = milliseconds / times["the community pipeline"]
        print(f"{name:28} {milliseconds:8.1f} ms  {ratio:5.2f} of the community pipeline's")

    print("\ncosine of the gradient and that of what is sampled, whole pictures; 1 is right")
    whole = g.Crops(clock)
    for title, negative in (("no negative prompt", without), (f"negative prompt {NEGATIVE!r}", unwanted)):
        truth = guided(True, negative, whole)(noisy, sigma) - denoiser(pipeline, wanted, negative, CFG)(
            noisy, sigma
        )
        peer = torch.cat([community.grads(x * alpha**0.5, 0) for x in noisy.split(1)])
        cheap = guided(False, negative, whole)(noisy, sigma) - denoiser(pipeline, wanted, negative, CFG)(
            noisy, sigma
        )
        for name, found in (("community", peer), ("ours, to the picture only", cheap)):
            alike = F.cosine_similarity(found.flatten(1), truth.flatten(1)).mean()
            print(f"{title:24} {name:28} {alike:5.2f}")

    print("\nlength of the first member's gradient, among 4 over alone; 1 is right")
    ours = [(guided(True)(x, sigma) - plain(x, sigma))[0].norm() for x in (noisy, one)]
    print(f"ours                        {ours[0] / ours[1]:5.2f}")
    peers = [community.grads(x * alpha**0.5, 0)[0].norm() for x in (noisy, one)]
    print(f"community, whole pictures   {peers[0] / peers[1]:5.2f}")


if __name__ == "__main__":
    main()
