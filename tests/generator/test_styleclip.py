"""Directions, mapper and moves on a small random generator, against brute force."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from guidance.canvas import Latents
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.generator.directions import deviations, direction, relevance, text_change, text_direction
from guidance.generator.mapper import MappedLatents, Mapper, load_mapper, save_mapper
from guidance.generator.moves import Moved, difference, strip, styleclip_rate, sweep
from guidance.generator.stylegan2 import Generator
from guidance.losses import cosine_distance
from guidance.optimization import optimize
from guidance.prompts import parse


class Looker:
    """An encoder of 7 numbers: a random look at the picture, and for texts their letters."""

    image_size, embed_dim, device = 16, 7, torch.device("cpu")

    def encode_image(self, images: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(2)
        return normalize((images - 0.5).flatten(1) @ torch.randn(3 * 16 * 16, 7, generator=draw), dim=1)

    def encode_text(self, texts: list[str]) -> Tensor:
        draws = [torch.Generator().manual_seed(sum(text.encode())) for text in texts]
        return normalize(torch.stack([torch.randn(7, generator=draw) for draw in draws]), dim=1)

    encode_many = encode_text


def moved(generator: Generator, styles: list[Tensor], layer: int, channel: int, by: Tensor) -> Tensor:
    other = [style.clone() for style in styles]
    other[layer][0, channel] += by
    return Looker().encode_image(generator.synthesize(other))[0]


def test_relevance_is_what_each_channel_does_alone(generator: Generator) -> None:
    w = generator.draw(Clock(), 2, 1.0)
    deviation = deviations(generator, Clock())
    found = relevance(generator, Looker(), w, deviation, batch=6)
    colours = [1, 4, 7]
    for layer, (matrix, spread) in enumerate(zip(found, deviation, strict=True)):
        assert matrix.shape == (spread.shape[1], 7)
        if layer in colours:
            assert not matrix.any()
            continue
        for channel in range(0, len(matrix), 2):
            push, total = 5 * spread[0, channel], torch.zeros(7)
            for latent in w:
                styles = generator.styles(latent[None])
                way = moved(generator, styles, layer, channel, push)
                total += normalize(way - moved(generator, styles, layer, channel, -push), dim=0)
            torch.testing.assert_close(matrix[channel], normalize(total, dim=0), atol=1e-4, rtol=1e-4)


def test_deviations_are_those_of_the_styles(generator: Generator) -> None:
    found = deviations(generator, Clock(seed=1), count=500)
    styles = generator.styles(generator.draw(Clock(seed=1), 500, 1.0))
    for spread, style in zip(found, styles, strict=True):
        torch.testing.assert_close(spread[0], (style - style.mean(0)).square().sum(0).div(499).sqrt())


def test_a_direction_keeps_what_is_relevant() -> None:
    way = normalize(torch.tensor([1.0, 0.0]), dim=0)
    matrices = [torch.tensor([[0.6, 0.8], [0.1, 0.9], [-0.3, 0.9]]), torch.zeros(2, 2)]
    spreads = [torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 2)]
    change = direction(matrices, spreads, way, beta=0.2)
    torch.testing.assert_close(change[0], torch.tensor([[1.0, 0.0, -2.0]]))
    assert not change[1].any()
    for beta in (0.7, -0.1):
        with pytest.raises(InputError, match=r"beta must be from 0 to 0.600"):
            direction(matrices, spreads, way, beta)


def test_a_text_direction_leads_from_source_to_target() -> None:
    clip = Looker()
    way = text_direction(clip, parse("cat"), parse("dog:2 | fox"))
    cat, dog, fox = clip.encode_text(["cat", "dog", "fox"])
    torch.testing.assert_close(way, normalize(normalize(2 * dog / 3 + fox / 3, dim=0) - cat, dim=0))
    with pytest.raises(InputError, match="source and prompt are the same"):
        text_direction(clip, parse("cat"), parse("cat"))


def test_moving_along_a_direction_moves_the_embedding_along_the_text(generator: Generator) -> None:
    clip, source, target = Looker(), parse("cat"), parse("dog")
    w = generator.draw(Clock(), 2, 1.0)
    change = text_change(generator, clip, source, target, w, beta=0.1)
    styles = generator.styles(w)
    ahead, back = (
        clip.encode_image(generator.synthesize([s + sign * c for s, c in zip(styles, change, strict=True)]))
        for sign in (0.5, -0.5)
    )
    assert ((ahead - back) @ text_direction(clip, source, target) > 0).all()


@pytest.mark.parametrize("groups", [("coarse",), ("medium",), ("coarse", "medium")])
def test_a_mapper_changes_its_groups_only(groups: tuple[str, ...]) -> None:
    mapper = Mapper(10, groups, Clock())
    w = torch.randn(2, 10, 10, generator=torch.Generator().manual_seed(0))
    assert not mapper(w).any()  # at the beginning none
    for parameter in mapper.parameters():
        parameter.data += 0.1
    change = mapper(w)
    for name, rows in {"coarse": slice(0, 4), "medium": slice(4, 8), "fine": slice(8, 10)}.items():
        assert change[:, rows].abs().amin((0, 2)).gt(0).all() == (name in groups)
        assert bool(change[:, rows].any()) == (name in groups)
    with pytest.raises(InputError, match="groups must be some of coarse, medium, fine, got tall"):
        Mapper(10, ("tall",), Clock())


def test_a_mapper_learns_from_latents_that_are_new_every_step(generator: Generator) -> None:
    target = Looker().encode_text(["dog"])

    def loss(images: Tensor) -> Tensor:
        return cosine_distance(Looker().encode_image(images), target)

    clock = Clock(25)
    canvas = MappedLatents(
        generator, Mapper(10, ("coarse", "medium"), clock), clock, 4, truncation=0.7, lr=0.05
    )
    assert not {id(p) for p in generator.parameters()} & {id(p) for p in canvas.parameters()}
    first = canvas().detach()
    seen = [
        step.losses
        for step in optimize(canvas, {"clip": loss, "change": (0.1, canvas.size_of_change)}, clock)
    ]
    unseen = generator.draw(Clock(seed=99), 16, 0.7)
    with torch.no_grad():
        assert loss(generator(unseen + canvas.mapper(unseen))).mean() < loss(generator(unseen)).mean() - 0.1
        torch.testing.assert_close(
            canvas.size_of_change(first), canvas.mapper(generator.draw(clock, 4, 0.7)).square().mean((1, 2))
        )
    assert seen[0]["change"].eq(0).all()
    assert seen[-1]["change"].gt(0).all()
    assert not torch.equal(canvas(), first)


def test_a_mapper_is_saved_and_loaded(generator: Generator, tmp_path: Path) -> None:
    mapper = Mapper(10, ("medium",), Clock())
    for parameter in mapper.parameters():
        parameter.data += 0.1
    save_mapper(tmp_path / "mapper.safetensors", mapper)
    w = generator.draw(Clock(), 2, 1.0)
    assert torch.equal(load_mapper(tmp_path / "mapper.safetensors", generator)(w), mapper(w))
    save_mapper(tmp_path / "wide.safetensors", Mapper(12, ("medium",), Clock()))
    save_file({"a": torch.zeros(1)}, tmp_path / "else.safetensors")
    for name, words in {
        "wide": "no mapper for this",
        "else": "no mapper for this",
        "none": "there is no mapper",
    }.items():
        with pytest.raises(InputError, match=words):
            load_mapper(tmp_path / f"{name}.safetensors", generator)


def test_styleclips_learning_rate() -> None:
    rate = styleclip_rate(0.1)
    assert [rate(p) for p in (0.0, 0.025, 0.05, 0.5, 0.75)] == pytest.approx([0, 0.05, 0.1, 0.1, 0.1])
    assert rate(0.875) == pytest.approx(0.05)
    assert rate(1.0) == pytest.approx(0)


def test_optimising_a_latent_lowers_the_loss_and_the_way_there_is_straight(generator: Generator) -> None:
    target = Looker().encode_text(["dog"])

    def loss(images: Tensor) -> Tensor:
        return cosine_distance(Looker().encode_image(images), target)

    clock = Clock(20)
    start = generator.draw(clock, 1, 0.7)
    canvas = Latents(generator.forward, start, lr=styleclip_rate(0.1))
    losses = [step.losses["clip"].item() for step in optimize(canvas, {"clip": loss}, clock)]
    assert losses[-1] < losses[0] - 0.1
    styles = generator.styles(start)
    change = difference(generator.styles(canvas.latents.detach()), styles)
    images = strip(generator, styles, change, 1.0, 3).chunk(3, dim=-1)
    halfway = generator((start + canvas.latents.detach()) / 2)
    for image, wanted in zip(images, (generator(start), halfway, canvas()), strict=True):
        torch.testing.assert_close(image, wanted.detach(), atol=1e-5, rtol=0)


def test_a_sweep_ends_at_its_strength(generator: Generator) -> None:
    styles = generator.styles(generator.draw(Clock(), 2, 0.7))
    change = [torch.ones_like(style[:1]) for style in styles]
    canvas, clock = Moved(generator, styles, change), Clock(4)
    torch.testing.assert_close(canvas(), generator.synthesize([style + 1 for style in styles]))
    steps = list(sweep(canvas, 2.0, {"red": (1.0, lambda image: image[:, 0].mean((1, 2)))}, clock))
    assert len(steps) == clock.index == 4
    torch.testing.assert_close(steps[0].image, generator.synthesize(styles))
    torch.testing.assert_close(canvas(), generator.synthesize([style + 2 for style in styles]))
    torch.testing.assert_close(steps[1].losses["red"], steps[1].image[:, 0].mean((1, 2)))
