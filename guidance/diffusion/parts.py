"""The parts of a pipeline in diffusers' layout, read and checked: a folder, a repository, a single file."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guidance.clip.names import MODELS
from guidance.diffusion.text_loading import read_text_encoder, read_tokenizer
from guidance.diffusion.vae import read_model
from guidance.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

#: Larger networks are refused; Stable Diffusion XL's U-Net has 2.6 billion weights.
MAX_NUMBERS = 4_000_000_000

#: diffusers' pipelines that have these parts.
_KINDS = [f"StableDiffusion{xl}{task}Pipeline" for xl in ("", "XL") for task in ("", "Img2Img", "Inpaint")]


@dataclass(frozen=True)
class Parts:
    """Models of diffusers and transformers, and diffusers' scheduler; two text encoders for XL."""

    text_encoders: "list[CLIPTextModel | CLIPTextModelWithProjection]"
    tokenizers: "list[PreTrainedTokenizerBase]"
    unet: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    scheduler: Any


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
    if config.class_embed_type or config.addition_embed_type not in (None, "text_time"):
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

    _check_kind(index, place)
    local = name.startswith("local-dir:")
    towers = ["text_encoder", "text_encoder_2"] if "XL" in index["_class_name"] else ["text_encoder"]
    for part in (*towers, "unet", "vae", "scheduler"):
        if not index.get(part) or index[part][1] is None:
            raise InputError(f"the pipeline {place} has no {part}; take a whole Stable Diffusion")

    if index["unet"][1] != "UNet2DConditionModel":
        raise InputError(
            f"the unet of {place} is a {index['unet'][1]}, and must be a UNet2DConditionModel; "
            "take a Stable Diffusion 1, 2 or XL"
        )
    _check_size(diffusers.UNet2DConditionModel, place, local)
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
    scheduler = getattr(diffusers, index["scheduler"][1], None)
    if scheduler is None or not issubclass(scheduler, diffusers.SchedulerMixin):
        raise InputError(f"the scheduler of {place} is {index['scheduler'][1]}, which diffusers has not")
    return Parts(
        [read_text_encoder(place, part, index, local=local, dtype=dtype) for part in towers],
        [
            read_tokenizer(place, part.replace("text_encoder", "tokenizer"), index, local=local)
            for part in towers
        ],
        unet,
        vae,
        scheduler.from_pretrained(place, subfolder="scheduler", local_files_only=local),
    )


def _check_kind(index: Any, place: str) -> None:
    if not isinstance(index, dict) or index.get("_class_name") not in _KINDS:
        kind = index.get("_class_name") if isinstance(index, dict) else None
        raise InputError(f"{place} is a {kind}; take a Stable Diffusion 1, 2 or XL")


def _check_size(kind: Any, place: str, local: bool) -> None:
    """The whole network is made before its weights are looked at, so count it first, on the meta device."""
    config = kind.load_config(place, subfolder="unet", local_files_only=local)
    with torch.device("meta"):
        numbers = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    if numbers > MAX_NUMBERS:
        raise InputError(
            f"the U-Net of {place} has {numbers / 1e9:.1f} billion weights; check its config.json"
        )


def _read_file(path: Path, dtype: torch.dtype) -> Parts:
    import diffusers

    if not os.path.isfile(path):
        raise InputError(f"there is no file {path}; check the path")
    folder = path.parent
    if not os.path.isfile(folder / "model_index.json"):
        raise InputError(
            f"{path} holds weights alone; copy the configurations of its pipeline beside it: "
            "model_index.json and the folders tokenizer, text_encoder, unet, vae, scheduler without weights"
        )
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    _check_kind(index, str(folder))
    _check_size(diffusers.UNet2DConditionModel, str(folder), local=True)
    kind = (
        diffusers.StableDiffusionXLPipeline
        if "XL" in index["_class_name"]
        else diffusers.StableDiffusionPipeline
    )
    whole = kind.from_single_file(
        str(path), config=str(folder), local_files_only=True, torch_dtype=dtype, safety_checker=None
    )
    xl = kind is diffusers.StableDiffusionXLPipeline
    return Parts(
        [whole.text_encoder, whole.text_encoder_2] if xl else [whole.text_encoder],
        [whole.tokenizer, whole.tokenizer_2] if xl else [whole.tokenizer],
        whole.unet,
        whole.vae,
        whole.scheduler,
    )
