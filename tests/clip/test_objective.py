"""The objective: its losses are the plain functions, its gradients reach what they must, cached or not."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchrun import torchrun

from guidance import InputError
from guidance.clip.architecture import new_model
from guidance.clip.caching import cached_backward
from guidance.clip.contrastive import filip, info_nce, siglip
from guidance.clip.locking import lock
from guidance.clip.objective import Objective
from guidance.clip.self_supervised import (
    mask_tokens,
    masked_language,
    simclr,
    similarity_regularization,
    simsiam,
)
from guidance.clip.tokens import encode_patches, read_texts
from guidance.distributed import process_group, rank

CAPTIONS = ["a red heart", "a blue fish", "a red heart", "ein rotes Herz", "赤いハート", "un cœur"]
OTHERS = ["heart", "fish", "herz", "Herz", "ハート", "cœur rouge"]
IDS = torch.tensor([[0, 0], [1, 1], [2, 0], [3, 3], [4, 4], [4, 5]])
N = len(CAPTIONS)
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 12, "width": 32, "heads": 2, "layers": 2}
BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 40, "vocab_size": 500, "pad_token_id": 0,
}  # fmt: skip
TOWERS = {
    "open_clip": TEXT,
    "ours": TEXT | {"tower": "guidance"},
    "bert": {"hf_model_name": "bert", "context_length": 12},
}
ALL = {"masked_language": 0.1, "simsiam": 0.05, "simclr": 0.05, "similarity": 0.1}

Make = Callable[..., Objective]


def made(folder: Path, text: str = "open_clip", vision: dict[str, Any] = VIT, **options: Any) -> Objective:
    """The objective of a small model, with weights that are not zero or one; double, so that errors show."""
    file = folder / "architecture.json"
    file.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TOWERS[text]}))
    is_siglip = options.get("contrast") == "siglip"
    model, _, tokenizer = new_model(file, captions=CAPTIONS, vocabulary=400, siglip=is_siglip)
    objective = Objective(model, tokenizer, **options).double()
    objective.tokenizer = tokenizer
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.ndim:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return objective.eval()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps(BERT))
    return partial(made, tmp_path)


def batch(objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, N, 3, 32, 32, generator=generator, dtype=torch.float64)
    tokens = torch.stack([objective.tokenizer(texts) for texts in (CAPTIONS, OTHERS)])
    draws = torch.rand(N, 12, 2, generator=generator)
    return images[: objective.views], tokens[: objective.texts], draws


def unit(rows: Tensor) -> Tensor:
    return functional.normalize(rows, dim=-1)


def embeddings(objective: Objective, view: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """By open_clip's own functions."""
    images, tokens, _ = batch(objective)
    model = objective.model
    u = unit(model.encode_image(images[view % len(images)]))
    v = unit(model.encode_text(tokens[view % len(tokens)]))
    return u, v, model.logit_scale.exp()


def fine(objective: Objective) -> Tensor:
    images, tokens, _ = batch(objective)
    reader = read_texts(objective.model, 0)
    present = reader.present(tokens[0])
    words = reader.project(reader.encode(tokens[0], present)[1])
    patches = encode_patches(objective.model, images[0])[1]
    shown = present[:, : words.shape[1]]
    scale = objective.model.logit_scale.exp()
    whole = info_nce(*embeddings(objective), ids=IDS)
    return (whole + filip(unit(patches), unit(words), shown, scale, ids=IDS)) / 2


def back_and_forth(objective: Objective) -> Tensor:
    images, tokens, _ = batch(objective)
    pooled = objective.model.encode_image(images[0]), objective.model.encode_text(tokens[0])
    back = tuple(unit(x @ p.weight.T) for x, p in zip(pooled, objective.back, strict=True))
    return info_nce(*embeddings(objective), ids=IDS, reverse=back)


def all_views(objective: Objective) -> Tensor:
    (u, v, scale), (u2, v2, _) = embeddings(objective), embeddings(objective, 1)
    others = [info_nce(*pair, scale, ids=IDS) for pair in ((u, v2), (u2, v), (u2, v2))]
    return 0.7 * info_nce(u, v, scale, ids=IDS) + 0.3 * sum(others) / 3


