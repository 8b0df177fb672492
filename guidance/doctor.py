"""What is on this machine and whether it works, found by trying it.

Every check imports what it tries, since an import may be what is broken.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from guidance import __version__
from guidance.shipped import recipes


@dataclass(frozen=True)
class Check:
    """Something to try: it returns what it found, or raises; `advice` is what to do then."""

    name: str
    attempt: Callable[[], str]
    advice: str
    essential: bool = True


def examine() -> int:
    """Print a line for every check; returns 1 if something essential fails, and 0 otherwise."""
    failures = 0
    for check in CHECKS:
        try:
            print(f"ok      {check.name}: {check.attempt()}", flush=True)
        # Whatever is broken on this machine, and however: here it is told, and the other checks go on.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"failed  {check.name}: {reason}; {check.advice}", flush=True)
            failures += check.essential
    return 1 if failures else 0


def _versions() -> str:
    packages = ("torch", "open_clip_torch", "timm", "numba", "pillow", "imageio-ffmpeg")
    return ", ".join([f"guidance {__version__}", *(f"{name} {version(name)}" for name in packages)])


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"


def _cpu() -> str:
    import torch

    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none, everything runs on the CPU"
    found = []
    for i in range(torch.cuda.device_count()):
        _product_error(f"cuda:{i}", "float32", 1e-2)
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        found.append(f"{torch.cuda.get_device_name(i)} ({memory:.0f} GiB)")
    return ", ".join(found)


def _bfloat16() -> str:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"works on {device}, {_product_error(device, 'bfloat16', 2e-2):.1e} from exact"


def _product_error(device: str, dtype: str, tolerance: float) -> float:
    """How far a matrix product there is from one in float64, relative to its size."""
    import torch

    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    number = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    got = (a.to(device, number) @ b.to(device, number)).cpu().double()
    error = ((got - a @ b).norm() / (a @ b).norm()).item()
    if not error < tolerance:
        raise RuntimeError(f"a matrix product in {dtype} on {device} is {error:.1e} off")
    return error


def _onednn() -> str:
    import torch

    from guidance.clip.fast import can_pack

    numbers = [name for name in ("float32", "bfloat16") if can_pack(getattr(torch, name))]
    if not numbers:
        raise RuntimeError("this PyTorch or processor has no packed products")
    return f"packed products work in {' and '.join(numbers)}"


def _rasteriser() -> str:
    from dataclasses import replace
    from time import perf_counter

    import torch

    from guidance.canvas.raster import backend, rasterize, reference
    from guidance.canvas.strokes import Strokes
    from guidance.clock import Clock

    device = "cuda" if torch.cuda.is_available() else "cpu"
    scene = Strokes(9, 24, Clock(), width=(2.0, 6.0)).to(device).scene()
    scene = replace(scene, points=scene.points.detach().requires_grad_())
    start = perf_counter()
    image = rasterize(scene, 24)
    image.sum().backward()
    seconds = perf_counter() - start
    error = (image - reference.rasterize(scene, 24, 24)).abs().mean().item()
    if not error < 1e-3:
        raise RuntimeError(f"the kernels on {device} are {error:.1e} from the reference")
    return f"{backend(scene.points.device)} on {device}, first drawing after {seconds:.1f} s"


def _film() -> str:
    import torch
    from imageio_ffmpeg import get_ffmpeg_version

    from guidance.film import write_film
    from guidance.media import jpeg

    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder, "film.mp4")
        write_film(film, [jpeg(torch.zeros(1, 3, 16, 16))])
        return f"ffmpeg {get_ffmpeg_version()} wrote {film.stat().st_size} bytes"


def _tiny() -> str:
    import torch

    from guidance.clip import load

    clip = load("tiny")
    text = clip.encode_text(["a red square", "a blue square"])
    side = clip.image_size
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, side, side)
    near, far = (clip.encode_image(red) @ text.T)[0].tolist()
    if not near > far:
        raise RuntimeError(f"it takes red for blue (cosines {near:.3f} and {far:.3f})")
    return f"{side} px, {clip.embed_dim} dimensions, knows red from blue"


def _recipes() -> str:
    return ", ".join(recipes())


def _writable() -> str:
    with tempfile.NamedTemporaryFile(dir=Path.cwd()):
        return f"{Path.cwd()} can be written to"


CHECKS = [
    Check("python", _python, "use Python 3.11 or newer"),
    Check("packages", _versions, "run: pip install --upgrade clip-guidance"),
    Check("cpu", _cpu, "use another computer"),
    Check("gpu", _gpu, "use --device cpu, or install the PyTorch for your driver", essential=False),
    Check("bfloat16", _bfloat16, "use --precision float32", essential=False),
    Check("oneDNN", _onednn, "drawings are slower on the CPU, and the same", essential=False),
    Check("rasteriser", _rasteriser, "run: pip install --upgrade --force-reinstall numba"),
    Check("film", _film, "run: pip install --force-reinstall imageio-ffmpeg"),
    Check("tiny", _tiny, "run: pip install --force-reinstall clip-guidance"),
    Check("recipes", _recipes, "run: pip install --force-reinstall clip-guidance"),
    Check("output", _writable, "change to another folder, or use --output", essential=False),
]
