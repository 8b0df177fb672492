"""What is asked of a model every so often while it trains, by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from guidance.clip.datasets import Source, held_out
from guidance.clip.encoder import Clip
from guidance.clip.measures import Canary, classify, measure, read_labelled
from guidance.clip.pictures import fitting
from guidance.clip.templates import PLAIN

Sources = Sequence[tuple[float, Source]]


def examination(
    before: Clip,
    sources: Sources,
    *,
    validation: Sources = (),
    labelled: Path | None = None,
    templates: Sequence[str] = PLAIN,
    known: Sources = (),
    names: Sequence[str] = (),
) -> Callable[[Clip], dict[str, float]] | None:
    """A function that measures a model; None where there is nothing to ask.

    `before`: the model before its training. Retrieval is among the rows that `sources` hold out, or among all
    rows of `validation`, if it is given; zero-shot accuracy (`zero_shot_top1`, …) is that of the pictures in
    `labelled`. `kept` is what `Canary` tells of pictures that the model `known`, or else of `names`.

    Raises InputError for sources without pictures.
    """
    fit, size = fitting(before), before.image_size
    unseen = None
    if validation:
        unseen = held_out(validation, size, fit, everything=True)
    elif any(len(source.held_out) for _, source in sources):
        unseen = held_out(sources, size, fit)
    pictures = None if labelled is None else read_labelled(labelled, before)
    canary = None
    if known:
        canary = Canary(before, held_out(known, size, fit, everything=True))
    elif names:
        canary = Canary(before, names)
    if unseen is None and pictures is None and canary is None:
        return None

    def ask(clip: Clip) -> dict[str, float]:
        found = {} if unseen is None else measure(clip, unseen)
        if pictures is not None:
            shares = classify(clip, pictures, templates)
            found |= {f"zero_shot_{name}": share for name, share in shares.items()}
        return found if canary is None else found | {"kept": canary(clip)}

    return ask
