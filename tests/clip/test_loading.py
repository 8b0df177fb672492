"""Names, bad folders, bad weights, no network."""

import inspect
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from guidance.clip import load, names
from guidance.clip.names import Folder, Hub, Pretrained, resolve
from guidance.errors import InputError


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A copy of a good model, to be broken."""
    return shutil.copytree(model_folder("vit"), tmp_path / "model")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise OSError("no network in this test")

    for function in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, function, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def change_config(folder: Path, section: str, **changes: object) -> None:
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][section] |= changes
    file.write_text(json.dumps(config))


def complaint(name: str, **options: str) -> str:
    """What `load` says, which is one line of bearable length."""
    with pytest.raises(InputError) as caught:
        load(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ViT-B/32", Pretrained("ViT-B-32-quickgelu", "openai")),
        ("RN50", Pretrained("RN50-quickgelu", "openai")),
        ("ViT-L/14@336px", Pretrained("ViT-L-14-336-quickgelu", "openai")),
        ("ViT-B-32/laion2b_s34b_b79k", Pretrained("ViT-B-32", "laion2b_s34b_b79k")),
        ("ViT-H-14-quickgelu/dfn5b", Pretrained("ViT-H-14-quickgelu", "dfn5b")),
        ("hf-hub:org/name", Hub("org/name")),
        ("local-dir:a/b", Folder(Path("a/b"))),
        ("tiny", Folder(names.MODELS / "tiny")),
    ],
)
def test_names(name, source):
    assert resolve(name) == source


def test_open_clip_has_all_that_we_name():
    import open_clip

    for name in names.known():
        if isinstance(source := resolve(name), Pretrained):
            assert open_clip.is_pretrained_cfg(source.architecture, source.tag)
            assert source.architecture in open_clip.list_models()
    assert len(names.known()) > 100


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit-b/32", "did you mean ViT-B/32"),
        ("ViT-B-32/laion2b", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-B-32", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-B-32/openai", "use ViT-B-32-quickgelu/openai"),
        ("ViT-B-32-quickgelu/laion2b_s34b_b79k", "use ViT-B-32/laion2b_s34b_b79k"),
        ("zzz", "unknown model 'zzz'; use tiny"),
        ("", "unknown model ''"),
        ("hf-hub:name", "hf-hub:ORGANISATION/NAME"),
        ("local-dir:/no/such/folder", "no model folder /no/such/folder"),
        ("x" * 300, "unknown model"),
        ("local-dir:" + "x" * 300, "no model folder"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_one(name, told):
    assert told in complaint(name)


def test_a_wrong_device_or_precision_is_told(folder):
    assert "unknown device 'gpu'" in complaint(f"local-dir:{folder}", device="gpu")
    for name in ("meta", "hpu", "privateuseone"):
        assert f"device '{name}' is not usable here" in complaint(f"local-dir:{folder}", device=name)
    with pytest.raises(InputError, match="got 'float16'"):
        inspect.unwrap(load)(precision="float16")  # without the tests' own check of types


@pytest.mark.parametrize("name", ["ViT-B/32", "hf-hub:org/name"])
def test_a_failed_download_is_told(name, no_network, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits between its attempts
    message = complaint(name)
    assert f"could not download the model {name!r}" in message
    assert "tiny, which needs none" in message


def test_missing_parts_are_told(folder):
    name = f"local-dir:{folder}"
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    assert "no tokenizer.json" in complaint(name)
    (folder / "open_clip_model.safetensors").unlink()
    assert "no weights" in complaint(name)
    (folder / "open_clip_config.json").unlink()
    assert "no open_clip_config.json" in complaint(name)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_cfg": {"text_cfg": {}}}', '{"model_cfg": 3}'])
def test_a_broken_configuration_is_told(folder, text):
    (folder / "open_clip_config.json").write_text(text)
    assert "open_clip_config.json is not" in complaint(f"local-dir:{folder}")


@pytest.mark.parametrize(
    "changes",
    [{"text_cfg": []}, {"text_cfg": "x"}, {"vision_cfg": [1]}],
)
def test_a_configuration_of_other_types_is_told(folder, changes):
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"] |= changes
    file.write_text(json.dumps(config))
    assert "open_clip_config.json is not" in complaint(f"local-dir:{folder}")


@pytest.mark.parametrize(
    "preprocess",
    [
        [1],
        {"mean": "x"},
        {"mean": [0.5]},
        {"std": ["a", "b", "c"]},
        {"size": "x"},
        {"size": [32, 0]},
        {"fill_color": "white"},
        {"interpolation": "wild"},
        {"resize_mode": 3},
    ],
)
def test_broken_preprocessing_is_told(folder, preprocess):
    file = folder / "open_clip_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"preprocess_cfg": preprocess}))
    assert "open_clip_config.json is not" in complaint(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, content)
            for name in ("words.txt.gz", "tokenizer_config.json")
            for content in (b"[]", b"\x1f\x8b")
        ),
        *((name, b"\xff") for name in ("words.txt.gz", "words.txt", "tokenizer_config.json")),
    ],
)
def test_other_broken_files_are_told(folder, name, content):
    (folder / "words.txt.gz").unlink()
    (folder / name).write_bytes(content)
    assert f"{folder / name} " in complaint(f"local-dir:{folder}")


def test_cut_words_are_told(folder):
    words = folder / "words.txt.gz"
    words.write_bytes(words.read_bytes()[:-12])
    assert f"{words} cannot be read" in complaint(f"local-dir:{folder}")


def test_an_unreadable_configuration_is_told(folder):
    (folder / "open_clip_config.json").unlink()
    (folder / "open_clip_config.json").mkdir()  # root may read every file
    assert "open_clip_config.json is not" in complaint(f"local-dir:{folder}")


def test_a_configuration_that_describes_nothing_is_told(folder):
    change_config(folder, "vision_cfg", no_such_option=1)
    assert "no_such_option" in complaint(f"local-dir:{folder}")
    shutil.rmtree(folder)


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_truncated_weights_are_told(folder, keep):
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "cannot be loaded" in complaint(f"local-dir:{folder}")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half an archive"])
def test_broken_pytorch_weights_are_told(folder, content):
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(content)
    assert "cannot be loaded" in complaint(f"local-dir:{folder}")


def test_weights_that_would_run_code_are_refused(folder):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (folder / "harm",))

    weights = folder / "open_clip_model.safetensors"
    torch.save({"state_dict": load_file(weights), "more": Harm()}, folder / "open_clip_pytorch_model.bin")
    weights.unlink()
    assert "cannot be loaded" in complaint(f"local-dir:{folder}")
    assert not (folder / "harm").exists()


def test_weights_of_other_shapes_or_names_are_told(folder):
    weights = folder / "open_clip_model.safetensors"
    state = load_file(weights)
    save_file(state | {"visual.proj": torch.zeros(3, 3)}, weights)
    assert "size mismatch for visual.proj" in complaint(f"local-dir:{folder}")
    del state["visual.proj"]
    save_file(state, weights)
    assert "visual.proj" in complaint(f"local-dir:{folder}")


def test_pytorch_weights_load_like_safetensors(folder, model_folder):
    weights = folder / "open_clip_model.safetensors"
    torch.save(load_file(weights), folder / "open_clip_pytorch_model.bin")
    weights.unlink()
    images = torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    expected = load(f"local-dir:{model_folder('vit')}").encode_image(images)
    torch.testing.assert_close(load(f"local-dir:{folder}").encode_image(images), expected)


def test_a_folder_that_needs_the_internet_is_told(folder):
    change_config(folder, "text_cfg", hf_model_name="org/text-model")
    assert "needs 'org/text-model' from the internet" in complaint(f"local-dir:{folder}")


def test_loading_leaves_the_global_generator_alone(model_folder):
    before = torch.get_rng_state()
    load(f"local-dir:{model_folder('vit')}")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_never_touches_the_network(model_folder):
    """A fresh process in which every connection ends it; `tiny` is loaded by the same way."""
    program = f"""
import os, socket
def stop(*_, **__):
    os._exit(7)
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = stop
from guidance.clip import load
for folder in {[str(model_folder("vit")), str(model_folder("timm"))]}:
    load(f"local-dir:{{folder}}").encode_text(["a red heart"])
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
