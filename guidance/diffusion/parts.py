"""The parts of a pipeline in diffusers' layout, read and checked: a folder, a repository, a single file."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guidance.clip.names import MODELS
from guidance.diffusion.shards import check_shards
from guidance.diffusion.text_loading import (
    forces_zeros,
    read_text_encoder,
    read_tokenizer,
    unpack_text_encoder,
)
from guidance.diffusion.vae import make_model, read_model
from guidance.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

#: Larger networks are refused; Stable Diffusion XL's U-Net has 2.6 billion weights.
MAX_NUMBERS = 4_000_000_000

#: More levels, or layers a level, are refused: even to count their weights takes minutes. SDXL has 3 and 10.
_MAX_LEVELS, _MAX_LAYERS = 8, 32

#: Longer trainings' tables are not made; Stable Diffusion's has 1000 times.
_MAX_TIMES = 100_000

#: diffusers' pipelines that have these parts.
_KINDS = [f"StableDiffusion{xl}{task}Pipeline" for xl in ("", "XL") for task in ("", "Img2Img", "Inpaint")]


@dataclass(frozen=True)
class Parts:
    """Models of diffusers and transformers, and diffusers' scheduler; two text encoders for XL.

    `zeros`: the U-Net was trained with zeros in place of no prompt.
    """

    text_encoders: "list[CLIPTextModel | CLIPTextModelWithProjection]"
    tokenizers: "list[PreTrainedTokenizerBase]"
    unet: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    scheduler: Any
    zeros: bool


def read_parts(name: str, dtype: torch.dtype) -> Parts:
    """The parts behind a name of `load_pipeline`, on the CPU."""
    scheme, _, rest = name.partition(":")
    # Whatever is not in the files is an error, but initialised first.
    with torch.random.fork_rng(devices=[]):
        if name == "tiny":
            return _read_folder(MODELS / "tiny_diffusion", dtype)
        if name.endswith(".safetensors"):
            return _read_file(Path(name), dtype)
        if scheme == "local-dir":
            return _read_folder(Path(rest), dtype)
        if scheme == "hf-hub":
            return _read_hub(rest, dtype)
    raise InputError(
        f"unknown pipeline {name!r}; use tiny, local-dir:FOLDER, hf-hub:ORG/NAME or a .safetensors file"
    )


def check_parts(parts: Parts, name: str) -> None:
    """Raises InputError unless the parts fit each other and this package can drive them."""
    config = parts.unet.config
    if not isinstance(config.sample_size, int) or not 0 < config.sample_size <= 4096:
        raise InputError(
            f"the U-Net of {name!r} has sample_size {config.sample_size}, which must be the side of its "
            "latents, such as 64; check its config.json"
        )
    width = sum(model.config.hidden_size for model in parts.text_encoders)
    if config.cross_attention_dim != width:
        raise InputError(
            f"the text encoders of {name!r} give {width} numbers a token, and its U-Net takes "
            f"{config.cross_attention_dim}; put parts together that were trained together"
        )
    if config.in_channels != parts.vae.config.latent_channels:
        raise InputError(
            f"the U-Net of {name!r} takes {config.in_channels} channels, and its autoencoder gives "
            f"{parts.vae.config.latent_channels}; take the pipeline that is no inpainting or depth model"
        )
    if config.class_embed_type or config.addition_embed_type not in (None, "text", "text_time"):
        wanted = config.class_embed_type or config.addition_embed_type
        raise InputError(
            f"the U-Net of {name!r} wants more than text ({wanted}); take a Stable Diffusion 1, 2 or XL"
        )
    if config.addition_embed_type == "text_time":
        pooled = getattr(parts.text_encoders[-1].config, "projection_dim", 0)
        if config.projection_class_embeddings_input_dim != pooled + 6 * config.addition_time_embed_dim:
            raise InputError(
                f"the last text encoder of {name!r} gives {pooled} pooled numbers, which its U-Net does "
                "not take; put parts together that were trained together"
            )


def _read_folder(folder: Path, dtype: torch.dtype) -> Parts:
    index = folder / "model_index.json"
    if not os.path.isfile(index):  # Path's own raises for a name that is too long
        raise InputError(f"there is no pipeline in {folder}: model_index.json is missing; check the path")
    return _read_parts(
        str(folder), json.loads(index.read_text(encoding="utf-8")), dtype, f"local-dir:{folder}"
    )


def _read_hub(place: str, dtype: torch.dtype) -> Parts:
    from huggingface_hub import hf_hub_download

    if place.count("/") != 1:
        raise InputError(f"a pipeline on the hub is hf-hub:ORG/NAME, got {place!r}")
    index = Path(hf_hub_download(place, "model_index.json"))
    return _read_parts(place, json.loads(index.read_text(encoding="utf-8")), dtype, f"hf-hub:{place}")


def _read_parts(place: str, index: dict[str, Any], dtype: torch.dtype, name: str) -> Parts:
    import diffusers

    towers, local = _check_index(index, place), name.startswith("local-dir:")
    _check_size(diffusers.UNet2DConditionModel, place, local)
    check_shards(place, "unet", "diffusion_pytorch_model", local=local)
    unet, report = diffusers.UNet2DConditionModel.from_pretrained(
        place,
        subfolder="unet",
        use_safetensors=True,
        local_files_only=local,
        torch_dtype=dtype,
        output_loading_info=True,
    )
    if missing := report["missing_keys"]:
        raise InputError(f"the unet of {place} lacks the weights {missing[0]}, …; copy it there again")
    vae = read_model(f"{name}/vae")
    return Parts(
        [read_text_encoder(place, part, index, local=local, dtype=dtype) for part in towers],
        _read_tokenizers(place, towers, index, local),
        unet,
        vae,
        _read_scheduler(place, index, local),
        forces_zeros(index),
    )


def _check_index(index: Any, place: str) -> list[str]:
    """The names of the text encoders of a pipeline that has all parts, each of a kind that is known."""
    if not isinstance(index, dict) or index.get("_class_name") not in _KINDS:
        kind = index.get("_class_name") if isinstance(index, dict) else None
        raise InputError(f"{place} is a {kind}; take a Stable Diffusion 1, 2 or XL")
    towers = ["text_encoder", "text_encoder_2"] if "XL" in index["_class_name"] else ["text_encoder"]
    for part in (*towers, "unet", "vae", "scheduler"):
        if not index.get(part) or index[part][1] is None:
            raise InputError(f"the pipeline {place} has no {part}; take a whole Stable Diffusion")
    for part, known in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        if index[part][1] != known:
            raise InputError(
                f"the {part} of {place} is a {index[part][1]}, and must be a {known}; "
                "take a Stable Diffusion 1, 2 or XL"
            )
    return towers


def _read_tokenizers(place: str, towers: list[str], index: dict[str, Any], local: bool) -> list[Any]:
    return [
        read_tokenizer(place, part.replace("text_encoder", "tokenizer"), index, local=local)
        for part in towers
    ]


def _read_scheduler(place: str, index: dict[str, Any], local: bool) -> Any:
    import diffusers

    kind = getattr(diffusers, index["scheduler"][1], None)
    if kind is None or not issubclass(kind, diffusers.SchedulerMixin):
        raise InputError(f"the scheduler of {place} is {index['scheduler'][1]}, which diffusers has not")
    config = kind.load_config(place, subfolder="scheduler", local_files_only=local)
    times = config.get("num_train_timesteps", 1000)
    if not 2 <= times <= _MAX_TIMES:
        raise InputError(f"the scheduler of {place} has {times} times; check its scheduler_config.json")
    return kind.from_config(config)


def _check_size(kind: Any, place: str, local: bool) -> None:
    """The whole network is made before its weights are looked at, so count it first, on the meta device."""
    config = kind.load_config(place, subfolder="unet", local_files_only=local)
    layers = [
        _most(config.get(name))
        for name in (
            "layers_per_block",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
        )
    ]
    if len(config.get("block_out_channels", ())) > _MAX_LEVELS or max(layers) > _MAX_LAYERS:
        raise InputError(
            f"the U-Net of {place} has more than {_MAX_LEVELS} levels or {_MAX_LAYERS} layers a level; "
            "check its config.json"
        )
    if config.get("quantization_config"):
        raise InputError(f"the U-Net of {place} is quantised; take one in float32 or half precision")
    with torch.device("meta"):
        numbers = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    if numbers > MAX_NUMBERS:
        raise InputError(
            f"the U-Net of {place} has {numbers / 1e9:.1f} billion weights; check its config.json"
        )


def _most(number: Any) -> float:
    """The greatest of a number or of lists of numbers, 0 for none."""
    return max(map(_most, number), default=0) if isinstance(number, list) else number or 0


def _read_file(path: Path, dtype: torch.dtype) -> Parts:
    """The parts in one file, in the layout of Stable Diffusion's authors.

    diffusers' own `from_single_file` is not asked: it changes the scheduler's settings, imports the modules
    that model_index.json names, and without accelerate leaves random whatever weights the file lacks.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
    from safetensors.torch import load_file

    if not os.path.isfile(path):
        raise InputError(f"there is no file {path}; check the path")
    folder = path.parent
    if not os.path.isfile(folder / "model_index.json"):
        raise InputError(
            f"{path} holds weights alone; copy the configurations of its pipeline beside it: "
            "model_index.json and the folders tokenizer, text_encoder, unet, vae, scheduler without weights"
        )
    place = str(folder)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    towers = _check_index(index, place)
    _check_size(diffusers.UNet2DConditionModel, place, local=True)
    tensors = load_file(path)
    for prefix in ("model.diffusion_model.", "first_stage_model."):
        if not any(name.startswith(prefix) for name in tensors):
            raise InputError(
                f"{path} is no whole Stable Diffusion: it has no {prefix}…; take one with all parts"
            )
    unet = diffusers.UNet2DConditionModel.from_config(
        diffusers.UNet2DConditionModel.load_config(place, subfolder="unet", local_files_only=True)
    )
    unet.load_state_dict(convert_ldm_unet_checkpoint(tensors, unet.config))
    config = diffusers.AutoencoderKL.load_config(place, subfolder="vae", local_files_only=True)
    return Parts(
        [unpack_text_encoder(place, tower, index, tensors, dtype=dtype) for tower in towers],
        _read_tokenizers(place, towers, index, True),
        torch.nn.Module.to(unet, dtype),  # diffusers' own would warn of modules that it has not
        make_model(config, tensors, place),
        _read_scheduler(place, index, True),
        forces_zeros(index),
    )
