"""Autoencoders of diffusers: the same numbers as diffusers' own, in our image convention."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel
from safetensors.torch import load_file, save_file

from guidance.clock import Clock
from guidance.diffusion import vae as module
from guidance.diffusion.vae import Vae, load_vae
from guidance.errors import InputError

LEVELS: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def kl(**settings: Any) -> AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(**LEVELS, sample_size=16, **settings).eval()


def vq() -> VQModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VQModel(**LEVELS, latent_channels=5, num_vq_embeddings=16, vq_embed_dim=3).eval()
        model.quantize.embedding.weight.data.normal_()  # as far apart as trained ones
        return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kl().save_pretrained(tmp_path / "kl")
    return tmp_path / "kl"


def pictures(n: int = 2, h: int = 12, w: int = 20) -> torch.Tensor:
    return Clock(seed=3).uniform("pictures", n, (3, h, w))


def latents(c: int = 4) -> torch.Tensor:
    return Clock(seed=4).normal("latents", 2, (c, 6, 10))


@torch.no_grad()
@pytest.mark.parametrize("shift", [None, 0.7])
def test_latents_are_those_of_diffusion_pipelines(shift: float | None) -> None:
    model = kl(scaling_factor=0.3, shift_factor=shift)
    vae = Vae(model, "kl")
    mode = model.encode(pictures() * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(vae.encode(pictures()), (mode - (shift or 0)) * 0.3)
    decoded = model.decode(latents() / 0.3 + (shift or 0)).sample
    torch.testing.assert_close(vae.decode(latents()), (decoded / 2 + 0.5).clamp(0, 1))
    assert (vae.channels, vae.factor, vae.bounds) == (4, 2, None)


@torch.no_grad()
def test_a_mean_and_deviation_for_each_channel_are_those_of_sdxl() -> None:
    mean, std = [0.1, -0.2, 0.3, 0.4], [1.5, 0.5, 2.0, 3.0]
    model = kl(scaling_factor=0.3, latents_mean=mean, latents_std=std)
    mean_, std_ = (torch.tensor(x).view(1, 4, 1, 1) for x in (mean, std))
    decoded = model.decode(latents() * std_ / 0.3 + mean_).sample  # StableDiffusionXLPipeline
    vae = Vae(model, "kl")
    torch.testing.assert_close(vae.decode(latents()), (decoded / 2 + 0.5).clamp(0, 1))
    mode = model.encode(pictures() * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(vae.encode(pictures()), (mode - mean_) * 0.3 / std_)


@torch.no_grad()
def test_a_vq_model_takes_the_nearest_codes() -> None:
    model, z = vq(), latents(3)
    codes = model.quantize.embedding.weight
    nearest = torch.empty_like(z)
    for b in range(2):
        for y in range(6):
            for x in range(10):
                vector = z[b, :, y, x]
                nearest[b, :, y, x] = min(codes, key=lambda code: (code - vector).square().sum().item())
    decoded = model.decoder(model.post_quant_conv(nearest))
    vae = Vae(model, "vq")
    torch.testing.assert_close(vae.decode(z), (decoded / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(vae.encode(pictures()), model.encode(pictures() * 2 - 1).latents)
    assert vae.bounds is not None
    assert torch.equal(vae.bounds[0].flatten(), torch.stack([codes[:, i].min() for i in range(3)]))
    assert torch.equal(vae.bounds[1].flatten(), torch.stack([codes[:, i].max() for i in range(3)]))


def test_the_gradient_passes_straight_through_the_codes() -> None:
    model = vq()
    vae = Vae(model, "vq")
    z = latents(3).requires_grad_()
    weights = Clock().normal("weights", 2, (3, 12, 20))
    (vae.decode(z) * weights).sum().backward()
    with torch.no_grad():
        nearest = model.quantize(z)[0]
    nearest.requires_grad_()
    (vae.decode(nearest) * weights).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().max() > 0
    torch.testing.assert_close(z.grad, nearest.grad)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_noise_is_normal_or_codes_and_its_own_for_each_member() -> None:
    normal = Vae(kl(), "kl").noise(Clock(seed=5), 2, (12, 19))
    assert normal.shape == (2, 4, 6, 10)
    assert torch.equal(normal[1:], Vae(kl(), "kl").noise(Clock(seed=6), 1, (12, 19)))
    model = vq()
    found = Vae(model, "vq").noise(Clock(seed=5), 2, (12, 20))
    assert torch.equal(found[1:], Vae(model, "vq").noise(Clock(seed=6), 1, (12, 20)))
    codes = {tuple(code) for code in model.quantize.embedding.weight.tolist()}
    seen = {tuple(vector) for vector in found.movedim(1, -1).flatten(0, 2).tolist()}
    assert seen <= codes
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("bias", "loss", "moves"), [(9, 1, True), (9, -1, False), (-9, -1, True), (-9, 1, False)]
)
def test_pixels_out_of_range_can_come_back_only(bias: float, loss: float, moves: bool) -> None:
    model = kl()
    model.decoder.conv_out.bias.data.fill_(bias)  # all pixels are beyond white, or beyond black
    z = latents().requires_grad_()
    image = Vae(model, "kl").decode(z)
    assert (image == float(bias > 0)).all()
    (loss * image.sum()).backward()  # descending makes it darker, or lighter
    assert z.grad is not None
    assert bool(z.grad.any()) == moves


@torch.no_grad()
@pytest.mark.parametrize("layout", ["folder", "pipeline", "file"])
def test_what_diffusers_saved_is_loaded(folder: Path, layout: str) -> None:
    if layout == "pipeline":
        folder = folder.rename(folder.with_name("vae")).parent
    name = str(folder / WEIGHTS) if layout == "file" else f"local-dir:{folder}"
    vae = load_vae(name)
    assert torch.equal(vae.decode(latents()), Vae(kl(), "").decode(latents()))


@torch.no_grad()
@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_saved_vq_model_is_loaded(tmp_path: Path, layout: str) -> None:
    vq().save_pretrained(tmp_path / "vqvae")
    name = f"local-dir:{tmp_path}" if layout == "folder" else str(tmp_path / "vqvae" / WEIGHTS)
    assert torch.equal(load_vae(name).decode(latents(3)), Vae(vq(), "").decode(latents(3)))


def original(name: str) -> str:
    """Stable Diffusion's own name of one of diffusers' weights."""
    name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{1 - int(match[1])}", name)
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    pairs = {
        "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v",
        "to_out.0": "proj_out", "resnets": "block", "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out", "downsamplers.0": "downsample", "upsamplers.0": "upsample",
    }  # fmt: skip
    for theirs, ours in pairs.items():
        name = name.replace(theirs, ours)
    return name


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_file_in_stable_diffusions_own_layout_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    small = {"block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}
    small |= {key: module._SD1[key][:2] for key in ("down_block_types", "up_block_types")}
    monkeypatch.setattr(module, "_SD1", module._SD1 | small)
    weights = {prefix + original(name): tensor for name, tensor in kl().state_dict().items()}
    for name, tensor in weights.items():
        if "attn_1" in name and tensor.ndim == 2:
            weights[name] = tensor[:, :, None, None]  # 1×1 convolutions there
    save_file(weights, tmp_path / "sd.safetensors")
    vae = load_vae(str(tmp_path / "sd.safetensors"))
    torch.testing.assert_close(vae.decode(latents()), Vae(kl(), "").decode(latents()))


@torch.no_grad()
def test_bfloat16_is_inside_only(folder: Path) -> None:
    single, half = (load_vae(f"local-dir:{folder}", precision=p) for p in ("float32", "bfloat16"))
    assert half.decode(latents()).dtype == half.encode(pictures()).dtype == torch.float32
    torch.testing.assert_close(half.decode(latents()), single.decode(latents()), atol=0.03, rtol=0)
    assert not torch.equal(half.decode(latents()), single.decode(latents()))


@torch.no_grad()
def test_slices_and_tiles_are_diffusers_own(folder: Path) -> None:
    plain = load_vae(f"local-dir:{folder}")
    sliced = load_vae(f"local-dir:{folder}", slicing=True)
    torch.testing.assert_close(sliced.decode(latents()), plain.decode(latents()))
    z = Clock().normal("latents", 1, (4, 16, 16))  # a tile has 8 × 8
    tiled, model = load_vae(f"local-dir:{folder}", tiling=True), kl()
    model.enable_tiling()
    expected = model.decode(z / model.config.scaling_factor).sample / 2 + 0.5
    torch.testing.assert_close(tiled.decode(z), expected.clamp(0, 1))
    assert not torch.allclose(tiled.decode(z), plain.decode(z), atol=1e-4)


def test_loading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    state = torch.get_rng_state()
    load_vae(f"local-dir:{folder}")
    load_vae(str(folder / WEIGHTS))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tyni", "unknown model 'tyni'; use tiny, local-dir:FOLDER"),
        ("local-dir:nowhere", "config.json is missing"),
        ("nowhere.safetensors", "nowhere.safetensors"),
        ("hf-hub:one", "hf-hub:ORG/NAME"),
        ("local-dir:" + 5000 * "x", "config.json is missing"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_vae(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pickle", "cut", "missing", "shapes", "config", "other"])
@pytest.mark.parametrize("single", [False, True])
def test_what_is_broken_is_one_line(folder: Path, kind: str, single: bool) -> None:
    weights, config = folder / WEIGHTS, folder / "config.json"
    tensors = load_file(weights)
    match kind:
        case "pickle":
            weights.unlink()
            torch.save(tensors, folder / "diffusion_pytorch_model.bin")
        case "cut":
            weights.write_bytes(weights.read_bytes()[:5000])
        case "missing":
            save_file({n: t for n, t in tensors.items() if "norm_out" not in n}, weights)
        case "shapes":
            save_file(tensors | {"decoder.conv_out.bias": torch.zeros(7)}, weights)
        case "config":
            config.write_text("{")
        case "other":
            config.write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(InputError) as caught:
        load_vae(str(weights) if single else f"local-dir:{folder}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([1], "cannot be loaded"),
        ({"norm_num_groups": 0}, "ZeroDivisionError"),
        ({"scaling_factor": None}, "TypeError"),
        ({"scaling_factor": "x"}, "TypeError"),
        ({"scaling_factor": 0}, "cannot scale its 4 channels"),
        ({"latents_mean": [0.0] * 3}, "cannot scale its 4 channels"),
        ({"latents_std": [0.0] * 4}, "cannot scale its 4 channels"),
        ({"layers_per_block": 10**7}, "more than 8 levels or 16 layers"),
        ({"block_out_channels": [8, 16384]}, "billion weights"),
        ({"latent_channels": 10**6}, "billion weights"),
    ],
)
def test_hostile_configurations_are_one_line(folder: Path, changes: Any, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | changes if isinstance(changes, dict) else changes)
    )
    for name in (f"local-dir:{folder}", str(folder / WEIGHTS)):
        with pytest.raises(InputError, match=message) as caught:
            load_vae(name)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_asked_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="multiples of 2 pixels, got 12×19"):
        Vae(kl(), "kl").encode(pictures(w=19))
    vq().save_pretrained(tmp_path / "vq")
    with pytest.raises(InputError, match="no slicing or tiling"):
        load_vae(f"local-dir:{tmp_path / 'vq'}", tiling=True)
    UNet2DModel(block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
                norm_num_groups=4).save_pretrained(tmp_path / "unet")  # fmt: skip
    with pytest.raises(InputError, match="is a UNet2DModel; give an AutoencoderKL"):
        load_vae(f"local-dir:{tmp_path / 'unet'}")
