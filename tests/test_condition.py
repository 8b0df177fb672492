"""`guidance condition` as its users meet it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from guidance import cli
from guidance.clip import load
from guidance.diffusion.conditioning import load_condition
from guidance.diffusion.from_clip import text_encoder
from guidance.diffusion.text_encoders import TextEncoders
from guidance.diffusion.text_loading import load_text_encoders
from guidance.errors import InputError


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]):
    """Runs the command with the embedded CLIP's text tower; returns its status and what it printed."""

    def call(*tokens: object) -> tuple[int, str, str]:
        status = cli.main(["condition", *map(str, tokens)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def parts() -> tuple[CLIPTextModel, PreTrainedTokenizerBase]:
    return text_encoder(load("tiny"))


@pytest.fixture(scope="module")
def encoders(parts: tuple[CLIPTextModel, PreTrainedTokenizerBase]) -> TextEncoders:
    return TextEncoders([parts[0]], [parts[1]])


@pytest.fixture(scope="module")
def pipeline(parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text encoder of the embedded CLIP in the folder of a pipeline, as diffusers writes one."""
    folder = tmp_path_factory.mktemp("pipeline")
    parts[0].save_pretrained(folder / "text_encoder")
    parts[1].save_pretrained(folder / "tokenizer")
    index = {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIPTextModel"]}
    index["tokenizer"] = ["transformers", type(parts[1]).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_table_of_tokens_and_a_file(say, encoders, tmp_path):
    file = tmp_path / "fox.safetensors"
    status, out, _ = say(
        "a (red:1.3) heart BREAK [sun]", "--dialect", "a1111", "--clip", "tiny", "--save", file
    )
    assert status == 0
    assert [line.split() for line in out.splitlines() if line[:1].isdigit()][:4] == [
        ["1", "a", "1"],
        ["1", "red", "1.3"],
        ["1", "heart", "1"],
        ["2", "sun", "0.9091"],
    ]
    assert "2 × 32 tokens, 128 numbers each" in out
    expected = encoders.encode("a (red:1.3) heart BREAK [sun]", dialect="a1111")
    assert torch.equal(load_condition(file).hidden, expected.hidden)


def test_prompts_that_change_say_when(say, encoders, tmp_path):
    file = tmp_path / "fox.safetensors"
    story = ("red => blue", "--clip", "tiny", "--steps", 4)
    _, out, _ = say(*story, "--save", file, "--at", 0.75)
    assert [line.split() for line in out.splitlines()[1:3]] == [
        ["1-3", "1", "red", "1"],
        ["3-4", "1", "blue", "1"],
    ]
    assert torch.equal(load_condition(file).hidden, encoders.encode("blue").hidden)
    told = json.loads(say(*story, "--json")[1])
    assert [text["steps"] for text in told["texts"]] == [[1, 2, 3], [3, 4]]


def test_what_is_cut_off_is_told_once(say):
    _, out, err = say("word " * 40, "--clip", "tiny")
    assert out.count("cut off: word word") == 1
    assert not err
    assert "cut off" not in say("word " * 40, "--clip", "tiny", "--long")[1]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["a (b", "--dialect", "comfy"], "bracket ( at character 3"),
        (["a", "--save", "fox.npy"], "saved as .safetensors, got 'fox.npy'"),
        (["a", "--at", "2"], "at must be from 0 to 1, got 2"),
        (["a", "--steps", "0"], "steps must be at least 1"),
        (["a", "--clip", "tiny", "--clip-skip", "3"], "clip_skip must leave one of the 3 layers"),
        (["a", "--model", "local-dir:"], "unknown pipeline 'local-dir:'"),
        (["\udcff"], "a prompt must be Unicode"),
        (["a", "--model", "tinny"], "unknown pipeline 'tinny'"),
        (["a", "--model", "local-dir:nowhere"], "'local-dir:nowhere' cannot be loaded"),
    ],
)
def test_mistakes_are_one_line(say, tokens, said):
    status, out, err = say(*tokens)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_the_text_encoder_of_a_pipeline(say, encoders, pipeline):
    status, out, _ = say("a red heart", "--model", f"local-dir:{pipeline}", "--json")
    assert status == 0
    assert [token["text"] for token in json.loads(out)["texts"][0]["tokens"]] == ["a", "red", "heart"]
    theirs = load_text_encoders(f"local-dir:{pipeline}").encode("a red heart")
    assert torch.equal(theirs.hidden, encoders.encode("a red heart").hidden)


def test_the_embedded_pipeline(say):
    assert say("a red heart")[0] == 0


def test_broken_pipelines(pipeline, tmp_path):
    def broken(file: str, content: bytes | None) -> str:
        folder = tmp_path / file.replace("/", "-")
        shutil.copytree(pipeline, folder)
        (folder / file).unlink()
        if content is not None:
            (folder / file).write_bytes(content)
        return f"local-dir:{folder}"

    config = json.loads((pipeline / "text_encoder" / "config.json").read_text())
    huge = json.dumps(config | {"num_hidden_layers": 10**9}).encode()
    cases = {
        broken("model_index.json", b'{"_class_name": "x"}'): "has no text encoder",
        broken("text_encoder/config.json", huge): "has num_hidden_layers 1000000000",
        broken("text_encoder/model.safetensors", b"\x80\x04pickle"): "cannot be loaded",
        broken("tokenizer/tokenizer.json", b"{"): "cannot be loaded",
    }
    for name, said in cases.items():
        with pytest.raises(InputError, match=said) as error:
            load_text_encoders(name)
        assert len(str(error.value).splitlines()) == 1
