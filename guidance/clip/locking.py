"""Towers, or their first layers, that training leaves as they are (LiT, Zhai et al. 2022)."""

import re
from typing import Literal

from open_clip import CustomTextCLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch.nn import Module, Parameter

from guidance.clip.text_tower import TextTower
from guidance.errors import InputError

#: Of a kind of tower: how its layers' names begin, what belongs to the last of them, and its projection.
_NAMES = {
    ModifiedResNet: (r"layer(\d+)\.", "-", "attnpool"),
    TextTower: (r"blocks\.(\d+)\.", "ln_final", "text_projection"),
    HFTextEncoder: (
        r"transformer\.(?:encoder\.)?(?:layers?|block)\.(\d+)\.",
        r"transformer\.(?:pooler|final_layer_norm|layer_norm)\.",
        r"proj\.",
    ),
}
_OPEN_CLIP = (r"transformer\.resblocks\.(\d+)\.", "ln_post|ln_final", "proj$|text_projection|attn_pool")


def lock(model: CLIP | CustomTextCLIP, tower: Literal["image", "text"], unlocked_groups: int = 0) -> None:
    """Freeze a tower, or all but its last groups of layers.

    The last group is the projection, the one before it the last layer and what normalises it, then come the
    layers from the last to the first and at the end what comes before them; in a tower of timm's, timm's own
    groups. `Objective.train` keeps what is frozen as in evaluation: batch norm with the statistics that it
    has, no dropout. open_clip's own locking leaves the projections of towers of timm's and transformers'
    open, their activations out where it freezes batch norm, and a part of a ModifiedResNet impossible.

    Raises InputError when there are not so many groups.
    """
    groups = _groups(model, tower)
    if not 0 <= unlocked_groups <= len(groups):
        raise InputError(
            f"the {tower} tower has {len(groups)} groups of layers, got unlocked_groups={unlocked_groups}"
        )
    for group in groups[: len(groups) - unlocked_groups]:
        for parameter in group:
            parameter.requires_grad_(False)


def _groups(model: CLIP | CustomTextCLIP, tower: Literal["image", "text"]) -> list[list[Parameter]]:
    """A tower's parameters, from those that see its input to those that make its output."""
    if tower == "text" and isinstance(model, CLIP):
        named = {name: p for name, p in model.named_parameters() if not re.match("visual|logit", name)}
        return _by_names(named, _OPEN_CLIP)
    part: Module = model.visual if tower == "image" else model.text
    if isinstance(part, TimmModel):
        return _by_timm(part)
    return _by_names(dict(part.named_parameters()), _NAMES.get(type(part), _OPEN_CLIP))


def _by_names(named: dict[str, Parameter], names: tuple[str, str, str]) -> list[list[Parameter]]:
    layer, last, projection = names
    found = {name: re.match(layer, name) for name in named}
    numbers = sorted({int(match[1]) for match in found.values() if match})
    groups: dict[int, list[Parameter]] = {}
    for name, parameter in named.items():
        match = found[name]
        if match:
            place = int(match[1])
        elif re.match(last, name):
            place = numbers[-1]
        else:
            place = numbers[-1] + 1 if re.match(projection, name) else numbers[0] - 1
        groups.setdefault(place, []).append(parameter)
    return [groups[place] for place in sorted(groups)]


def _by_timm(tower: TimmModel) -> list[list[Parameter]]:
    from timm.models import group_parameters

    grouped = group_parameters(tower.trunk, tower.trunk.group_matcher())
    groups = [[tower.trunk.get_parameter(name) for name in grouped[key]] for key in sorted(grouped)]
    head = list(tower.head.parameters())
    return [*groups, head] if head else groups
