"""The recipe of latents: from the embedded autoencoder, from a picture, and with VQGAN-CLIP's settings."""

from pathlib import Path

import pytest
import torch
from diffusers import VQModel
from PIL import Image

import guidance as g
from guidance import cli


def draw(folder: Path, *tokens: str) -> torch.Tensor:
    small = ["--steps", "2", "--crops", "1", "--size", "32", "--film", "none", "--output", str(folder)]
    assert cli.main(["latents", "a red heart", *small, *tokens]) == 0
    (run,) = folder.glob("*/*/final.png")
    return g.read_image(run)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    image = draw(tmp_path)
    assert image.shape == (1, 3, 32, 32)
    assert image.std() > 0.01


def test_it_starts_from_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (48, 40), (0, 160, 0)).save(tmp_path / "green.png")
    image = draw(tmp_path / "out", "--start", str(tmp_path / "green.png"))
    green = torch.tensor([0, 160 / 255, 0]).view(3, 1, 1)
    assert (image[0] - green).abs().mean() < 0.1


def test_a_vq_model_with_the_settings_of_vqgan_clip(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=8).save_pretrained(
            tmp_path / "vq"
        )
    vae = f"local-dir:{tmp_path / 'vq'}"
    assert draw(tmp_path / "out", "--vae", vae, "--preset", "vqgan-clip").shape == (1, 3, 32, 32)


@pytest.mark.parametrize("smooth", ["nan", "inf", "-1"])
def test_a_weight_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], smooth: str
) -> None:
    out = tmp_path / "out"
    assert cli.main(["latents", "a red heart", f"--smooth={smooth}", "--output", str(out)]) == 2
    assert "smooth must be" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("start", ["missing.png", "x" * 300])
def test_a_start_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str
) -> None:
    out = tmp_path / "out"
    assert cli.main(["latents", "a red heart", "--size=32", f"--start={start}", f"--output={out}"]) == 2
    assert f"there is no picture at {start}" in capsys.readouterr().err
    assert not out.exists()


def test_a_misspelt_autoencoder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["latents", "a red heart", "--vae", "tinny", "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "unknown model 'tinny'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
