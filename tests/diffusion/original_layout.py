"""A pipeline's weights in one file, in the layout of Stable Diffusion's authors (CompVis's latent-diffusion).

Written down from their code (openaimodel.py, model.py): what a network is there, block by block, and not from
the tables by which diffusers reads such files.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

#: A residual block of the U-Net: diffusers' name and theirs.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def save_original(pipeline: Any, path: Path) -> None:
    """Write a `StableDiffusionPipeline` or `StableDiffusionXLPipeline` as one .safetensors file."""
    first = text_encoder(pipeline.text_encoder)
    parts = {"model.diffusion_model": unet(pipeline.unet), "first_stage_model": vae(pipeline.vae)}
    if "text_encoder_2" in pipeline.components:
        parts["conditioner.embedders.0.transformer"] = first
        parts["conditioner.embedders.1.model"] = open_clip(pipeline.text_encoder_2)
    else:
        parts["cond_stage_model.transformer"] = first
    tensors = {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def unet(model: Any) -> dict[str, Tensor]:
    """Blocks are numbered through all levels: a convolution, each level's layers, what halves or doubles."""
    names = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    names |= {f"time_embedding.linear_{i + 1}": f"time_embed.{2 * i}" for i in range(2)}
    names |= {f"add_embedding.linear_{i + 1}": f"label_emb.0.{2 * i}" for i in range(2)}
    names |= {f"mid_block.resnets.{i}": f"middle_block.{2 * i}" for i in range(2)}
    names |= {"mid_block.attentions.0": "middle_block.1"}
    block = 1
    for level, down in enumerate(model.down_blocks):
        for layer in range(len(down.resnets)):
            names[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{block}.0"
            names[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{block}.1"
            block += 1
        if down.downsamplers:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
            block += 1
    block = 0
    for level, up in enumerate(model.up_blocks):
        attends = "CrossAttn" in type(up).__name__
        for layer in range(len(up.resnets)):
            names[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{block}.0"
            names[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{block}.1"
            block += 1
        # What doubles is the last part of the level's last block, after its attention if it has one.
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{block - 1}.{1 + attends}.conv"
    return renamed(model, names, RESNET)


def vae(model: Any) -> dict[str, Tensor]:
    """The decoder counts its levels from the largest picture, diffusers from the smallest."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    levels = len(model.encoder.down_blocks)
    for side in ("encoder", "decoder"):
        names |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out"}
        names |= {f"{side}.conv_norm_out": f"{side}.norm_out"}
        names |= {f"{side}.mid_block.resnets.{i}": f"{side}.mid.block_{i + 1}" for i in range(2)}
        attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
        for ours, theirs in attention.items():
            names[f"{side}.mid_block.attentions.0.{ours}"] = f"{side}.mid.attn_1.{theirs}"
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for layer in range(model.config.layers_per_block + 1):  # one more in the decoder
            names[f"{down}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
            names[f"{up}.resnets.{layer}"] = f"decoder.up.{level}.block.{layer}"
        names[f"{down}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        names[f"{up}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    tensors = renamed(model, names, {"conv_shortcut": "nin_shortcut"})
    return {  # its attention is of convolutions of one pixel
        name: value[:, :, None, None] if ".attn_1." in name and value.dim() == 2 else value
        for name, value in tensors.items()
    }


def text_encoder(model: Any) -> dict[str, Tensor]:
    """transformers' own names, as they were until version 5.5: all under text_model."""
    return {f"text_model.{k.removeprefix('text_model.')}": v for k, v in model.state_dict().items()}


def open_clip(model: Any) -> dict[str, Tensor]:
    """open_clip's names; its projection multiplies from the right, its attention has one matrix for all."""
    layers = {
        "layer_norm1": "ln_1",
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    theirs = model.state_dict()
    tensors = {
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T,
        "logit_scale": torch.zeros(()),
    }
    for kind in ("weight", "bias"):
        tensors[f"ln_final.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
        for i in range(model.config.num_hidden_layers):
            block, layer = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
            for name, short in layers.items():
                tensors[f"{block}.{short}.{kind}"] = theirs[f"{layer}.{name}.{kind}"]
            rows = [theirs[f"{layer}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            tensors[f"{block}.attn.in_proj_{kind}"] = torch.cat(rows)
    return tensors


def renamed(model: Any, names: dict[str, str], layers: dict[str, str]) -> dict[str, Tensor]:
    """The weights under their names: the longest beginning in `names`, and a layer of that in `layers`."""
    tensors = {}
    for name, value in model.state_dict().items():
        start = max((key for key in names if name.startswith(f"{key}.")), key=len)
        layer, _, kind = name.removeprefix(f"{start}.").rpartition(".")
        tensors[".".join(filter(None, [names[start], layers.get(layer, layer), kind]))] = value
    return tensors
