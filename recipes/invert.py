"""Textual inversion (Gal et al. 2022): a word of your own for what a few pictures show, to use in prompts."""

import re
from pathlib import Path
from typing import Literal

import torch

import guidance as g
from guidance import options
from guidance.clip.templates import fill
from guidance.clock import Schedule
from guidance.diffusion.conditioning import Condition
from guidance.diffusion.inversion import Word, begin_word, save_word, teach
from guidance.diffusion.learning import Learned, learn, read_pictures
from guidance.diffusion.pipeline import Precision, load_pipeline
from guidance.diffusion.rendering import renderer
from guidance.diffusion.schedulers import SchedulerName


def main(
    pictures: Path,
    prompt: str = "<it>",
    *,
    word: str | None = None,
    initial: str = "thing",
    vectors: int | None = None,
    preset: Literal["tiny", "diffusers"] = "tiny",
    steps: int = 200,
    batch: int = 8,
    mirrored: bool = False,
    templates: options.Templates = "plain",
    model: options.Pipeline = "tiny",
    sampling: int = 20,
    scale: float = 4.0,
    scheduler: SchedulerName = "dpm++",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: Precision = "float32",
    offload: options.Offload = "none",
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Learn a word from a few pictures; gives a file that Stable Diffusion tools take, and a picture.

    `guidance diffuse "<it> in the snow" --embedding FILE` uses it.

    Args:
        pictures: A folder with about five pictures of one thing or one style, or a single picture.
        prompt: What the picture at the end shows, with the word in it.
        word: What to call it, unlike any word that there is; if not given, what is in <> in the prompt.
        initial: A word for the kind of thing, which it begins as.
        vectors: How many tokens it takes; as many as `initial` if not given.
        preset: The learning rate: tiny's; or diffusers, that of its script, with --steps 5000 --batch 16
            --mirrored --templates openai.
        steps: How often it is improved.
        batch: How many noisy pictures a step sees.
        mirrored: Whether pictures are seen mirrored as well.
        templates: Sentences that the word is seen in: plain, openai, or a file, one a line, {} for the word.
        sampling: How many steps the picture takes from noise.
        scale: How much more than a picture of nothing it shall be one of the prompt.
        scheduler: The sampler.
    """
    run = g.Run(__file__, locals())
    if batch < 1:
        raise g.InputError(f"batch must be at least 1, got {batch}")
    if word is None:
        named = re.search(r"<[^<>\s]+>", prompt)
        if named is None:
            raise g.InputError(f"the prompt must have the word to learn in it, such as <it>, got {prompt!r}")
        word = named[0]
    if word not in prompt:
        raise g.InputError(f"the prompt must have the word {word!r} in it, got {prompt!r}")
    clock = g.Clock(steps, seed)
    sentences = [fill(template, word) for template in g.read_templates(templates)]
    where = g.device(device)
    pipeline = load_pipeline(model, device=where, precision=precision, offload=offload)
    pipeline = pipeline.with_scheduler(scheduler)
    sides = (pipeline.size, pipeline.size)
    start = begin_word(pipeline.text, word, initial, vectors)
    render = renderer(
        pipeline,
        pipeline.noise(clock, 1, sides),
        pipeline.text.encode_negative(""),
        steps=sampling,
        scale=scale,
    )
    rate: Schedule = g.linear(0.01, 0.001) if preset == "tiny" else 1e-4
    canvas = Learned(start.vectors, lambda _: render(pipeline.text.encode(prompt)), sides, lr=rate).to(where)
    learned = Word(word, list(canvas.tensors))
    teach(pipeline.text, [learned])
    with torch.no_grad():
        images = read_pictures(pictures, pipeline.size).to(where)
        latents = pipeline.vae.encode(torch.cat([images, images.flip(-1)]) if mirrored else images)

    def captions(generator: torch.Generator, n: int) -> Condition:
        picks = torch.randint(len(sentences), (n,), generator=generator).tolist()
        said = list(dict.fromkeys(picks))  # each sentence is encoded once
        condition = pipeline.text.encode([sentences[i] for i in said])
        rows = torch.tensor([said.index(i) for i in picks], device=where)
        pooled = None if condition.pooled is None else condition.pooled[rows]
        return Condition(condition.hidden[rows], pooled)

    optimizer = torch.optim.AdamW(canvas.parameters(), weight_decay=0.01)
    steps_taken = learn(canvas, captions, pipeline, latents, clock, optimizer, batch=batch)
    for _ in run.track(steps_taken, canvas, optimizer, clock):
        pass

    name = re.sub(r"[^\w-]", "", word) or "word"
    save_word(run.folder / f"{name}.safetensors", learned)
    return run.finish(canvas)
