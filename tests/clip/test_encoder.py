"""The encoder against open_clip's own model and preprocessing."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from guidance.clip import encoder, fast, load

KINDS = ["vit", "vit-quickgelu", "vit-layerscale", "resnet", "timm"]


def plain(folder: Path) -> open_clip.CLIP:
    return open_clip.create_model(f"local-dir:{folder}").eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normalised(model: open_clip.CLIP, images: Tensor) -> Tensor:
    cfg = model.visual.preprocess_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def embed_and_gradient(encode, images: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings, and the gradient of their sum with a fixed direction with respect to the images."""
    images = images.clone().requires_grad_()
    embeddings = encode(images)
    direction = noise(*embeddings.shape, seed=1) - 0.5
    (gradient,) = torch.autograd.grad((embeddings * direction).sum(), images)
    return embeddings.detach(), gradient


@pytest.fixture(params=KINDS)
def folder(request, model_folder) -> Path:
    return model_folder(request.param)


def test_images_and_gradients_equal_open_clips(folder):
    model, clip = plain(folder), load(f"local-dir:{folder}")
    images = noise(3, 3, clip.image_size, clip.image_size)
    expected = embed_and_gradient(
        lambda x: F.normalize(model.encode_image(normalised(model, x)), dim=-1), images
    )
    embeddings, gradient = embed_and_gradient(clip.encode_image, images)
    torch.testing.assert_close(embeddings, expected[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=0, atol=2e-5 * expected[1].abs().max().item())
    assert embeddings.shape == (3, clip.embed_dim)
    assert embeddings.dtype == torch.float32


def test_bfloat16_agrees_in_direction_and_returns_float32(folder):
    exact, clip = load(f"local-dir:{folder}"), load(f"local-dir:{folder}", precision="bfloat16")
    images = noise(3, 3, clip.image_size, clip.image_size)
    embeddings, gradient = embed_and_gradient(clip.encode_image, images)
    expected, expected_gradient = embed_and_gradient(exact.encode_image, images)
    assert embeddings.dtype == gradient.dtype == torch.float32
    assert not torch.equal(embeddings, expected)
    assert F.cosine_similarity(embeddings, expected).min() > 0.999
    # Rounding switches some of the narrow ResNet's ReLUs; the other towers are above 0.999.
    assert F.cosine_similarity(gradient.flatten(1), expected_gradient.flatten(1)).min() > 0.98
    texts = ["a red heart"]
    torch.testing.assert_close(clip.encode_text(texts), exact.encode_text(texts), rtol=0, atol=0)


def test_float32_is_float32_inside_autocast(model_folder):
    clip = load(f"local-dir:{model_folder('timm')}")
    images = noise(2, 3, 64, 64)
    expected = clip.encode_image(images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(clip.encode_image(images), expected, rtol=0, atol=0)


def test_texts_equal_open_clips_and_are_encoded_once(folder, monkeypatch):
    model, clip = plain(folder), load(f"local-dir:{folder}")
    texts = ["a red heart", "un coeur rouge", "红心", "a red heart"]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    embeddings = clip.encode_text(texts)
    torch.testing.assert_close(embeddings, model.encode_text(tokens, normalize=True), rtol=0, atol=2e-6)
    monkeypatch.setattr(clip, "_model", None)  # a second encoding would fail
    torch.testing.assert_close(clip.encode_text(texts[::-1]), embeddings.flip(0), rtol=0, atol=0)
    assert clip.encode_text([]).shape == (0, clip.embed_dim)


@pytest.mark.parametrize("size", [(224, 224), (65, 65), (20, 20), (100, 61), (40, 90)])
def test_resizing_is_pils(model_folder, size):
    """Pictures that stay inside [0, 1] under bicubic, where only PIL's rounding to 8 bits remains."""
    clip = load(f"local-dir:{model_folder('vit')}")
    grain = F.interpolate(noise(1, 3, 5, 5), size, mode="bilinear")[0] * 0.6 + 0.2
    picture = Image.fromarray((grain.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    transform = open_clip.image_transform(
        clip.image_size, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(clip._resize(pixels)[0], transform(picture), rtol=0, atol=2.5 / 255)


@pytest.mark.parametrize("mode", ["squash", "longest", "shortest"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_checkpoints_preprocessing_is_followed(model_folder, mode, interpolation):
    model = plain(model_folder("vit"))
    model.visual.preprocess_cfg |= {"resize_mode": mode, "interpolation": interpolation, "fill_color": 200}
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    clip = encoder.Clip(model, tokenizer, name="x", embed_dim=48, device=torch.device("cpu"))
    # Grey enough not to overshoot [0, 1], where PIL clips and we do not.
    picture = Image.fromarray((noise(70, 41, 3) * 100 + 80).numpy().astype(np.uint8))
    transform = open_clip.image_transform(
        32, is_train=False, resize_mode=mode, interpolation=interpolation, fill_color=200,
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    resized = clip._resize(pixels)[0]
    torch.testing.assert_close(resized, transform(picture), rtol=0, atol=2.5 / 255)


def test_a_downscale_sees_every_pixel(model_folder):
    """Antialiased: each pixel of a large image has a gradient, and fine stripes turn grey."""
    clip = load(f"local-dir:{model_folder('vit')}")
    images = noise(1, 3, 256, 256).requires_grad_()
    (gradient,) = torch.autograd.grad(clip.encode_image(images)[0, 0], images)
    assert (gradient != 0).all(dim=1).float().mean() > 0.99
    stripes = (torch.arange(256) % 2).float().expand(1, 3, 256, 256)
    assert (clip._resize(stripes) - 0.5).abs().max() < 0.02


def test_the_model_is_frozen(folder):
    clip = load(f"local-dir:{folder}")
    state = {name: tensor.clone() for name, tensor in clip._model.state_dict().items()}
    images = noise(2, 3, 48, 48).requires_grad_()
    first = clip.encode_image(images)
    first.sum().backward()
    assert not clip.encode_text(["a fox in the snow"]).requires_grad
    assert all(p.grad is None and not p.requires_grad for p in clip._model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip._model.state_dict().items())
    torch.testing.assert_close(clip.encode_image(images), first, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_packing_the_plain_tower_says_the_same(model_folder, monkeypatch, precision):
    name = f"local-dir:{model_folder('vit')}"
    packed = load(name, precision=precision)
    monkeypatch.setattr(fast, "can_pack", lambda dtype: False)
    unpacked = load(name, precision=precision)
    assert any(isinstance(m, fast.PackedLinear) for m in packed._model.modules())
    assert not any(isinstance(m, fast.PackedLinear) for m in unpacked._model.modules())
    images = noise(2, 3, 32, 32)
    similarity = F.cosine_similarity(packed.encode_image(images), unpacked.encode_image(images))
    assert similarity.min() > (1 - 1e-6 if precision == "float32" else 0.999)


def test_packing_is_refused_where_the_operators_are_missing_or_wrong(monkeypatch):
    fast.can_pack.cache_clear()
    assert fast.can_pack(torch.float32)

    def wrong(x, weight, *_):
        return 2 * F.linear(x, weight)

    for operator in (wrong, None):
        fast.can_pack.cache_clear()
        if operator is None:
            monkeypatch.setattr(fast.torch.ops, "mkldnn", object())
        else:
            monkeypatch.setattr(fast.torch.ops.mkldnn, "_reorder_linear_weight", lambda weight: weight)
            monkeypatch.setattr(fast.torch.ops.mkldnn, "_linear_pointwise", operator)
        assert not fast.can_pack(torch.float32)
    fast.can_pack.cache_clear()


@pytest.mark.parametrize("options", [
    {"pool_type": "avg"}, {"no_ln_pre": True}, {"final_ln_after_pool": True}, {"attentional_pool": True},
    {"ls_init_value": 0.5}, {"qk_norm": True, "scale_fc": True}, {"patch_dropout": 0.5}, {"head_width": 16},
])  # fmt: skip
def test_every_form_of_vision_transformer_packs(options):
    config = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = open_clip.model._build_vision_tower(24, config).eval().requires_grad_(False)
    images = noise(2, 3, 32, 32)
    expected = embed_and_gradient(tower, images)
    fast.pack(tower, torch.float32)
    for got, want in zip(embed_and_gradient(tower, images), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_equals_cpu(folder, precision):
    images = noise(3, 3, 50, 50)
    cpu = load(f"local-dir:{folder}")
    cuda = load(f"local-dir:{folder}", device="cuda", precision=precision)
    similarity = F.cosine_similarity(cuda.encode_image(images.cuda()).cpu(), cpu.encode_image(images))
    assert similarity.min() > 0.999
    torch.testing.assert_close(cuda.encode_text(["红心"]).cpu(), cpu.encode_text(["红心"]), rtol=0, atol=1e-4)


@pytest.mark.network
def test_vit_b_32_knows_a_red_disc_from_a_blue_one():
    clip = load("ViT-B/32")
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    disc = (x**2 + y**2 < 0.5).float()
    red = torch.stack([torch.ones_like(disc), 1 - disc, 1 - disc])
    scores = (
        clip.encode_image(torch.stack([red, red.flip(0)]))
        @ clip.encode_text(["a red circle", "a blue circle"]).T
    )
    assert scores.argmax(dim=1).tolist() == [0, 1]
