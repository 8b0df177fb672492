"""Small pipelines with random weights, in the layouts of Stable Diffusion 1 and XL."""

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
)

import guidance as g

TINY = Path(g.__file__).parent / "models" / "tiny"
WIDTH, POOLED = 32, 24


def text_model(kind: type, width: int) -> Any:
    config = CLIPTextConfig(
        vocab_size=16384,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=POOLED,
        hidden_act="gelu",
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=16383,
        initializer_range=0.3,  # the usual 0.02 would make all prompts nearly alike
    )
    return kind(config)


def unet(width: int, **xl: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=8,
        **xl,
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4,
        scaling_factor=0.5,
    )


def scheduler(prediction: str = "epsilon") -> DDIMScheduler:
    """Stable Diffusion's noise."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


@cache
def diffusers_pipeline(xl: bool = False, prediction: str = "epsilon") -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY)
    tokenizer.model_max_length = 12
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        parts = {"vae": vae(), "scheduler": scheduler(prediction), "tokenizer": tokenizer}
        parts["text_encoder"] = text_model(CLIPTextModel, WIDTH)
        if not xl:
            made = StableDiffusionPipeline(
                **parts,
                unet=unet(WIDTH),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        else:
            second = text_model(CLIPTextModelWithProjection, 16)
            network = unet(
                WIDTH + 16,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=POOLED + 6 * 8,
            )
            made = StableDiffusionXLPipeline(
                **parts, unet=network, text_encoder_2=second, tokenizer_2=tokenizer
            )
    made.set_progress_bar_config(disable=True)
    return made


def write(folder: Path, *, xl: bool = False, prediction: str = "epsilon") -> Path:
    """The pipeline as diffusers writes it."""
    diffusers_pipeline(xl, prediction).save_pretrained(folder)
    return folder


def edit(path: Path, **changes: object) -> None:
    """Change entries of a file in JSON."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
