"""Layers and tokens against open_clip's modules, called one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.clip import Clip, load
from guidance.clip.features import image_features, image_tokens, text_features, text_tokens
from guidance.errors import InputError

KINDS = ["vit", "vit-quickgelu", "vit-layerscale", "resnet", "timm"]
TEXTS = ["a red heart", "a fox in the snow and two whales", ""]


def noise(clip: Clip, n: int = 2) -> Tensor:
    size = clip.image_size
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS)
def clip(request, model_folder) -> Clip:
    return load(f"local-dir:{model_folder(request.param)}")


def outputs(modules: list[torch.nn.Module], run) -> list[Tensor]:
    """What each module gives while `run` runs, in their order."""
    found: dict[int, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, i=i: found.__setitem__(i, out))
        for i, module in enumerate(modules)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return [found[i] for i in range(len(modules))]


def stages(clip: Clip) -> list[torch.nn.Module]:
    tower = clip._model.visual
    if hasattr(tower, "transformer"):
        return list(tower.transformer.resblocks)
    if hasattr(tower, "trunk"):
        return [tower.trunk.stem, tower.trunk.s1, tower.trunk.s2, tower.trunk.s3, tower.trunk.s4]
    return [tower.avgpool, tower.layer1, tower.layer2, tower.layer3, tower.layer4]


def test_layers_are_those_of_encode_image(clip):
    images = noise(clip)
    expected = outputs(stages(clip), lambda: clip.encode_image(images))
    if expected[0].ndim == 3:  # tokens, the first of which is the class
        side = clip.image_size // 8
        expected = [out[:, 1:].transpose(1, 2).unflatten(2, (side, side)) for out in expected]
    everything = list(range(len(expected)))
    for layers in ([], [-1], [1, 0], everything, [-2, 1]):
        embeddings, found = image_features(clip, images, layers)
        torch.testing.assert_close(embeddings, clip.encode_image(images), rtol=0, atol=1e-6)
        for layer, got in zip(layers, found, strict=True):
            torch.testing.assert_close(got, expected[layer], rtol=0, atol=1e-5)


def test_layers_have_gradients_with_respect_to_the_image(clip):
    images = noise(clip).requires_grad_()
    for layer in (0, -1):
        _, (found,) = image_features(clip, images, [layer])
        (gradient,) = torch.autograd.grad(found.square().mean(), images)
        step = gradient / gradient.norm()
        with torch.no_grad():
            up, down = (
                image_features(clip, images + sign * 1e-2 * step, [layer])[1][0].square().mean()
                for sign in (1, -1)
            )
        assert (up - down) / 2e-2 == pytest.approx(gradient.norm().item(), rel=0.05)


def test_images_of_other_sizes_are_resized(model_folder):
    clip = load(f"local-dir:{model_folder('vit')}")
    images = torch.rand(1, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(image_features(clip, images, [])[0], clip.encode_image(images))


def test_a_layer_that_is_not_there_is_told(clip):
    count = len(stages(clip))
    for layer in (count, -count - 1):
        with pytest.raises(InputError, match=f"layers 0 to {count - 1}, got {layer}"):
            image_features(clip, noise(clip), [layer])
    with pytest.raises(InputError, match="layers 0 to 1, got 2"):
        text_features(clip, TEXTS, [2])


def test_places_of_a_transformer_are_projected_as_its_class_token_is(model_folder):
    clip = load(f"local-dir:{model_folder('vit')}")
    images, tower = noise(clip), clip._model.visual
    (last,) = outputs([tower.transformer], lambda: clip.encode_image(images))
    expected = F.normalize(tower.ln_post(last) @ tower.proj, dim=-1)
    torch.testing.assert_close(expected[:, 0], clip.encode_image(images), rtol=0, atol=1e-6)
    tokens = image_tokens(clip, images)
    assert tokens.shape == (2, clip.embed_dim, 4, 4)
    torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), expected[:, 1:], rtol=0, atol=1e-5)


def test_the_place_of_a_picture_of_one_place_is_the_picture(model_folder):
    """timm's towers: 32 pixels a side are one place of the last layer, so pooling does nothing."""
    clip = load(f"local-dir:{model_folder('timm')}")
    clip.image_size = 32
    images = noise(clip)
    tokens = image_tokens(clip, images)
    assert tokens.shape == (2, clip.embed_dim, 1, 1)
    torch.testing.assert_close(tokens[:, :, 0, 0], clip.encode_image(images), rtol=0, atol=1e-5)


