"""Where to compute."""

import torch

from guidance.errors import InputError, suggest


def device(name: str) -> torch.device:
    """The device of that name, found to work; "auto" is the first CUDA GPU, and the CPU where there is none.

    Raises InputError for a name that means no device, or one that is not in this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError as error:
        hint = suggest(name, ["auto", "cpu", "cuda", "cuda:0", "mps"]) or "; use auto, cpu or cuda"
        raise InputError(f"unknown device {name!r}{hint}") from error
    try:
        torch.ones(1, device=found).item()
    # A missing device is told differently by every backend: AssertionError without CUDA in the build, ...
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"device {name!r} is not usable here; use auto or cpu") from error
    return found
