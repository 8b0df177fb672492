"""Models to be trained: what is saved is loaded, starts, locks, and what a user can get wrong."""

import json
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed
from torch import Tensor, nn

from guidance import InputError, load
from guidance.clip import model_folder
from guidance.clip.architecture import new_model
from guidance.clip.locking import lock
from guidance.clip.model_folder import save
from guidance.clip.objective import Objective
from guidance.clip.tokens import encode_patches, read_texts
from guidance.clip.towers import checkpoint_activations

CAPTIONS = ["a red heart", "a blue fish in the sea", "ein rotes Herz", "赤いハート", "un cœur"]
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
RESNET = {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1], "patch_size": None}
TEXT = {"context_length": 12, "width": 32, "heads": 2, "layers": 2}
OURS = TEXT | {"tower": "guidance"}


def timm(name: str, pool: str = "avg") -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": "linear", "image_size": 64}


BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 40, "vocab_size": 500, "pad_token_id": 0,
}  # fmt: skip
XLM_R = BERT | {"model_type": "xlm-roberta", "pad_token_id": 1}

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": (VIT, TEXT),
    "vit, patch dropout": (VIT | {"patch_dropout": 0.5, "pool_type": "avg"}, TEXT),
    "text apart": (VIT, TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
    "read at eos": (VIT, TEXT | {"pool_type": "eos"}),
    "resnet": (RESNET, TEXT),
    "timm's resnet": (timm("test_resnet"), TEXT),
    "timm's vit": (timm("test_vit", "token"), TEXT),
    "ours": (VIT, OURS),
    "ours, causal, learned": (VIT, OURS | {"cls": False, "rotary": False}),
    "bert": (VIT, {"hf_model_name": "bert", "context_length": 12, "hf_pooler_type": "cls_pooler"}),
    "xlm-r": (VIT, {"hf_model_name": "xlm-r", "context_length": 12}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this asked the internet")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration, and beside it those of the text towers of transformers'."""
    for name, config in (("bert", BERT), ("xlm-r", XLM_R)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))

    def write(kind: str = "vit", **changes: object) -> Path:
        vision, text = KINDS[kind]
        content = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text} | changes
        content |= {"custom_text": True} if kind in ("text apart",) else {}
        file = tmp_path / "architecture.json"
        file.write_text(json.dumps(content))
        return file

    return write


def make(file: Path, **options: Any) -> tuple[nn.Module, dict[str, Any], Any]:
    return new_model(file, captions=CAPTIONS, vocabulary=400, **options)


