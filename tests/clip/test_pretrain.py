"""The training loop: rates, running means, what decays, caching, locks; by closed forms and open_clip."""

import json
import warnings
from collections.abc import Iterator
from copy import deepcopy
from math import cos, exp, pi
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidance import Clock, cosine
from guidance.clip.architecture import new_model
from guidance.clip.averaging import average_
from guidance.clip.contrastive import info_nce, siglip
from guidance.clip.datasets import Batch, Caption, Row, Source
from guidance.clip.datasets.rows import Listed
from guidance.clip.locking import lock
from guidance.clip.objective import Objective
from guidance.clip.parallel import finish_gradients_
from guidance.clip.pretrain import (
    PATIENCE,
    ChanceWarning,
    Pretrained,
    Pupil,
    adamw,
    chance,
    fingerprint,
    pretrain,
    sample_captions,
    warn_of_chance,
)
from guidance.clock import warm_up

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 300, "width": 16, "heads": 2, "layers": 2},
}
NAMES = ["red", "green", "blue", "black", "white", "yellow", "pink", "grey"]


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    (tmp_path / "vit.json").write_text(json.dumps(ARCHITECTURE))
    return tmp_path / "vit.json"


def batches(first: int, last: int) -> Iterator[Batch]:
    """Noisy colours with their names."""
    for index in range(first, last):
        generator = torch.Generator().manual_seed(index)
        colours = torch.randint(256, (8, 3, 1, 1), generator=torch.Generator().manual_seed(1))
        noise = torch.randint(-20, 20, (1, 8, 3, 16, 16), generator=generator)
        images = (colours + noise).clamp(0, 255).to(torch.uint8)
        yield Batch(images, [NAMES], [""] * 8, torch.arange(16).view(8, 2))


def train(
    architecture: Path,
    *,
    steps: int = 6,
    locked: str | None = None,
    average: bool = True,
    lr: float = 1e-3,
    **options: object,
) -> tuple[Pupil, list[Pretrained]]:
    model, config, tokenizer = new_model(architecture, captions=NAMES, vocabulary=300)
    if locked:
        lock(model, locked)
    pupil = Pupil(Objective(model, tokenizer), config["preprocess_cfg"], average=average)
    optimizer = adamw(pupil.objective)
    together = pupil.spread("ddp", several="micro_batch" in options)
    clock = Clock(steps)
    told = list(pretrain(pupil, batches, tokenizer, clock, optimizer, together, lr=lr, **options))
    assert clock.index == steps
    return pupil, told


def test_the_rate_warms_up_and_falls_along_a_cosine(architecture: Path) -> None:
    _, told = train(architecture, steps=8, lr=0.01, warm_up_share=0.25)
    wanted = [0.01 * (1 + cos(pi * i / 8)) / 2 * min(1, i / 2) for i in range(8)]
    assert [step.lr for step in told] == pytest.approx(wanted)
    assert [step.index for step in told] == list(range(8))


