"""What the training of a small Stable Diffusion is made of, and the folder that it writes."""

from copy import deepcopy
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from small_pipelines import WIDTH, diffusers_pipeline, scheduler, unet
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

import guidance as g
from guidance import cli
from guidance.clip.data import CaptionedPictures
from guidance.clock import Clock
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.export import save_pipeline
from guidance.diffusion.from_clip import text_encoder
from guidance.diffusion.pipeline import load_pipeline
from guidance.diffusion.sampling import sample
from guidance.diffusion.train_diffusion import (
    TINTS,
    DiffusionTrainee,
    Lesson,
    inherit,
    prepare,
    tint,
    train_diffusion,
)
from guidance.diffusion.vae import load_vae

NAMES = [["a held out thing", "x"], ["house", "Haus"], ["red heart"], ["man: dark skin tone", "Mann"]]


def pictures() -> CaptionedPictures:
    """A bright square on the half of each, on nothing."""
    rgba = torch.zeros(4, 4, 80, 80)
    rgba[:, 3, 20:60, 20:60] = 1
    rgba[:, :2, 20:60, 20:40] = 0.9
    return CaptionedPictures(rgba, NAMES, torch.arange(4) == 0)


@cache
def lesson() -> Lesson:
    return prepare(pictures(), load_vae(), g.load("tiny")._tokenizer, 64, Clock(), views=2)


def test_what_is_learned() -> None:
    """Held-out pictures never; variants seldom; a thing without a colour in two tints; every caption."""
    made, tokenizer = lesson(), g.load("tiny")._tokenizer
    assert made.latents.shape == (8, 4, 16, 16)  # three twice, and two tints of the house
    torch.testing.assert_close(made.weights, torch.tensor([1, 1, 0.2, 1, 1, 0.2, 0.25, 0.25]))
    assert torch.equal(made.captions[made.first[0] : made.last[0]].long(), tokenizer(["house", "Haus"]))
    tinted = made.captions[made.first[6] : made.last[7]].long()
    assert len(tinted) == 2
    names = tokenizer([f"{colour} house" for colour in TINTS])
    assert all((row == names).all(1).any() for row in tinted)
    assert not torch.equal(tinted[0], tinted[1])
    assert torch.equal(made.nothing.long(), tokenizer([""])[0])
    decoded = load_vae().decode(made.latents)
    assert (decoded[:, :, 2:6, 2:6] > 0.9).all()  # the page is white


def test_a_tint_keeps_shape_and_shading() -> None:
    rgba = pictures().rgba[1]
    blue = tint(rgba, (0.1, 0.3, 0.9))
    assert torch.equal(blue[3], rgba[3])
    assert (blue[:3, rgba[3] == 0] == 0).all()
    light, dark = blue[:, 30, 30], blue[:, 30, 50]
    assert light[2] > light[0]
    assert dark[2] > dark[0]
    assert light[:3].sum() > dark[:3].sum() + 0.5


def trainee() -> DiffusionTrainee:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiffusionTrainee(unet(128))


def steps(
    model: DiffusionTrainee, clock: Clock, optimizer: torch.optim.Optimizer, **more: float
) -> list[float]:
    encoder, _ = text_encoder(g.load("tiny"))
    settings = {"batch": 4, "lr": 2e-3} | more
    taught = train_diffusion(
        model, lesson(), encoder, scheduler("v_prediction"), clock, optimizer, **settings
    )
    return [step.loss for step in taught]


def adamw(model: DiffusionTrainee) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.unet.parameters())


def test_it_learns_and_goes_on_where_it_was_stopped() -> None:
    whole = trainee()
    losses = steps(whole, Clock(12), adamw(whole))
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    assert any(
        not torch.equal(now, mean)
        for now, mean in zip(whole.unet.parameters(), whole.mean_unet.parameters(), strict=True)
    )
    first, clock = trainee(), Clock(12)
    optimizer = adamw(first)
    encoder, _ = text_encoder(g.load("tiny"))
    taught = train_diffusion(
        first, lesson(), encoder, scheduler("v_prediction"), clock, optimizer, batch=4, lr=2e-3
    )
    for _ in range(5):
        next(taught)
    second = deepcopy(first)
    again = adamw(second)
    again.load_state_dict(optimizer.state_dict())
    assert steps(second, Clock(12, index=5), again) == losses[5:]
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), whole.parameters(), strict=True))


