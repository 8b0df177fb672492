"""Pipelines by name: what diffusers writes is read; what is missing or does not fit is told in one line."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import original_layout
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from small_pipelines import diffusers_pipeline, edit, write

from guidance.clock import Clock
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.pipeline import load_pipeline
from guidance.diffusion.shards import check_shards
from guidance.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture(scope="module")
def made_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pipelines") / "xl", xl=True)


@pytest.mark.parametrize("xl", [False, True])
def test_a_folder_is_read(xl: bool, made: Path, made_xl: Path) -> None:
    pipeline = load_pipeline(f"local-dir:{made_xl if xl else made}")
    theirs = diffusers_pipeline(xl)
    assert all(
        torch.equal(ours, expected)
        for ours, expected in zip(pipeline.unet.parameters(), theirs.unet.parameters(), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())
    assert (pipeline.size, pipeline.vae.factor, pipeline.trained.kind) == (16, 2, "epsilon")
    latents = Clock().normal("latents", 1, (4, 8, 8))
    with torch.no_grad():
        expected = theirs.vae.decode(latents / 0.5).sample.clamp(-1, 1) / 2 + 0.5
        torch.testing.assert_close(pipeline.vae.decode(latents), expected)
        ids = theirs.tokenizer(
            "a red heart", padding="max_length", max_length=12, return_tensors="pt"
        ).input_ids
        rows = theirs.text_encoder(ids, output_hidden_states=True)
        row = rows.hidden_states[-2] if xl else rows.last_hidden_state
    torch.testing.assert_close(pipeline.text.encode("a red heart").hidden[..., : row.shape[-1]], row)


def test_no_bar_is_shown_for_what_takes_a_second(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_pipeline(f"local-dir:{made}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("negative", ["", "a cat"])
@pytest.mark.parametrize("flag", [True, False, None])
def test_no_prompt_is_zeros_where_diffusers_has_zeros(
    flag: bool | None, negative: str, made_xl: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made_xl, tmp_path / "copy"))
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=flag)
    if flag is None:
        index = json.loads((folder / "model_index.json").read_text())
        del index["force_zeros_for_empty_prompt"]
        (folder / "model_index.json").write_text(json.dumps(index))
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    said, unsaid, _, whole = theirs.encode_prompt(
        "a red heart", device="cpu", negative_prompt=negative or None
    )
    pipeline = load_pipeline(f"local-dir:{folder}")
    ours, wanted = pipeline.text.encode_negative(negative), pipeline.text.encode("a red heart")
    torch.testing.assert_close(wanted.hidden, said)
    torch.testing.assert_close(ours.hidden, unsaid)
    torch.testing.assert_close(ours.pooled, whole)
    assert ours.hidden.any() == (negative != "" or flag is False)
    if not negative:
        x = pipeline.noise(Clock(), 1, (16, 16))
        assert torch.equal(denoiser(pipeline, wanted)(x, 1.0), denoiser(pipeline, wanted, ours)(x, 1.0))
    long = pipeline.text.encode(", ".join(["a red heart"] * 8), long=True)
    assert pipeline.text.match(ours, long)[0].hidden[:, 12:].any() == ours.hidden.any()


def test_no_prompt_is_the_empty_one_of_stable_diffusion_1(made: Path) -> None:
    pipeline = load_pipeline(f"local-dir:{made}")
    assert torch.equal(pipeline.text.encode_negative("").hidden, pipeline.text.encode("").hidden)


@pytest.mark.parametrize(
    ("precision", "dtype", "vae"),
    [("bfloat16", torch.bfloat16, torch.bfloat16), ("float16", torch.float16, torch.float32)],
)
def test_precisions(precision: str, dtype: torch.dtype, vae: torch.dtype, made: Path) -> None:
    pipeline = load_pipeline(f"local-dir:{made}", precision=precision, slicing=True, tiling=True)
    assert pipeline.unet.dtype == dtype
    assert next(pipeline.vae._model.parameters()).dtype == vae
    assert pipeline.vae._model.use_slicing
    assert pipeline.vae._model.use_tiling


def test_noise_is_of_each_member(made: Path) -> None:
    pipeline = load_pipeline(f"local-dir:{made}")
    both = pipeline.noise(Clock(seed=3), 2, (16, 24))
    assert both.shape == (2, 4, 8, 12)
    assert torch.equal(both[1:], pipeline.noise(Clock(seed=4), 1, (16, 24)))
    with pytest.raises(InputError, match=r"multiples of 4 pixels .* got 16 × 18"):
        pipeline.noise(Clock(), 1, (16, 18))


def without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def lacking(part: str, file: str, name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / part / file)
        del tensors[next(key for key in tensors if key.endswith(name))]
        save_file(tensors, folder / part / file, {"format": "pt"})

    return damage


def pickled(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


DENOISER, AUTOENCODER, TEXT = (
    ("unet", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
    ("text_encoder", "model"),
)


def sharded(part: tuple[str, str], shard: str) -> Callable[[Path], None]:
    """The weights in a file of another name, a pickle unless it is named .safetensors, and an index of it."""

    def damage(folder: Path) -> None:
        path = folder / part[0] / f"{part[1]}.safetensors"
        tensors = load_file(path)
        path.unlink()
        if shard.endswith(".safetensors"):
            save_file(tensors, path.parent / shard, {"format": "pt"})
        else:
            torch.save(tensors, path.parent / shard)
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
        path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))

    return damage


@pytest.mark.parametrize("part", [DENOISER, AUTOENCODER, TEXT])
def test_weights_in_several_files_are_read(part: tuple[str, str], made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    sharded(part, "first.safetensors")(folder)
    load_pipeline(f"local-dir:{folder}")


def test_an_index_on_the_hub_is_read_before_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "index.json"
    file.write_text(json.dumps({"weight_map": {"weight": "w.bin"}}))
    asked = []

    def download(place: str, name: str, subfolder: str | None) -> str:
        asked.append((place, subfolder, name))
        if not file.exists():
            raise LocalEntryNotFoundError("none")
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(InputError, match=r"index.json of org/name names 'w\.bin'"):
        check_shards("org/name", *DENOISER, local=False)
    assert asked == [("org/name", "unet", "diffusion_pytorch_model.safetensors.index.json")]
    file.unlink()
    check_shards("org/name", *DENOISER, local=False)
    assert len(asked) == 2


def told(part: str, **changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / part, **changes)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("text_encoder"), "cannot be loaded"),
        (without("unet"), "cannot be loaded"),
        (without("tokenizer"), "cannot be loaded"),
        (pickled, "cannot be loaded"),
        (lambda folder: (folder / "model_index.json").unlink(), "model_index.json is missing"),
        (told("model_index.json", text_encoder=[None, None]), "has no text_encoder"),
        (told("model_index.json", _class_name="FluxPipeline"), "is a FluxPipeline; take a Stable Diffusion"),
        (
            told("model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
            "must be a CLIPTextModel",
        ),
        (told("model_index.json", scheduler=["os", "system"]), "scheduler .* is system"),
        (told("scheduler/scheduler_config.json", prediction_type="colour"), "predicts 'colour'"),
        (told("scheduler/scheduler_config.json", num_train_timesteps=10**9), "has 1000000000 times"),
        (told("unet/config.json", layers_per_block=10**6), "8 levels or 32 layers"),
        (told("unet/config.json", transformer_layers_per_block=[1, [10**6]]), "8 levels or 32 layers"),
        (told("unet/config.json", sample_size=None), "sample_size None"),
        (told("unet/config.json", quantization_config={"load_in_4bit": True}), "is quantised"),
        (told("text_encoder/config.json", attn_implementation="org/kernel"), "asks for the attn_impl"),
        (told("text_encoder/config.json", quantization_config={"bits": 4}), "asks for the quantization"),
        (told("text_encoder/config.json", text_config={"hidden_size": 10**6}), "has hidden_size 1000000"),
        (told("text_encoder/config.json", transformers_weights="w.bin"), "asks for the transformers_weights"),
        *((sharded(part, "w.bin"), "names 'w.bin'") for part in (DENOISER, AUTOENCODER, TEXT)),
        *((sharded(part, "../w.safetensors"), r"names '\.\./w") for part in (DENOISER, AUTOENCODER, TEXT)),
        (told("unet/config.json", class_embed_type="timestep"), "lacks the weights class_embedding"),
        (
            lacking("text_encoder", "model.safetensors", "final_layer_norm.weight"),
            "lacks the weights",
        ),
        (lacking("unet", "diffusion_pytorch_model.safetensors", "conv_in.weight"), "lacks|cannot be loaded"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be loaded"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    damage: Callable[[Path], None], words: str, made: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(InputError, match=words) as told:
        load_pipeline(f"local-dir:{folder}")
    assert "\n" not in str(told.value)


def test_parts_that_were_not_trained_together(made: Path, made_xl: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    shutil.rmtree(folder / "unet")
    shutil.copytree(made_xl / "unet", folder / "unet")
    with pytest.raises(InputError, match="give 32 numbers a token, and its U-Net takes 48"):
        load_pipeline(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("huge", "unknown pipeline 'huge'; use tiny"),
        ("local-dir:/nowhere", "model_index.json is missing"),
        ("/nowhere/model.safetensors", "there is no file"),
        ("hf-hub:name", "hf-hub:ORG/NAME"),
    ],
)
def test_names_that_mean_nothing(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_pipeline(name)


def test_a_single_file_without_configurations(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match=r"copy the configurations of its pipeline beside it: model_index\.json"
    ):
        load_pipeline(str(tmp_path / "model.safetensors"))


def unpacked(folder: Path, to: Path) -> Path:
    """The same pipeline with its weights in one file, and no others beside it."""
    index = json.loads((folder / "model_index.json").read_text())
    kind = getattr(diffusers, index["_class_name"])
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    original_layout.save_original(
        kind.from_pretrained(folder, local_files_only=True), to / "model.safetensors"
    )
    return to / "model.safetensors"


@pytest.mark.parametrize("xl", [False, True])
def test_a_single_file_predicts_what_the_folder_predicts(
    xl: bool, made: Path, made_xl: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made_xl if xl else made, tmp_path / "folder"))
    # diffusers' pipelines change this into 1.
    edit(folder / "scheduler" / "scheduler_config.json", steps_offset=0)
    file = unpacked(folder, tmp_path / "file")
    one, other = load_pipeline(f"local-dir:{folder}"), load_pipeline(str(file))
    assert dict(one.scheduler.config) == dict(other.scheduler.config)
    noise = one.noise(Clock(), 1, (one.size, one.size))
    pictures = []
    with torch.no_grad():
        for pipeline in (one, other):
            condition = pipeline.text.encode("a red heart")
            x0 = denoiser(pipeline, condition, scale=3.0)(2 * noise, 2.0)
            pictures.append((pipeline.vae.decode(x0), pipeline.vae.encode(pipeline.vae.decode(x0))))
    assert all(torch.equal(a, b) for a, b in zip(*pictures, strict=True))
    assert not any(parameter.requires_grad for parameter in other.unet.parameters())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.diffusion_model.middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
        ("first_stage_model.decoder.conv_in.bias", "decoder.conv_in.bias"),
        (
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
            "weights of its text_encoder ",
        ),
        ("conditioner.embedders.1.model.text_projection", r"text_encoder_2 \(text_projection.weight"),
    ],
)
def test_what_a_single_file_lacks_is_told(name: str, words: str, made_xl: Path, tmp_path: Path) -> None:
    file = unpacked(made_xl, tmp_path / "file")
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(InputError, match=words) as told:
        load_pipeline(str(file))
    assert "\n" not in str(told.value)


def test_a_single_file_has_no_other_precision_than_asked(made: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(str(unpacked(made, tmp_path / "file")), precision="bfloat16")
    assert {parameter.dtype for parameter in pipeline.unet.parameters()} == {torch.bfloat16}


def test_a_single_file_imports_no_module(made: Path, tmp_path: Path) -> None:
    file = unpacked(made, tmp_path / "file")
    edit(file.parent / "model_index.json", text_encoder=["antigravity", "CLIPTextModel"])
    load_pipeline(str(file))
    assert "antigravity" not in sys.modules
    save_file({"lora": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="no whole Stable Diffusion"):
        load_pipeline(str(file))


def test_options_that_cannot_be(made: Path) -> None:
    with pytest.raises(InputError, match="offload moves weights between a GPU and memory"):
        load_pipeline(f"local-dir:{made}", offload="model")