def spelled(objective: Objective) -> Tensor:
    """With the vector of a hidden token as one more row of the embedding."""
    _, tokens, draws = batch(objective)
    reader = read_texts(objective.model, 0)
    vocabulary, weight = reader.embedding.num_embeddings, reader.embedding.weight
    special = objective.tokenizer([""])[0].unique().tolist()
    sizes = {"mask_id": vocabulary, "vocabulary": vocabulary}
    changed, chosen = mask_tokens(tokens[0], draws, special=special, **sizes)
    assert (changed == vocabulary).any()
    del reader.embedding.weight
    reader.embedding.weight = torch.cat([weight, objective.mask[None]])
    _, hidden = reader.encode(changed, reader.present(tokens[0]))
    del reader.embedding.weight
    reader.embedding.weight = weight
    length = hidden.shape[1]
    return masked_language(objective.spelling(hidden), tokens[0][:, :length], chosen[:, :length])


def siamese(objective: Objective) -> Tensor:
    images, _, _ = batch(objective)
    project, predict = objective.simsiam
    both = [project(objective.model.encode_image(view)) for view in images]
    return simsiam((predict(both[0]), predict(both[1])), (both[0], both[1]))


def contrasted(objective: Objective) -> Tensor:
    images, _, _ = batch(objective)
    return simclr(*(unit(objective.simclr(objective.model.encode_image(view))) for view in images))


def plain(objective: Objective, **options: Any) -> Tensor:
    return info_nce(*embeddings(objective), **options)


#: Options, and the same loss by the plain functions.
CASES: dict[str, tuple[dict[str, Any], Callable[[Objective], Tensor]]] = {
    "info_nce": ({}, lambda o: plain(o, ids=IDS)),
    "no repeats": ({"repeats": False}, plain),
    "chunks": ({"chunk": 2}, lambda o: plain(o, ids=IDS)),
    "decoupled": ({"decoupled": True}, lambda o: plain(o, ids=IDS, decoupled=True)),
    "siglip": (
        {"contrast": "siglip"},
        lambda o: siglip(*embeddings(o), o.model.logit_bias, ids=IDS),
    ),
    "filip": ({"contrast": "filip"}, fine),
    "separate": ({"separate": True}, back_and_forth),
    "multiview": ({"multiview": 0.3}, all_views),
    "masked_language": (
        {"masked_language": 0.2},
        lambda o: 0.8 * plain(o, ids=IDS) + 0.2 * spelled(o),
    ),
    "simsiam": ({"simsiam": 0.2}, lambda o: 0.8 * plain(o, ids=IDS) + 0.2 * siamese(o)),
    "simclr": ({"simclr": 0.2}, lambda o: 0.8 * plain(o, ids=IDS) + 0.2 * contrasted(o)),
    "similarity": (
        {"similarity": 0.2},
        lambda o: 0.8 * plain(o, ids=IDS) + 0.2 * similarity_regularization(*embeddings(o)[:2]),
    ),
}


def total(objective: Objective) -> Tensor:
    return objective.loss(objective(*batch(objective)), IDS)[0]


def gradients(objective: Objective) -> dict[str, Tensor]:
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_what_the_plain_functions_say(case: str, make: Make) -> None:
    options, by_hand = CASES[case]
    objective = make(**options)
    found, expected = total(objective), by_hand(objective)
    torch.testing.assert_close(found, expected)
    # And its gradients, through everything.
    found.backward()
    ours = gradients(objective)
    objective.zero_grad()
    expected.backward()
    theirs = gradients(objective)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("text", TOWERS)
