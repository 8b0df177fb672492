"""The page for people who come from OpenAI's package runs as it is written, with a small model."""

import re
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg

import guidance as g
from guidance.clip import Clip, names
from guidance.clip.zero_shot import zero_shot

PAGE = Path(__file__).parents[1] / "docs" / "from-openai-clip.md"


@pytest.fixture
def openais_form(monkeypatch: pytest.MonkeyPatch) -> Clip:
    """A small model of the form of ViT-B/32, which `load` gives for that name."""
    with torch.random.fork_rng():
        vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
        model = open_clip.CLIP(24, vision, {"width": 32, "heads": 2, "layers": 1}, quick_gelu=True)
    set_model_preprocess_cfg(model, vars(PreprocessCfg(size=32)))
    tokenizer = open_clip.SimpleTokenizer()
    clip = Clip(model, tokenizer, name="ViT-B/32", embed_dim=24, device=torch.device("cpu"))
    load: Callable = g.load
    monkeypatch.setattr(g, "load", lambda name, **more: clip if name == "ViT-B/32" else load(name, **more))
    return clip


def test_the_page_runs(openais_form: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for name in ("cat.png", "pictures/a.png", "pictures/b.png"):
        g.write_png(Path(name), torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0)))
    blocks = re.findall(r"<!-- test.*?-->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    scope: dict = {}
    exec(blocks[0], scope)
    chances = zero_shot(openais_form, scope["image"], ["a cat", "a dog"])
    torch.testing.assert_close(scope["probabilities"], chances)  # two ways to say the same
    for block in blocks[1:]:
        exec(block, scope)
    assert scope["zeroshot_weights"].shape == (24, 2)
    assert scope["features"].shape == (2, 24)
    assert scope["places"].shape == (1, 24, 2, 2)
    expected = openais_form.encode_image(scope["image"])
    torch.testing.assert_close(scope["ours"].encode_image(scope["image"]), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(scope["embeddings"], expected)


def test_what_the_page_names_is_there(openais_form: Clip) -> None:
    cells = [line.split("|")[2] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    attributes = re.findall(r"`model\.(\w+)", " ".join(cells))
    assert len(attributes) == 5
    for attribute in attributes:
        assert getattr(openais_form, attribute) is not None
    assert {"ViT-B/32", "RN50"} <= set(names.known())