class Told(nn.Module):
    """A text encoder that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[Tensor] = []

    def forward(self, tokens: Tensor) -> list[Tensor]:
        self.tokens.append(tokens)
        return [torch.zeros(*tokens.shape, 128)]


@pytest.mark.parametrize(("drop", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_share_is_told_nothing(drop: float, share: float) -> None:
    model, told, made = trainee(), Told(), lesson()
    taught = train_diffusion(
        model, made, told, scheduler("v_prediction"), Clock(3), adamw(model), batch=32, lr=0.0, drop=drop
    )
    assert len(list(taught)) == 3
    nothing = (torch.cat(told.tokens) == made.nothing).all(1).float().mean().item()
    assert nothing == pytest.approx(share, abs=0.15)


def test_it_starts_from_another_whose_shape_it_has() -> None:
    start, wider = unet(128), unet(128, addition_embed_type="text", addition_embed_type_num_heads=4)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    inherit(wider, start, "it")
    for name, value in wider.state_dict().items():
        assert torch.equal(value, before[name] if "add_embedding" in name else start.state_dict()[name])
    with pytest.raises(g.InputError, match=r"'it'.*to_k.weight is \(32, 32\), and here \(32, 128\)"):
        inherit(wider, unet(32), "it")
    with pytest.raises(g.InputError, match=r"add_embedding.*here missing"):
        inherit(start, wider, "it")


def test_the_recipe_writes_a_pipeline_and_starts_from_it(tmp_path: Path) -> None:
    data, first = tmp_path / "data", tmp_path / "first"
    data.mkdir()
    lines = ["filepath,title"]
    for colour in ("red", "green", "blue", "yellow"):
        Image.new("RGB", (24, 24), colour).save(data / f"{colour}.png")
        lines.append(f"{colour}.png,{colour}")
    (data / "captions.csv").write_text("\n".join(lines))
    command = ["train-diffusion", str(data), "--batch=2", "--channels=32", "--channels=32", "--steps=2"]
    assert cli.main([*command, f"--output={first}"]) == 0
    theirs = StableDiffusionPipeline.from_pretrained(first, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    # What every block is told of the text comes through diffusers' own pipeline as through ours.
    theirs.unet.add_embedding.norm2.weight.data.fill_(1)
    theirs.unet.save_pretrained(first / "unet")
    ours = load_pipeline(f"local-dir:{first}").with_scheduler("ddim")
    noise = ours.noise(Clock(1), 1, (64, 64))
    denoise = denoiser(ours, ours.text.encode("red"), ours.text.encode("blue"), 3.0)
    with torch.no_grad():
        found = list(sample(denoise, ours.scheduler, noise, Clock(4), steps=4))[-1].latents
        expected = theirs(
            "red", 64, 64, 4, guidance_scale=3.0, negative_prompt="blue", latents=noise, output_type="latent"
        ).images
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    start = f"--start=local-dir:{first}"
    assert cli.main([*command, start, "--lr=0.00001", f"--output={tmp_path / 'second'}"]) == 0
    second = load_pipeline(f"local-dir:{tmp_path / 'second'}")
    for a, b in zip(ours.unet.parameters(), second.unet.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
    assert cli.main([*command, start, "--channels=64", f"--output={tmp_path / 'third'}"]) == 2
    assert not (tmp_path / "third").exists()


def test_the_folder_is_a_stable_diffusion(tmp_path: Path) -> None:
    encoder, tokenizer = text_encoder(g.load("tiny"))
    vae = diffusers_pipeline().vae
    save_pipeline(tmp_path, unet(128), vae, encoder, tokenizer, scheduler("v_prediction"))
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    ours = load_pipeline(f"local-dir:{tmp_path}")
    expected, _ = theirs.encode_prompt("a red heart", "cpu", 1, False)
    torch.testing.assert_close(ours.text.encode("a red heart").hidden, expected)
    assert ours.trained.kind == theirs.scheduler.config.prediction_type == "v_prediction"
    weights = load_file(tmp_path / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in weights)  # or version 4 of transformers finds none
    assert vae.dtype == torch.float32  # what was given stays as it was
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not any("_name_or_path" in path.read_text() for path in files if path.name == "config.json")


def test_the_embedded_pipeline_reads_as_the_embedded_clip_does() -> None:
    """Its encoder was the text tower of tiny before tiny's last part of training: it has the same tokens,
    and knows what a translation means."""
    folder = files("guidance") / "models" / "tiny_diffusion" / "tokenizer"
    clip, theirs = g.load("tiny"), PreTrainedTokenizerFast.from_pretrained(str(folder))
    encoder = load_pipeline("tiny").text
    ends = []
    for text in ("red heart", "赤いハート", "cat face", "Katzengesicht", "rocket", "Rakete"):
        tokens = clip._tokenizer([text])[0]
        assert theirs(text, padding="max_length", max_length=32)["input_ids"] == tokens.tolist()
        ends.append(encoder.encode(text).hidden[0, tokens.argmax()])
    ends = torch.stack(ends)
    similarity = torch.cosine_similarity(ends[::2, None], ends[None, 1::2], dim=-1)
    assert similarity.argmax(1).tolist() == [0, 1, 2]
    assert WIDTH != encoder.width == 128