@pytest.mark.parametrize("contrast", ["info_nce", "filip"])
def test_gradients_reach_everything(text: str, contrast: str, make: Make) -> None:
    objective = make(text, contrast=contrast, multiview=0.1, **ALL)
    loss, parts = objective.loss(objective(*batch(objective)), IDS)
    assert list(parts) == ["contrast", "multiview", "masked_language", "simsiam", "simclr", "similarity"]
    rest = 1 - 0.1 - sum(ALL.values())
    weights = [rest, 0.1, *ALL.values()]
    torch.testing.assert_close(loss, sum(w * p for w, p in zip(weights, parts.values(), strict=True)))
    loss.backward()
    still = {name for name, p in objective.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert still == set()


@pytest.mark.parametrize("tower", ["image", "text"])
def test_nothing_reaches_a_locked_tower(tower: str, make: Make) -> None:
    objective = make("ours", contrast="filip", multiview=0.1, **ALL)
    lock(objective.model, tower)
    total(objective).backward()
    locked = "model.visual." if tower == "image" else "model.text."
    other = "model.text." if tower == "image" else "model.visual."
    reached = gradients(objective)
    assert not any(name.startswith(locked) for name in reached)
    assert {n for n, _ in objective.named_parameters() if n.startswith(other)} <= set(reached)
    assert {"mask", "spelling.3.weight", "simsiam.1.0.weight", "simclr.0.weight"} <= set(reached)


def cached(objective: Objective, seeds: list[int]) -> Tensor:
    images, tokens, draws = batch(objective)
    sizes = [2, 3, 1]
    micro = list(zip(images.split(sizes, 1), tokens.split(sizes, 1), draws.split(sizes), strict=True))
    return cached_backward(
        lambda part: objective(*part), micro, lambda *parts: objective.loss(parts, IDS)[0], seeds=seeds
    )


# Batch norm of the projectors as in evaluation: in training it sees a micro-batch, and not the batch.
@pytest.mark.parametrize(
    "options",
    [
        {"multiview": 0.1, "separate": True, **ALL},
        {"contrast": "filip", "decoupled": True, "masked_language": 0.2},
        {"contrast": "siglip", "multiview": 0.2, "chunk": 2},
    ],
    ids=["info_nce", "filip", "siglip"],
)
@pytest.mark.parametrize("text", ["open_clip", "ours"])
def test_cached_gradients_are_the_plain_ones(text: str, options: dict[str, Any], make: Make) -> None:
    objective = make(text, **options)
    expected = total(objective)
    expected.backward()
    plain_gradients = gradients(objective)
    objective.zero_grad()
    torch.testing.assert_close(cached(objective, [0, 1, 2]), expected.detach())
    torch.testing.assert_close(gradients(objective), plain_gradients, rtol=1e-5, atol=1e-9)


def test_cached_gradients_with_patches_dropped(make: Make) -> None:
    objective = make("ours", VIT | {"patch_dropout": 0.5}, contrast="filip").train()
    images, tokens, draws = batch(objective)
    encoded = []
    for i, part in enumerate((slice(0, 2), slice(2, 5), slice(5, 6))):
        with torch.random.fork_rng():
            torch.manual_seed(i)
            encoded.append(objective(images[:, part], tokens[:, part], draws[part]))
    whole = tuple(torch.cat(p) if p[0].ndim else p[0] for p in zip(*encoded, strict=True))
    expected, _ = objective.loss(whole, IDS)
    expected.backward()
    plain_gradients = gradients(objective)
    objective.zero_grad()
    torch.testing.assert_close(cached(objective, [0, 1, 2]), expected.detach())
    torch.testing.assert_close(gradients(objective), plain_gradients, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("contrast", ["info_nce", "siglip", "filip"])
def test_losses_are_exact_under_autocast(contrast: str, make: Make) -> None:
    objective = make("ours", contrast=contrast, multiview=0.1, **ALL).float()
    with torch.no_grad():
        objective.model.logit_scale.fill_(torch.log(torch.tensor(100.0)))
    images, tokens, draws = batch(objective)
    exact, _ = objective.loss(objective(images.float(), tokens, draws), IDS)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = objective(images.float(), tokens, draws)
        loss, parts = objective.loss(encoded, IDS)
    assert {tensor.dtype for tensor in encoded if tensor.is_floating_point()} == {torch.float32}
    assert {part.dtype for part in (loss, *parts.values())} == {torch.float32}
    assert 0 < (loss - exact).abs() < 0.1 * exact
    loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(objective).values())


def test_training_finds_the_texts_of_images(make: Make) -> None:
    objective = make("ours", separate=True).float().train()
    images, tokens, draws = batch(objective)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss, _ = objective.loss(objective(images.float(), tokens, draws), IDS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_model_alone_is_what_is_exported(make: Make) -> None:
    objective = make(masked_language=0.1, simsiam=0.1, separate=True)
    names = {name.split(".")[0] for name in objective.state_dict()}
    assert names == {"model", "mask", "spelling", "simsiam", "back"}
    assert not any("mask" in name or "spelling" in name for name in objective.model.state_dict())


def test_initial_weights_come_from_the_seed_alone(make: Make) -> None:
    model, tokenizer = (objective := make()).model, objective.tokenizer
    before = torch.get_rng_state()
    one, same, other = (Objective(model, tokenizer, seed=seed, **ALL).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(dict(one), dict(same), rtol=0, atol=0)
    assert not torch.equal(one["mask"], other["mask"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"contrast": "siglip", "decoupled": True}, "decoupled does not go with siglip"),
        ({"contrast": "filip", "separate": True}, "separate projections do not go with filip"),
        ({"multiview": 0.6, "simclr": 0.4}, "sum to less than 1"),
        ({"similarity": -0.1}, "must be positive"),
    ],
)
def test_losses_that_do_not_go_together_are_told(options: dict[str, Any], told: str, make: Make) -> None:
    with pytest.raises(InputError, match=told):
        make(**options)


def test_a_model_without_a_bias_is_told(make: Make) -> None:
    objective = make()
    with pytest.raises(InputError, match="siglip needs a model with a bias"):
        Objective(objective.model, objective.tokenizer, contrast="siglip")


def test_views_and_draws_that_are_missing_are_told(make: Make) -> None:
    objective = make(multiview=0.1, masked_language=0.1)
    images, tokens, draws = batch(objective)
    with pytest.raises(InputError, match="2 views of images and 2 of texts, got 1 and 2"):
        objective(images[:1], tokens, draws)
    with pytest.raises(InputError, match="masked_language needs draws"):
        objective(images, tokens)


#: What two processes find together: batch norm as in evaluation, since on CPUs each sees its own rows.
TOGETHER: list[dict[str, Any]] = [
    {"multiview": 0.1, "separate": True, **ALL},
    {"contrast": "filip", "masked_language": 0.2},
    {"contrast": "siglip", "multiview": 0.1},
]


def alone(folder: Path, options: dict[str, Any]) -> dict[str, Tensor]:
    objective = made(folder, "ours", **options)
    loss = total(objective)
    loss.backward()
    return {"loss": loss.detach()} | gradients(objective)


def half(folder: Path, options: dict[str, Any]) -> dict[str, Tensor]:
    """One rank's half of the batch in two micro-batches, the gradients averaged by DDP."""
    objective = made(folder, "ours", **options)
    wrapped = DistributedDataParallel(objective)
    images, tokens, draws = batch(objective)
    first = N // 2 * rank()
    parts = [slice(first, first + 1), slice(first + 1, first + N // 2)]
    ids = IDS[first : first + N // 2]
    loss = cached_backward(
        lambda part: wrapped(images[:, part], tokens[:, part], draws[part]),
        parts,
        lambda *encoded: objective.loss(encoded, ids)[0],
        seeds=[0, 1],
        no_sync=wrapped.no_sync,
    )
    return {"loss": loss} | gradients(objective)


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    done = torchrun(__file__, str(tmp_path))
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"rank-{number}.pt") for number in (0, 1)]
    for options, first, second in zip(TOGETHER, *ranks, strict=True):
        expected = alone(tmp_path, options)
        mean = (first.pop("loss") + second.pop("loss")) / 2
        torch.testing.assert_close(mean, expected.pop("loss"))
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-9)


def main(folder: Path) -> None:
    """One rank of the test above."""
    torch.set_num_threads(1)
    with process_group(torch.device("cpu"), timeout=120):
        own = folder / f"own-{rank()}"
        own.mkdir()
        torch.save([half(own, options) for options in TOGETHER], folder / f"rank-{rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