def stir(model: nn.Module) -> nn.Module:
    """Weights and statistics that are zero or one would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.isfinite().all():
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator))
    return model


def images(model: nn.Module, n: int = 3) -> Tensor:
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def embeddings(model: nn.Module, tokenizer: Any, seen: Tensor) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        return model.encode_image(seen, normalize=True), model.encode_text(
            tokenizer(CAPTIONS), normalize=True
        )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@kinds
def test_what_is_saved_is_loaded(kind: str, write: Callable[..., Path], tmp_path: Path) -> None:
    preprocess = {"mean": [0.0] * 3, "std": [1.0] * 3}
    file = write(kind)
    file.write_text(json.dumps({"model_cfg": json.loads(file.read_text()), "preprocess_cfg": preprocess}))
    model, config, tokenizer = make(file)
    save(tmp_path / "out", stir(model), config, tokenizer, ["red", "heart"])
    seen = images(model)
    expected = embeddings(model, tokenizer, seen)
    for other in (write(kind), *(tmp_path / name / "config.json" for name in ("bert", "xlm-r"))):
        other.unlink()  # the folder stands by itself
    clip = load(f"local-dir:{tmp_path / 'out'}")
    found = clip.encode_image(seen), clip.encode_many(CAPTIONS)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # Not all alike, so that the comparison says something.
    assert (expected[1][0] - expected[1][1]).abs().max() > 1e-3
    assert (expected[0][0] - expected[0][1]).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm's resnet", "bert"])
def test_open_clip_loads_it_too(
    kind: str, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config, tokenizer = make(write(kind))
    folder = tmp_path / "out"
    save(folder, stir(model), config, tokenizer)
    monkeypatch.chdir(folder)
    with torch.random.fork_rng():
        theirs = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
    seen = images(model)
    torch.testing.assert_close(embeddings(theirs, tokens, seen), embeddings(model, tokenizer, seen))


def test_a_saved_model_can_be_halved(write: Callable[..., Path], tmp_path: Path) -> None:
    model, config, tokenizer = make(write())
    save(tmp_path / "out", model, config, tokenizer, dtype=torch.float16)
    clip, seen = load(f"local-dir:{tmp_path / 'out'}"), images(model)
    assert 0 < (clip.encode_many(CAPTIONS) - embeddings(model, tokenizer, seen)[1]).abs().max() < 5e-3


@pytest.mark.parametrize("kind", ["vit", "ours", "bert"])
def test_weights_come_from_the_seed_alone(kind: str, write: Callable[..., Path]) -> None:
    before = torch.get_rng_state()
    one, other = (state(make(write(kind), seed=3)[0]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert any(not torch.equal(one[k], v) for k, v in state(make(write(kind), seed=4)[0]).items())


def test_an_architecture_by_name_with_its_own_tokenizer() -> None:
    model, config, tokenizer = new_model("ViT-S-32-alt", image_size=64)
    reference = open_clip.get_model_config("ViT-S-32-alt")
    assert config["model_cfg"]["vision_cfg"] == reference["vision_cfg"] | {"image_size": 64}
    assert model.visual.conv1.weight.shape[0] == reference["vision_cfg"]["width"]
    assert model.visual.grid_size == (64 // reference["vision_cfg"]["patch_size"],) * 2
    expected = open_clip.get_tokenizer("ViT-S-32-alt")(CAPTIONS)
    assert torch.equal(tokenizer(CAPTIONS), expected)


def test_siglip_starts_where_its_paper_does(write: Callable[..., Path], tmp_path: Path) -> None:
    model, config, tokenizer = make(write(), siglip=True)
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.item() == pytest.approx(-10)
    save(tmp_path / "out", model, config, tokenizer)
    again = new_model(None, start=str(tmp_path / "out"), siglip=True)[0]
    assert again.logit_bias.item() == pytest.approx(-10)


def started(write: Callable[..., Path], tmp_path: Path, kind: str = "vit", **changes: object) -> tuple:
    model, config, tokenizer = make(write(kind, **changes))
    save(tmp_path / "out", stir(model), config, tokenizer)
    return model, tokenizer, str(tmp_path / "out")


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm's vit", "ours", "xlm-r"])
def test_a_start_is_the_model_that_it_starts_from(
    kind: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    model, tokenizer, folder = started(write, tmp_path, kind)
    again, config, tokens = new_model(None, start=folder)
    torch.testing.assert_close(state(again), state(model), rtol=0, atol=0)
    assert torch.equal(tokens(CAPTIONS), tokenizer(CAPTIONS))
    assert all(parameter.requires_grad for parameter in again.parameters())
    save(tmp_path / "next", again, config, tokens)
    old, new = load(f"local-dir:{folder}"), load(f"local-dir:{tmp_path / 'next'}")
    assert new.fingerprint == old.fingerprint
    assert torch.equal(new.encode_many(CAPTIONS), old.encode_many(CAPTIONS))


def test_a_start_of_another_image_size_has_its_positions_resized(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    model, _, folder = started(write, tmp_path)
    larger, config, _ = new_model(None, start=folder, image_size=48)
    expected = state(model)
    resize_pos_embed(expected, larger)
    assert expected["visual.positional_embedding"].shape == (37, 32)
    torch.testing.assert_close(state(larger), expected, rtol=0, atol=0)
    assert config["preprocess_cfg"]["size"] in (48, (48, 48))


@pytest.mark.parametrize("take", ["image", "text"])
def test_one_tower_of_a_start(take: str, write: Callable[..., Path], tmp_path: Path) -> None:
    model, tokenizer, folder = started(write, tmp_path)
    options = {"captions": ["something else"], "vocabulary": 300} if take == "image" else {}
    other, _, tokens = new_model(write(), start=folder, take=take, seed=5, **options)
    old, new = state(model), state(other)
    visual = {name for name in old if name.startswith("visual.")}
    text = {name for name in old if name not in visual and not name.startswith("logit")}
    taken, fresh = (visual, text) if take == "image" else (text, visual)
    assert all(torch.equal(old[name], new[name]) for name in taken)
    assert not any(old[n].shape == new[n].shape and torch.equal(old[n], new[n]) for n in fresh)
    assert torch.equal(tokens(CAPTIONS), tokenizer(CAPTIONS)) == (take == "text")


def test_a_text_tower_begins_with_its_folders_weights(write: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    write()
    theirs = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path / "bert"), add_pooling_layer=False)
    theirs.save_pretrained(tmp_path / "bert")
    _, _, tokenizer = make(write())
    tokenizer.save(tmp_path / "bert")
    model, config, tokens = new_model(write(), text_tower=str(tmp_path / "bert"))
    found = model.text.transformer.state_dict()
    torch.testing.assert_close(dict(found), dict(theirs.state_dict()), rtol=0, atol=0)
    assert torch.equal(tokens(CAPTIONS)[:, :12], tokenizer(CAPTIONS))
    save(tmp_path / "out", model, config, tokens)
    expected = embeddings(model, tokens, images(model))[1]
    found = load(f"local-dir:{tmp_path / 'out'}").encode_many(CAPTIONS)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@kinds
def test_tokens_and_patches_belong_to_what_the_model_says(kind: str, write: Callable[..., Path]) -> None:
    model, _, tokenizer = make(write(kind))
    stir(model).eval()
    seen, tokens = images(model), tokenizer(CAPTIONS)
    pooled, patches = encode_patches(model, seen)
    torch.testing.assert_close(pooled, model.encode_image(seen))
    assert patches.shape[::2] == pooled.shape
    reader = read_texts(model, int(tokenizer([""])[0, -1]))
    present = reader.present(tokens)
    pooled, hidden = reader.encode(tokens, present)
    torch.testing.assert_close(pooled, model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert present.sum(1).tolist() == (tokens != tokens[0, -1]).sum(1).tolist()
    assert reader.project(hidden).shape == (5, hidden.shape[1], 16)
    assert (hidden.shape[2], 16) == (reader.width, reader.embed_dim)


@pytest.mark.parametrize("kind", ["vit, patch dropout", "resnet", "timm's resnet"])
def test_an_image_is_the_mean_of_its_patches(kind: str, write: Callable[..., Path]) -> None:
    model, _, _ = make(write(kind))
    stir(model).eval()
    if kind == "resnet":  # attention that looks nowhere looks everywhere alike
        pool = model.visual.attnpool
        for tensor in (pool.q_proj.weight, pool.q_proj.bias, pool.positional_embedding):
            nn.init.zeros_(tensor)
    pooled, patches = encode_patches(model, images(model))
    torch.testing.assert_close(patches.mean(1), pooled)
    assert patches.std(1).max() > 1e-4


@pytest.mark.parametrize("kind", ["vit", "read at eos", "ours", "ours, causal, learned", "bert"])
def test_a_text_is_the_projection_of_a_token(kind: str, write: Callable[..., Path]) -> None:
    model, _, tokenizer = make(write(kind))
    stir(model).eval()
    reader, tokens = read_texts(model, 0), tokenizer(CAPTIONS)
    present = reader.present(tokens)
    pooled, hidden = reader.encode(tokens, present)
    last = reader.project(hidden)[torch.arange(5), present.sum(1) - 1]
    assert torch.allclose(last, pooled, atol=1e-5) == (kind not in ("ours", "bert"))
    # A longer text beside it changes nothing.
    alone, _ = reader.encode(tokens[:1], present[:1])
    torch.testing.assert_close(alone, pooled[:1], atol=1e-5, rtol=1e-5)


@kinds
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_locked_tower_is_left_alone(kind: str, tower: str, write: Callable[..., Path]) -> None:
    model, _, tokenizer = make(write(kind))
    lock(stir(model), tower)
    objective = Objective(model, tokenizer).train()
    before = state(model)
    encoded = objective(images(model)[None], tokenizer(CAPTIONS[:3])[None])
    loss, _ = objective.loss(encoded)
    loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    image = {name for name, _ in model.named_parameters() if name.startswith("visual.")}
    text = {name for name, _ in model.named_parameters() if name not in image} - {"logit_scale"}
    assert "logit_scale" in moved
    assert not moved & (image if tower == "image" else text)
    unused = {"text.transformer.pooler.dense.weight", "text.transformer.pooler.dense.bias"}
    assert (text if tower == "image" else image) - moved <= unused
    visual = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("visual.")}
    still = all(torch.equal(before[name], tensor) for name, tensor in visual.items())
    assert still == (tower == "image" or "resnet" not in kind)  # the statistics of batch norm


@pytest.mark.parametrize("unlocked", [0, 1, 2, 3, 4])
def test_groups_are_those_of_open_clip(unlocked: int, write: Callable[..., Path]) -> None:
    ours, theirs = make(write())[0], make(write())[0]
    for tower in ("image", "text"):
        lock(ours, tower, unlocked)
    theirs.lock_image_tower(unlocked)
    theirs.lock_text_tower(unlocked)
    open_ = [{n for n, p in model.named_parameters() if p.requires_grad} for model in (ours, theirs)]
    assert open_[0] == open_[1]


@pytest.mark.parametrize(
    ("kind", "tower", "unlocked", "count", "first"),
    [
        ("resnet", "image", 2, 6, "layer4"),
        ("timm's resnet", "image", 1, 6, "head"),
        ("bert", "text", 2, 4, "transformer.encoder.layer.1"),
        ("xlm-r", "text", 1, 4, "proj"),
        ("ours", "text", 2, 4, "blocks.1"),
    ],
)
def test_groups_of_other_towers(
    kind: str, tower: str, unlocked: int, count: int, first: str, write: Callable[..., Path]
) -> None:
    model = make(write(kind))[0]
    part = model.visual if tower == "image" else model.text
    with pytest.raises(InputError, match=f"the {tower} tower has {count} groups of layers"):
        lock(model, tower, 99)
    lock(model, tower, unlocked)
    open_ = [name for name, p in part.named_parameters() if p.requires_grad]
    assert open_
    assert all(
        parameter.requires_grad for name, parameter in part.named_parameters() if name.startswith(first)
    )
    assert len(open_) < len(list(part.parameters()))
    lock(model, tower)
    assert not any(parameter.requires_grad for parameter in part.parameters())


def test_a_partly_locked_tower_learns_no_statistics_where_it_is_locked(write: Callable[..., Path]) -> None:
    model, _, tokenizer = make(write("resnet"))
    lock(model, "image", 2)
    objective = Objective(model, tokenizer).train()
    before = state(model)
    objective(images(model)[None], tokenizer(CAPTIONS[:3])[None])
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert {name.split(".")[1] for name in moved} == {"layer4"}


def test_patches_are_dropped_in_training_only(write: Callable[..., Path]) -> None:
    model, _, _ = make(write(), patch_dropout=0.75)
    assert encode_patches(model.train(), images(model))[1].shape[1] == 4
    assert encode_patches(model.eval(), images(model))[1].shape[1] == 16
    with pytest.raises(InputError, match="patch_dropout must be"):
        make(write(), patch_dropout=1.0)
    with pytest.raises(InputError, match="no patches to drop"):
        make(write("resnet"), patch_dropout=0.5)


@pytest.mark.parametrize("kind", ["vit", "timm's resnet", "timm's vit", "ours", "bert"])
def test_checkpointed_activations_have_the_same_gradients(kind: str, write: Callable[..., Path]) -> None:
    found: list[dict[str, Tensor]] = []
    kept: list[int] = []
    for checkpointed in (False, True):
        model, _, tokenizer = make(write(kind))
        stir(model)
        if checkpointed:
            checkpoint_activations(model)
        count = 0

        def count_up(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.random.fork_rng():
            torch.manual_seed(0)  # dropout
            with torch.autograd.graph.saved_tensors_hooks(count_up, lambda tensor: tensor):
                u, v = model.encode_image(images(model)), model.encode_text(tokenizer(CAPTIONS[:3]))
            kept.append(count)
            (u * v).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert kept[1] < 0.7 * kept[0]


def test_a_full_disk_is_told_as_the_system_tells_it(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "replacing", lambda path: nullcontext(Path("/dev/full")))
    with pytest.raises(OSError, match="No space left"):
        model_folder.write_weights(tmp_path, make(write())[0], torch.float32)


def test_a_tower_that_cannot_checkpoint_is_told(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="cannot checkpoint activations"):
        checkpoint_activations(make(write("resnet"))[0])


def told(*options: Any, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        new_model(*options, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 450
    return message


def test_mistakes_are_told(write: Callable[..., Path], tmp_path: Path) -> None:
    assert "did you mean ViT-B-32" in told("ViT-B-23")
    assert "no architecture 'zzzz'; a JSON file" in told("zzzz")
    assert "give one" in told(None)
    assert "without a start" in told(write(), take="image")
    assert "needs the text tower 'xlm-roberta-base' from the internet" in told(
        "xlm-roberta-base-ViT-B-32", captions=CAPTIONS
    )
    assert "needs the tokenizer 'timm/ViT-B-16-SigLIP' from the internet" in told("ViT-B-16-SigLIP")
    assert "is a CoCa" in told("coca_ViT-B-32")
    assert "did you mean test_resnet" in told(write(vision_cfg=timm("test_resnett")), captions=CAPTIONS)
    assert "no_such_option" in told(write(vision_cfg=VIT | {"no_such_option": 1}), captions=CAPTIONS)
    assert "width must be an even number" in told(
        write("ours", text_cfg=OURS | {"width": 33}), captions=CAPTIONS
    )
    assert "vocab_size must be more than" in told(write(text_cfg=TEXT | {"vocab_size": 100}))
    assert "cannot be made" in told(
        write("bert", text_cfg={"hf_model_name": "bert", "context_length": 60}), captions=["a " * 200]
    )
    for text in ("", "{", "[]", '{"embed_dim": 3}', '{"embed_dim": 3, "vision_cfg": 4, "text_cfg": 5}'):
        file = tmp_path / "broken.json"
        file.write_text(text)
        assert "is not an open_clip configuration" in told(file)


def test_starts_that_do_not_fit_are_told(write: Callable[..., Path], tmp_path: Path) -> None:
    _, _, folder = started(write, tmp_path)
    assert "trained with GELU, the architecture has QuickGELU" in told(write(quick_gelu=True), start=folder)
    assert "vision_cfg has head_width 16 and the architecture 8" in told(
        write(vision_cfg=VIT | {"head_width": 8}), start=folder, take="image", captions=CAPTIONS
    )
    assert "text_cfg has" in told(write("ours"), start=folder)
    assert 'give take="image"' in told(None, start=folder, captions=CAPTIONS)
    assert "unknown model" in told(None, start=str(tmp_path / "nothing"))
    (tmp_path / "out" / "open_clip_config.json").rename(tmp_path / "out" / "config.json")
    assert "transformers' format" in told(None, start=folder)


def test_code_in_a_text_tower_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write("bert")
    harm = BERT | {"auto_map": {"AutoConfig": "harm.Harm"}}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(harm))
    assert "code of its own" in told(file, captions=CAPTIONS)
