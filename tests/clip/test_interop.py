"""Random weights to transformers and back: the same embeddings; what cannot be carried over is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from guidance.clip import Clip, fast, load
from guidance.clip.interop import (
    from_transformers,
    save_transformers,
    to_transformers,
    tokenizer_to_transformers,
)
from guidance.errors import InputError

TEXTS = ["a red heart", "Two foxes, 3.5 m apart!", "ein größeres Herz", "红心", "", "word " * 100]
VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
TEXT = {"context_length": 16, "width": 64, "heads": 4, "layers": 3}


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights throughout: biases and gains that are zero or one would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def ours(quick_gelu: bool = True, vision: dict | None = None, text: dict | None = None, **more) -> Clip:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision, text = VISION | (vision or {}), TEXT | (text or {})
        model = open_clip.CLIP(48, vision, text, quick_gelu=quick_gelu, **more)
    preprocess = PreprocessCfg(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    set_model_preprocess_cfg(model, vars(preprocess))
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return Clip(perturbed(model), tokenizer, name="x", embed_dim=48, device=torch.device("cpu"))


def theirs(act: str = "quick_gelu", eos: int = 49407, vocab: int = 49408) -> CLIPModel:
    tower = {"hidden_size": 64, "num_attention_heads": 4, "hidden_act": act}
    text = {"intermediate_size": 129, "num_hidden_layers": 2, "max_position_embeddings": 16}
    special = {"eos_token_id": eos, "bos_token_id": None, "pad_token_id": None, "vocab_size": vocab}
    vision = {"intermediate_size": 100, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config=tower | text | special,
        vision_config=tower | vision | {"layer_norm_eps": 1e-3},
        projection_dim=48,
        logit_scale_init_value=3.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return perturbed(CLIPModel(config))


def noise(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def assert_same(clip: Clip, model: CLIPModel, tokens: Tensor, texts: list[str] = TEXTS) -> None:
    """Embeddings of images and texts, and the logits between them, as transformers computes them."""
    images = noise()
    with torch.no_grad():
        out = model(input_ids=tokens, pixel_values=clip._pixels(images))
    torch.testing.assert_close(clip.encode_image(images), out.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(clip.encode_many(texts), out.text_embeds, rtol=0, atol=1e-5)
    logits = clip.logit_scale * clip.encode_image(images) @ clip.encode_many(texts).T
    torch.testing.assert_close(logits, out.logits_per_image, rtol=0, atol=1e-3)
    assert (clip.encode_many(texts[:2]).diff(dim=0).abs() > 1e-3).any()  # not one point for everything


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("form", ["plain", "layer scale", "eos"])
def test_to_transformers(quick_gelu, packed, form, monkeypatch):
    monkeypatch.setattr(fast, "can_pack", lambda dtype: packed)
    scale = {"ls_init_value": 0.3} if form == "layer scale" else {}
    pool = {"pool_type": "eos", "eos_id": 49407} if form == "eos" else {}
    clip = ours(quick_gelu, vision=scale, text=scale | pool)
    model = to_transformers(clip)
    assert model.config.text_config.hidden_act == ("quick_gelu" if quick_gelu else "gelu")
    assert_same(clip, model, clip._tokenizer(TEXTS))
    tokens = tokenizer_to_transformers(clip)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert_same(clip, model, tokens["input_ids"])


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [2, 49407])
def test_from_transformers(act, eos):
    model = theirs(act, eos)
    clip = from_transformers(model)
    assert_same(clip, model, clip._tokenizer(TEXTS))
    assert clip.image_size == 32
    assert clip.embed_dim == 48


def test_there_and_back():
    model = theirs()
    state = to_transformers(from_transformers(model)).state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)


def test_a_saved_folder_is_what_transformers_loads(tmp_path):
    clip, folder = ours(), tmp_path / "saved"
    save_transformers(clip, folder)
    assert not [path for path in folder.iterdir() if path.suffix not in (".json", ".safetensors", ".txt")]
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(90, 160, (40, 60, 3), dtype=np.uint8)) for _ in range(2)]
    processor = CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=TEXTS, images=pictures, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = CLIPModel.from_pretrained(folder).eval()(**inputs)
    again = load(f"local-dir:{folder}")
    assert again.name == f"local-dir:{folder}"
    for model in (clip, again):
        torch.testing.assert_close(model.encode_many(TEXTS), out.text_embeds, rtol=0, atol=1e-5)
        images = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in pictures])
        # transformers resizes to 8 bits, we do not.
        torch.testing.assert_close(model.encode_image(images), out.image_embeds, rtol=0, atol=5e-3)
    torch.testing.assert_close(again.encode_image(noise()), clip.encode_image(noise()), rtol=0, atol=1e-5)


def test_a_folder_without_tokenizer_and_preprocessing_has_openais(tmp_path):
    model = theirs()
    model.save_pretrained(tmp_path)
    clip = from_transformers(str(tmp_path))
    assert_same(clip, model, open_clip.SimpleTokenizer(context_length=16)(TEXTS))
    assert clip._mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)


def test_a_folder_with_a_tokenizer_of_its_own(model_folder, tmp_path):
    source = model_folder("vit")  # its tokenizer has "<end>" as token 2 of 420
    file = json.loads((source / "tokenizer.json").read_text())
    names = {"<start>": 417, "<end>": 418, "<pad>": 419}
    swap = {token: number for token, number in file["model"]["vocab"].items() if token not in names}
    shifted = {token: number for number, token in enumerate(swap)} | names
    file["model"]["vocab"] = shifted
    text = json.dumps(file)
    for token, (old, new) in {"<pad>": (0, 419), "<start>": (1, 417), "<end>": (2, 418)}.items():
        text = text.replace(f'"id": {old}, "content": "{token}"', f'"id": {new}, "content": "{token}"')
        text = text.replace(f'"id": "{token}", "ids": [{old}]', f'"id": "{token}", "ids": [{new}]')
    (tmp_path / "tokenizer.json").write_text(text)
    special = {"pad_token": "<pad>", "eos_token": "<end>", "bos_token": "<start>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), model_max_length=16, **special
    )
    model = theirs(eos=418, vocab=420)
    with pytest.raises(InputError, match=r"420 tokens.*tokenizer\.json"):
        from_transformers(model)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    assert (tokens == 418).sum() == len(TEXTS)
    assert_same(from_transformers(tmp_path), model, tokens)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vision": {"pool_type": "avg"}}, "class token"),
        ({"vision": {"no_ln_pre": True}}, "class token"),
        ({"vision": {"attentional_pool": True}}, "class token"),
        ({"vision": {"act_kwargs": {"approximate": "tanh"}}, "quick_gelu": False}, "activations"),
        ({"vision": {"scale_fc": True}}, "blocks"),
        ({"text": {"pool_type": "last"}}, "end of the text"),
        ({"text": {"no_causal_mask": True}}, "not causal"),
        ({"text": {"pool_type": "eos", "eos_id": 2}}, "end of the text"),
        ({"text": {"proj_bias": True}}, "text tower"),
        ({"init_logit_bias": -10.0}, "logit bias"),
    ],
)
def test_what_transformers_cannot_say_is_refused(options, told):
    with pytest.raises(InputError, match=f"cannot be the model 'x': .*{told}"):
        to_transformers(ours(**options))


@pytest.mark.parametrize(("kind", "told"), [("timm", "TimmModel"), ("resnet", "ModifiedResNet")])
def test_other_towers_are_refused(model_folder, kind, told):
    with pytest.raises(InputError, match=f"image tower is a {told}, and must be a vision transformer"):
        to_transformers(load(f"local-dir:{model_folder(kind)}"))


def test_rounded_weights_are_refused():
    clip = from_transformers(theirs(), precision="bfloat16")
    with pytest.raises(InputError, match="rounded to bfloat16"):
        to_transformers(clip)


def test_a_tokenizer_of_ones_own_is_refused(model_folder, tmp_path):
    with pytest.raises(InputError, match="tokenizer of its own"):
        tokenizer_to_transformers(load(f"local-dir:{model_folder('vit')}"))


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine").write_text("x")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(InputError, match="name another one"):
            save_transformers(ours(), folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_transformers(ours(), folder)
    return folder


def damaged(file: Path, change) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def inside(tower: str, **changes: object):
    return lambda config: config | {tower: config[tower] | changes}


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("config.json", lambda c: [], "config.json"),
        ("config.json", lambda c: c | {"model_type": "siglip"}, "only 'clip'"),
        ("config.json", lambda c: c | {"projection_dim": "many"}, "broken|cannot be loaded"),
        ("config.json", lambda c: c | {"projection_dim": 47}, "size mismatch"),
        ("config.json", inside("vision_config", hidden_act="relu"), "relu"),
        (
            "config.json",
            inside("text_config", eos_token_id=[1]),
            "ends a text",
        ),
        (
            "config.json",
            inside("text_config", num_hidden_layers=10**9),
            "layers.3",
        ),
        (
            "config.json",
            inside("text_config", num_hidden_layers=1),
            "configuration has not, such as .*layers.1",
        ),
        ("config.json", inside("vision_config", num_attention_heads=0), "broken|cannot be loaded"),
        ("preprocessor_config.json", lambda c: c | {"size": 64}, "sees 32"),
        ("preprocessor_config.json", lambda c: c | {"resample": 0}, "cannot be followed"),
        ("preprocessor_config.json", lambda c: c | {"image_mean": [0.5]}, "image_mean"),
        ("preprocessor_config.json", lambda c: [], "cannot be followed"),
    ],
)
def test_a_broken_folder_is_told(saved, tmp_path, name, change, told):
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    damaged(folder / name, change)
    with pytest.raises(InputError, match=told) as caught:
        load(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_broken_weights_are_told(saved, tmp_path):
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    weights = folder / "model.safetensors"
    state = load_file(weights)
    state.pop("visual_projection.weight")
    save_file(state, weights)
    with pytest.raises(InputError, match=r"visual_projection\.weight"):
        from_transformers(folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        from_transformers(folder)
    weights.unlink()
    with pytest.raises(InputError, match="in one such file"):
        from_transformers(folder)


@pytest.mark.gpu
def test_a_model_on_cuda_is_carried_over():
    model = theirs()
    state = to_transformers(from_transformers(model, device="cuda", precision="bfloat16")).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)
