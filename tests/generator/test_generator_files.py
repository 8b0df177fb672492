"""Files of generators: rosinality's and NVIDIA's names, and everything that is none."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidance.clock import Clock
from guidance.errors import InputError
from guidance.generator.loading import load_generator, save_generator
from guidance.generator.stylegan2 import Generator


def same(a: Generator, b: Generator) -> bool:
    w = a.draw(Clock(), 2, 0.7)
    return torch.equal(a(w), b(w)) and torch.equal(w, b.draw(Clock(), 2, 0.7))


def rosinality(generator: Generator) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in generator.state_dict().items() if name != "latent_avg"}


def nvidia(generator: Generator) -> dict[str, Tensor]:
    """The state dict of stylegan2-ada-pytorch's generator with the same numbers."""
    w, found = generator.state_dict(), {}
    for i in range(3):
        for part in ("weight", "bias"):
            found[f"mapping.fc{i}.{part}"] = w[f"style.{i + 1}.{part}"]
    found["mapping.w_avg"] = w["latent_avg"]
    found["synthesis.b4.const"] = w["input.input"][0]
    line = torch.tensor([1.0, 3.0, 3.0, 1.0])
    for side, conv0, conv1, rgb, noise in [
        (4, None, "conv1", "to_rgb1", 0),
        (8, "convs.0", "convs.1", "to_rgbs.0", 1),
        (16, "convs.2", "convs.3", "to_rgbs.1", 3),
    ]:  # fmt: skip
        block = f"synthesis.b{side}"
        found[f"{block}.resample_filter"] = line[:, None] * line / 64
        layers = [("conv1", conv1)] if conv0 is None else [("conv0", conv0), ("conv1", conv1)]
        for index, (layer, place) in enumerate(layers):
            found |= {
                f"{block}.{layer}.weight": w[f"{place}.conv.weight"][0],
                f"{block}.{layer}.bias": w[f"{place}.activate.bias"],
                f"{block}.{layer}.affine.weight": w[f"{place}.conv.modulation.weight"],
                f"{block}.{layer}.affine.bias": w[f"{place}.conv.modulation.bias"],
                f"{block}.{layer}.noise_const": w[f"noises.noise_{noise + index}"][0, 0],
                f"{block}.{layer}.noise_strength": w[f"{place}.noise.weight"][0],
                f"{block}.{layer}.resample_filter": line[:, None] * line / 64,
            }
        found |= {
            f"{block}.torgb.weight": w[f"{rgb}.conv.weight"][0],
            f"{block}.torgb.bias": w[f"{rgb}.bias"].view(3),
            f"{block}.torgb.affine.weight": w[f"{rgb}.conv.modulation.weight"],
            f"{block}.torgb.affine.bias": w[f"{rgb}.conv.modulation.bias"],
        }
    return {name: tensor.clone() for name, tensor in found.items()}


def test_a_checkpoint_of_rosinalitys_training(generator: Generator, tmp_path: Path) -> None:
    content = {
        "g": {}, "g_ema": rosinality(generator), "g_optim": {"state": {0: {"step": 1}}},
        "latent_avg": generator.latent_avg, "args": argparse.Namespace(size=16),
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pt")
    loaded = load_generator(tmp_path / "a.pt")
    assert same(generator, loaded)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_weights_alone_have_the_mean_of_many_latents(generator: Generator, tmp_path: Path) -> None:
    save_file(rosinality(generator), tmp_path / "a.safetensors")
    loaded = load_generator(tmp_path / "a.safetensors")
    z = torch.randn(4096, 10, generator=torch.Generator().manual_seed(5))
    w = generator.mapping(z)
    assert (loaded.latent_avg - w.mean(0)).abs().max() < 5 * w.std() / 4096**0.5


def test_nvidias_names(generator: Generator, tmp_path: Path) -> None:
    save_file(nvidia(generator), tmp_path / "a.safetensors")
    assert same(generator, load_generator(tmp_path / "a.safetensors"))


def test_ours(generator: Generator, tmp_path: Path) -> None:
    generator.half().float()
    save_generator(tmp_path / "a.safetensors", generator)
    assert same(generator, load_generator(str(tmp_path / "a.safetensors")))


def test_what_is_no_generator_is_told_in_one_line(generator: Generator, tmp_path: Path) -> None:
    weights, other = rosinality(generator), nvidia(generator)
    del weights["convs.1.activate.bias"]
    save_file(weights, tmp_path / "incomplete.safetensors")
    save_file(
        {**rosinality(generator), "conv1.activate.bias": torch.zeros(1)}, tmp_path / "shape.safetensors"
    )
    save_file({**other, "mapping.embed.weight": torch.zeros(1)}, tmp_path / "classes.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "else.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "ffhq.pkl").write_bytes(pickle.dumps({"G_ema": print}))
    torch.save({"g_ema": print}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({1: torch.zeros(1)}, tmp_path / "numbers.pt")
    side = {**other, "synthesis.b0.conv0.weight": torch.zeros(1)}
    save_file(side, tmp_path / "side.safetensors")
    save_file({**other, "synthesis.b4.torgb.bias": torch.zeros(4)}, tmp_path / "colours.safetensors")
    for name, words in {
        "incomplete.safetensors": "convs.1.activate.bias",
        "shape.safetensors": "conv1.activate.bias",
        "classes.safetensors": "one without classes",
        "else.safetensors": "conv1.conv.weight",
        "broken.safetensors": "cannot read",
        "ffhq.pkl": "safetensors.torch.save_file",
        "code.pt": "cannot read",
        "list.pt": "no weights by name",
        "numbers.pt": "no weights by name",
        "side.safetensors": "is no StyleGAN2 generator",
        "colours.safetensors": "is no StyleGAN2 generator",
        "missing.pt": "there is no generator",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            load_generator(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_the_embedded_one_makes_pictures_of_64_pixels() -> None:
    generator = load_generator()
    images = generator(generator.draw(Clock(), 8, 1.0))
    assert images.shape == (8, 3, 64, 64)
    # Something coloured in the middle of white pages, each time something else.
    assert images[:, :, :2].mean() > 0.95 > images[:, :, 24:40, 24:40].mean() + 0.1
    assert images.std(0).max() > 0.2
