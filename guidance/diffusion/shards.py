"""Weights in several files: the index that says which, read before the library that would open them."""

import json
import os
from pathlib import Path, PureWindowsPath

from guidance.errors import InputError


def check_shards(place: str, subfolder: str | None, stem: str, *, local: bool) -> None:
    """Raise InputError if the index of a model's weights names anything but safetensors beside it.

    `place`: a folder if `local`, otherwise a repository on the hub; `stem`: what the library calls its
    weights. Weights without an index are fine.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    name = f"{stem}.safetensors.index.json"
    if local:
        path = Path(place, subfolder or "", name)
        if not os.path.isfile(path):
            return
    else:
        try:
            path = Path(hf_hub_download(place, name, subfolder=subfolder))
        except EntryNotFoundError:
            return
    index = json.loads(path.read_text(encoding="utf-8"))
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict):
        raise InputError(f"{name} of {place} has no weight_map; copy it there again")
    for shard in shards.values():
        # A Windows path knows both separators and drives.
        if PureWindowsPath(str(shard)).name != shard or not shard.endswith(".safetensors"):
            raise InputError(
                f"{name} of {place} names {str(shard)[:80]!r}, and must name .safetensors files beside it"
            )