def test_places_are_where_things_are(model_folder):
    clip = load("tiny")
    page = torch.ones(1, 3, 64, 64)
    page[:, 1:, 40:, 40:] = 0  # red at the lower right
    page.requires_grad_()
    tokens = image_tokens(clip, page)
    text = clip.encode_text(["red circle"])[0]
    relevance = torch.einsum("ndhw,d->nhw", tokens, text)[0]
    assert relevance.argmax() == relevance.numel() - 1
    (gradient,) = torch.autograd.grad(relevance[-1, -1], page)
    assert gradient.abs().sum() > 0


def test_towers_that_pool_by_attention_have_no_places(model_folder):
    clip = load(f"local-dir:{model_folder('resnet')}")
    with pytest.raises(InputError, match="no embedding of single places"):
        image_tokens(clip, noise(clip))


def test_text_layers_and_tokens(model_folder):
    clip = load(f"local-dir:{model_folder('vit')}")
    model = clip._model
    blocks = list(model.transformer.resblocks)
    expected = outputs(blocks, lambda: clip.encode_many(TEXTS))
    embeddings, found = text_features(clip, TEXTS, [1, 0, -1])
    for got, layer in zip(found, (1, 0, 1), strict=True):
        torch.testing.assert_close(got, expected[layer], rtol=0, atol=0)
    torch.testing.assert_close(embeddings, clip.encode_many(TEXTS), rtol=0, atol=1e-6)
    tokens = text_tokens(clip, TEXTS)
    lengths = [int((row == 2).int().argmax()) + 1 for row in clip._tokenizer(TEXTS)]  # 2 is the end
    assert [len(rows) for rows in tokens] == lengths
    assert lengths[2] < lengths[0] < lengths[1]
    torch.testing.assert_close(torch.stack([rows[-1] for rows in tokens]), embeddings, rtol=0, atol=1e-6)
    assert all(torch.allclose(rows.norm(dim=1), torch.ones(len(rows))) for rows in tokens)


def test_openais_end_of_text():
    import open_clip
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg

    with torch.random.fork_rng():
        vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
        model = open_clip.CLIP(24, vision, {"width": 32, "heads": 2, "layers": 1})
    set_model_preprocess_cfg(model, vars(PreprocessCfg(size=32)))
    tokenizer = open_clip.SimpleTokenizer()
    clip = Clip(model, tokenizer, name="x", embed_dim=24, device=torch.device("cpu"))
    tokens = text_tokens(clip, TEXTS)
    assert [len(rows) for rows in tokens] == [5, 10, 2]
    ends = torch.stack([rows[-1] for rows in tokens])
    torch.testing.assert_close(ends, clip.encode_many(TEXTS), rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_cpu(model_folder, kind):
    cpu, cuda = (load(f"local-dir:{model_folder(kind)}", device=device) for device in ("cpu", "cuda"))
    images = noise(cpu)
    expected, (layer,) = image_features(cpu, images, [-1])
    embeddings, (same,) = image_features(cuda, images.cuda(), [-1])
    assert F.cosine_similarity(embeddings.cpu(), expected).min() > 0.999
    assert F.cosine_similarity(same.cpu().flatten(1), layer.flatten(1)).min() > 0.999
    for got, want in zip(text_tokens(cuda, TEXTS), text_tokens(cpu, TEXTS), strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-3)
