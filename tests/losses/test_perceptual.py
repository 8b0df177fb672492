"""Perceptual losses against their definitions, written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from guidance.clip import load
from guidance.clip.features import image_features
from guidance.clock import Clock
from guidance.crops import Crops, clean_views
from guidance.errors import InputError
from guidance.losses import PerceptualLoss, vgg16_features
from guidance.losses.features import STROTSS_LAYERS, sequential_features


def noise(b: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(b, 3, size, size, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU()
        )


def test_sequential_features_are_the_modules_outputs() -> None:
    images = noise(2, 20)
    modules = network()
    normalised = images.clone()
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        normalised[:, channel] = (images[:, channel] - mean) / std
    last, first = sequential_features(modules, (4, 1))(images)
    torch.testing.assert_close(first, modules[:2](normalised))
    torch.testing.assert_close(last, modules(normalised))
    assert not any(parameter.requires_grad for parameter in modules.parameters())


@pytest.mark.parametrize(("kind", "layers"), [("resnet", (2, 3)), ("timm", (2, 3))])
def test_clipassos_loss_is_its_definition(model_folder, kind: str, layers: tuple[int, int]) -> None:
    clip = load(f"local-dir:{model_folder(kind)}")
    images, picture = noise(2, 40), noise(1, 40, seed=1)
    loss = PerceptualLoss.clipasso(clip, picture, Crops.clipasso(Clock(5, seed=3, index=2)))
    values, plain = loss(images), loss.plain(images)
    for i in range(2):
        crops = Crops.clipasso(Clock(5, seed=3 + i, index=2))  # a drawing and its picture seen alike

        def seen(x: torch.Tensor, crops: Crops = crops) -> tuple[torch.Tensor, list[torch.Tensor]]:
            views = torch.cat([clean_views(x, clip.image_size, (1.0,)), crops(x, clip.image_size)], 1)[0]
            return image_features(clip, views, layers)

        (u, x), (v, y) = seen(images[i : i + 1]), seen(picture)
        each = sum((a - b).square().mean((1, 2, 3)) for a, b in zip(x, y, strict=True))
        each = each + 0.1 * (1 - F.cosine_similarity(u, v))
        assert values[i].item() == pytest.approx(each.mean().item(), rel=1e-4, abs=2e-8)  # 5 views alike
        assert plain[i].item() == pytest.approx(each[0].item(), rel=1e-4, abs=2e-8)


def test_the_picture_itself_loses_nothing(clip) -> None:
    picture = noise(1, 24)
    loss = PerceptualLoss(
        sequential_features(network(), (1, 4)), picture, (1.0, 0.5), Crops.clipdraw(Clock()), 16
    )
    assert loss(picture).item() == 0
    assert loss(noise(1, 24, seed=1)).item() > 1e-3


def test_every_layer_has_a_weight() -> None:
    with pytest.raises(InputError, match="2 layers need as many weights, got 1"):
        PerceptualLoss(sequential_features(network(), (1, 4)), noise(1, 24), (1.0,), Crops(Clock()), 16)


def test_vgg16_without_its_weights_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(InputError, match=r"vgg16.tv_in1k \(no route\)"):
        vgg16_features(torch.device("cpu"))


def test_the_layers_of_strotss_are_vggs_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    # Its classifier, of 120 million numbers that nobody looks at, need not be made.
    make = timm.create_model
    random = make("vgg16", pretrained=False, num_classes=0, mlp_ratio=0.01)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: random)
    found = vgg16_features(torch.device("cpu"))(noise(1, 32))
    assert [layer.shape[1] for layer in found] == [64, 64, 128, 128, 256, 256, 256, 512, 512]
    assert [layer.shape[2] for layer in found] == [32, 32, 16, 16, 8, 8, 8, 4, 2]
    assert all(layer.min() == 0 for layer in found)  # after each ReLU


@pytest.mark.network
def test_vgg16_tells_a_stripe_from_noise() -> None:
    features = vgg16_features(torch.device("cpu"))
    assert len(features(noise(1, 64))) == len(STROTSS_LAYERS)