def test_a_schedule_without_warm_up_is_itself() -> None:
    assert [warm_up(cosine(2.0, 1.0), 0.0)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([2, 1.5, 1])


def test_the_running_mean_is_the_weighted_sum_of_all_weights() -> None:
    model, clock = nn.BatchNorm1d(1), Clock(100)
    mean = deepcopy(model)
    values = [torch.tensor([float(i**2)]) for i in range(20)]
    for clock.index, value in enumerate(values):
        with torch.no_grad():
            model.weight.copy_(value)
            model.running_mean.copy_(value)
        average_(mean, model, 0.6, clock)
    decays = [min(0.6, (1 + i) / (10 + i)) for i in range(20)]
    weights = [(1 - decays[i]) * torch.tensor(decays[i + 1 :]).prod() for i in range(20)]
    start = torch.tensor(decays).prod()
    wanted = start + sum(weight * value for weight, value in zip(weights, values, strict=True))
    torch.testing.assert_close(mean.weight.detach(), wanted)
    assert mean.running_mean.item() == 19**2


def test_the_kept_weights_are_the_mean_or_the_last(architecture: Path) -> None:
    pupil, _ = train(architecture)
    assert pupil.average is not None
    torch.testing.assert_close(pupil.weights(), dict(pupil.average.state_dict()))
    last, _ = train(architecture, average=False)
    torch.testing.assert_close(last.weights(), dict(last.objective.model.state_dict()))
    # The mean changes nothing for the weights themselves.
    torch.testing.assert_close(dict(pupil.objective.model.state_dict()), last.weights(), atol=0, rtol=0)
    assert not torch.equal(pupil.weights()["visual.proj"], last.weights()["visual.proj"])


def test_what_decays_is_what_decays_in_open_clip(architecture: Path) -> None:
    model, _, tokenizer = new_model(architecture, captions=NAMES, vocabulary=300)
    # As of timm's Swin and BEiT.
    model.visual.register_parameter("relative_position_bias_table", nn.Parameter(torch.zeros(9, 2)))
    optimizer = adamw(Objective(model, tokenizer), 0.3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    # open_clip_train/main.py
    kept = {
        name
        for name, p in model.named_parameters()
        if p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    }
    ours = {decay: set() for decay in (0.0, 0.3)}
    for group in optimizer.param_groups:
        ours[group["weight_decay"]] |= {names[id(parameter)] for parameter in group["params"]}
        assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-6)
    assert ours == {0.0: kept, 0.3: set(names.values()) - kept}


@pytest.mark.parametrize("size", [8, 3])
def test_micro_batches_give_the_weights_of_the_whole_batch(size: int, architecture: Path) -> None:
    plain, told = train(architecture, steps=4)
    cached, told_cached = train(architecture, steps=4, micro_batch=size)
    for step, other in zip(told, told_cached, strict=True):
        assert step.loss == pytest.approx(other.loss, abs=1e-5)
    torch.testing.assert_close(plain.weights(), cached.weights(), atol=1e-5, rtol=1e-5)
    assert told[-1].loss < told[0].loss


def test_the_first_loss_is_that_of_the_untrained_model(architecture: Path) -> None:
    _, told = train(architecture, steps=1)
    model, config, tokenizer = new_model(architecture, captions=NAMES, vocabulary=300)
    images = next(batches(0, 1)).images[0] / 255
    mean, std = (torch.tensor(config["preprocess_cfg"][n])[:, None, None] for n in ("mean", "std"))
    with torch.no_grad():
        seen = functional.normalize(model.encode_image((images - mean) / std), dim=-1)
        read = functional.normalize(model.encode_text(tokenizer(NAMES)), dim=-1)
        logits = model.logit_scale.exp() * seen @ read.T
        right = torch.arange(8)
        loss = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
    assert told[0].loss == pytest.approx(loss.item(), abs=1e-5)
    assert told[0].parts == {"contrast": pytest.approx(loss.item(), abs=1e-5)}


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_locked_tower_stays_and_the_other_learns(tower: str, architecture: Path) -> None:
    model, _, _ = new_model(architecture, captions=NAMES, vocabulary=300)
    pupil, _ = train(architecture, locked=tower)
    changed = {
        name for name, tensor in pupil.weights().items() if not torch.equal(tensor, model.state_dict()[name])
    }
    of_images = {name for name in model.state_dict() if name.startswith("visual.")}
    assert changed
    assert not changed & (
        of_images if tower == "image" else set(model.state_dict()) - of_images - {"logit_scale"}
    )


def test_the_scale_stays_below_a_hundred(architecture: Path) -> None:
    _, told = train(architecture, steps=15, lr=0.5, warm_up_share=0.0)
    assert max(step.scale for step in told) <= 100.001
    assert min(step.scale for step in told) >= 0.999


def test_gradients_are_shortened_together() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 3.0]), torch.tensor(6.0)
    assert finish_gradients_(parameters, 3.5).item() == pytest.approx(7)
    assert parameters[0].grad.tolist() == pytest.approx([1, 1.5])
    assert parameters[1].grad.item() == pytest.approx(3)
    assert finish_gradients_(parameters, 10).item() == pytest.approx(3.5)
    assert parameters[1].grad.item() == pytest.approx(3)


def test_bfloat16_learns_the_same_roughly(architecture: Path) -> None:
    _, told = train(architecture)
    _, halves = train(architecture, precision=torch.bfloat16)
    losses, others = [step.loss for step in told], [step.loss for step in halves]
    assert losses != others
    assert others == pytest.approx(losses, rel=0.1)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_chance_is_the_loss_of_one_who_guesses(n: int) -> None:
    same: Tensor = functional.normalize(torch.ones(n, 4), dim=-1)
    assert chance("info_nce", n) == pytest.approx(info_nce(same, same, torch.tensor(9.0)).item(), rel=1e-5)
    decoupled = info_nce(same, same, torch.tensor(9.0), decoupled=True).item()
    # Its positive counts outside of the logarithm.
    assert chance("info_nce", n, decoupled=True) == pytest.approx(decoupled, abs=1e-5)
    guesses = [siglip(same, same, torch.tensor(0.0), torch.tensor(-b / 10)).item() for b in range(80)]
    assert chance("siglip", n) == pytest.approx(min(guesses), rel=2e-3)


def steps(losses: list[float]) -> Iterator[Pretrained]:
    return (Pretrained(i, 0.0, {"contrast": loss}, 1.0, 1.0, 0.0) for i, loss in enumerate(losses))


def test_a_loss_that_sits_at_chance_is_told_once() -> None:
    level = chance("info_nce", 100)
    with pytest.warns(ChanceWarning, match=r"4\.61, as for one who guesses: nothing is learned") as told:
        assert len(list(warn_of_chance(steps([level + 0.001] * 3 * PATIENCE), level))) == 3 * PATIENCE
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        falling = [level * (0.5 + 0.5 * exp(-i / 20)) for i in range(2 * PATIENCE)]
        list(warn_of_chance(steps(falling), level))
        list(warn_of_chance(steps([level] * (PATIENCE - 1)), level))


def test_captions_of_a_long_source_are_a_sample_of_all_of_it() -> None:
    rows = [Row(str(i), bytes, (Caption(f"name {i}"), Caption(f"Name {i}", "de"))) for i in range(1000)]
    source = Source("many", Listed(rows), Listed([]))
    texts = sample_captions([(1.0, source)], 10)
    assert len(texts) == 20
    assert texts[:3] == ["name 0", "Name 0", "name 100"]
    assert len(sample_captions([(1.0, source)])) == 2000
    assert fingerprint(texts) != fingerprint([*texts[:-1], texts[-1] + "!"])
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
