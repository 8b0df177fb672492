"""Does conditioning do what it says? The embedded pipeline, judged by a CLIP that does not guide.

    python benchmarks/conditioning.py --judge local-dir:outputs/train_judge --data DATA

For the first `count` of the 100 names of `guidance evaluate`, with the same noise in every way of asking:

- weight: the judge's cosine with the name when it weighs from 0.5 to 1.5 ("(name:0.5) and other" …), in the
  two ways of weighing that tools have, a1111's and ComfyUI's, and how much it changes from each to the next;
- negative: how much less of another name there is in "name and other" when the other is unwanted;
- guided: how much more of the name CLIP's guidance (tiny) gives at equal steps;
- tuned: how much more an optimised embedding gives, for `tuned` of the names;
- inverted: how much more like the picture in DATA (captions.csv) that a word was learned from is what the
  word brings back than what it began as ("thing"), both as the judge sees them; and for how many of the
  `inverted` names that picture is the most alike of all names'.

Differences are paired, means with 95 % intervals over names as clusters.
"""

import argparse
import csv
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import guidance as g  # before PyTorch, whose threads it has spin less

# isort: split
import torch
from torch import Tensor

from guidance.canvas.conditioning import Conditioning
from guidance.diffusion.conditioning import Condition, stack
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.dialects import Dialect
from guidance.diffusion.guided import guide
from guidance.diffusion.pipeline import Pipeline, load_pipeline
from guidance.diffusion.rendering import renderer
from guidance.diffusion.sampling import sample
from guidance.evaluation import read_tasks
from guidance.intervals import mean, share
from guidance.media import read_image
from recipes.invert import main as invert

STEPS, SCALE = 20, 4.0
WEIGHTS = (0.5, 0.75, 1.0, 1.25, 1.5)


def draw(
    pipeline: Pipeline, noise: Tensor, condition: Condition, without: Condition, towards: Tensor | None = None
) -> Tensor:
    """Pictures of conditions, one for each noise; guided to tiny's embeddings of texts, if they are given."""
    clock = g.Clock(STEPS)
    denoise = denoiser(pipeline, condition, without, SCALE)
    if towards is not None:
        clip, views = g.load("tiny"), g.Crops.calm(clock, 8)

        def loss(images: Tensor) -> Tensor:
            crops = views(images, clip.image_size)
            similar = clip.encode_image(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
            return 1 - (similar * towards[:, None]).sum(2).mean(1)

        denoise = guide(
            denoise, {"clip": loss}, pipeline.vae.decode, clock, 3.0, window=(0, 0.8), through_network=False
        )
    with torch.no_grad():
        for step in sample(denoise, pipeline.scheduler, noise, clock, steps=STEPS):
            latents = step.latents
        return pipeline.vae.decode(latents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuned", type=int, default=12)
    parser.add_argument("--inverted", type=int, default=24)
    parser.add_argument("--data", type=Path, help="pictures to learn words from")
    given = parser.parse_args()
    judge, pipeline = g.load(given.judge), load_pipeline("tiny").with_scheduler("dpm++")
    names = [task.name for task in read_tasks(count=given.count)]
    others = names[1:] + names[:1]
    side = (pipeline.size, pipeline.size)
    wanted, unwanted = judge.encode_text(names), judge.encode_text(others)

    def seen(images: Tensor, of: Tensor) -> Tensor:
        return (judge.encode_image(images) * of).sum(1)

    def over_seeds(make: Callable[[Tensor], Tensor], of: Tensor, count: int) -> Tensor:
        """The judge's cosines [names, seeds]; every way of asking has the same noise."""
        columns = []
        for seed in range(given.seeds):
            noise = pipeline.noise(g.Clock(1, 1000 * seed), count, side)
            columns.append(seen(make(noise), of[:count]))
        return torch.stack(columns, 1)

    def encoded(prompts: list[str], dialect: Dialect = "plain") -> Condition:
        return stack([pipeline.text.encode(prompt, dialect=dialect) for prompt in prompts])

    def told(what: str, differences: Tensor) -> None:
        found = mean(differences.tolist())
        print(f"{what}: {found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})", flush=True)

    n = len(names)
    nothing, plain = encoded([""]), encoded(names)

    def drawn_of(condition: Condition, noise: Tensor) -> Tensor:
        return draw(pipeline, noise, condition, nothing)

    pairs = list(zip(names, others, strict=True))
    for dialect in ("a1111", "comfy"):
        before = None
        for weight in WEIGHTS:
            prompts = [f"({name}:{weight}) and {other}" for name, other in pairs]
            asked = encoded(prompts, dialect)
            after = over_seeds(partial(drawn_of, asked), wanted, n)
            print(f"{dialect}, weight {weight}: cosine with the name {after.mean():.4f}", flush=True)
            if before is not None:
                told("  more than with the one before", after - before)
            before = after

    both, no_other = encoded([f"{name} and {other}" for name, other in pairs]), encoded(others)
    before = over_seeds(partial(drawn_of, both), unwanted, n)
    told("negative", over_seeds(lambda noise: draw(pipeline, noise, both, no_other), unwanted, n) - before)

    texts = g.load("tiny").encode_text(names)
    unguided = over_seeds(partial(drawn_of, plain), wanted, n)
    guided = over_seeds(lambda noise: draw(pipeline, noise, plain, nothing, texts), wanted, n)
    print(f"plain: cosine with the name {unguided.mean():.4f}")
    told("guided", guided - unguided)

    few = min(given.tuned, n)

    def tuned(noise: Tensor) -> Tensor:
        """As `guidance tune`: forty steps towards the CLIP loss, through eight steps of denoising."""
        clock = g.Clock(40)
        render = renderer(pipeline, noise, nothing, steps=8, scale=SCALE, seed=0)
        canvas = Conditioning(render, plain[:few], lr=g.linear(0.02, 0.002), radius=0.5)
        clip, views = g.load("tiny"), g.Crops.calm(clock, 8)

        def loss(images: Tensor) -> Tensor:
            crops = views(images, clip.image_size)
            similar = clip.encode_image(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
            return 1 - (similar * texts[:few, None]).sum(2).mean(1)

        for _ in g.optimize(canvas, {"clip": loss, "smooth": (0.1, g.total_variation)}, clock):
            pass
        with torch.no_grad():
            return draw(pipeline, noise, canvas.condition, nothing)

    told(f"tuned, {few} names", over_seeds(tuned, wanted, few) - unguided[:few])

    if given.data is not None:
        with (given.data / "captions.csv").open(encoding="utf-8", newline="") as file:
            places = {row["title"]: given.data / row["filepath"] for row in csv.DictReader(file)}
        known = [name for name in names if name in places]
        own = torch.cat([judge.encode_image(read_image(places[name])) for name in known])
        few = min(given.inverted, len(known))
        with tempfile.TemporaryDirectory() as folder:
            runs = [
                invert(places[name], film="none", output=Path(folder) / str(i))
                for i, name in enumerate(known[:few])
            ]
            brought = torch.cat([judge.encode_image(read_image(run / "final.png")) for run in runs])
        thing = draw(pipeline, pipeline.noise(g.Clock(1), 1, side), encoded(["thing"]), nothing)
        with torch.no_grad():
            from_thing = judge.encode_image(thing)
        right = torch.arange(few)
        alike = brought @ own.T
        told(f"inverted, {few} names", (alike[right, right] - (from_thing @ own.T)[0, :few])[:, None])
        found = share((alike.argmax(1) == right)[:, None].tolist())
        print(f"found first of {len(known)}: {found.value:.0%} ({found.low:.0%} to {found.high:.0%})")


if __name__ == "__main__":
    main()
