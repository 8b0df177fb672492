"""Films: of a run, whose frames wait on disk so that a killed run has them, and of any pictures."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from imageio_ffmpeg import get_ffmpeg_exe
from jaxtyping import Float
from torch import Tensor

from guidance.errors import FULL_DISK, InputError
from guidance.media import jpeg, replacing

#: What a run's film may be.
KINDS = ("mp4", "gif", "webp", "none")

#: A run's film has about this many frames, whatever the number of steps: six seconds.
FRAMES = 150

# JPEG's colours are full-range BT.601. Every player understands limited-range BT.709, if told; WebP's are
# limited-range BT.601; a GIF has one palette for all frames, which makes it small and its ground still.
_LIMITED = "scale=in_range=pc:out_range=tv"
_FILTERS = {
    ".mp4": f"pad=ceil(iw/2)*2:ceil(ih/2)*2,{_LIMITED}:out_color_matrix=bt709,format=yuv420p",
    ".gif": "split[a][b];[a]palettegen[palette];[b][palette]paletteuse",
    ".webp": f"{_LIMITED},format=yuv420p",
}
_BT709 = ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
_ENCODERS = {
    ".mp4": ["-c:v", "libx264", "-crf", "18", *_BT709, "-movflags", "+faststart", "-f", "mp4"],
    ".gif": ["-loop", "0", "-f", "gif"],
    ".webp": ["-c:v", "libwebp_anim", "-q:v", "85", "-loop", "0", "-f", "webp"],
}


def check_suffix(path: Path) -> None:
    """Raises InputError when the name's end is none that `write_film` writes."""
    if path.suffix not in _FILTERS:
        raise InputError(f"a film must end in {', '.join(_FILTERS)}, got {path}; name one of them")


def write_film(
    path: Path,
    frames: Iterable[bytes],
    tags: Mapping[str, str] | None = None,
    *,
    fps: int = 25,
    hold: float = 1.5,
) -> None:
    """Write JPEGs of one size as a film, atomically: .mp4 (H.264, yuv420p, even sides), .gif or .webp.

    `hold` is how many seconds the last frame stays; GIF and WebP begin again after it. `tags`, such as title
    and comment, go into an mp4, their first 30,000 characters; the others have no place for them. Raises
    InputError for another end of the name, RuntimeError with ffmpeg's words when it fails.
    """
    check_suffix(path)
    said = [f"{name}={value[:30_000]}" for name, value in (tags or {}).items() if path.suffix == ".mp4"]
    source = ["-f", "image2pipe", "-c:v", "mjpeg", "-framerate", str(fps), "-i", "-"]
    filters = f"tpad=stop_mode=clone:stop_duration={hold},{_FILTERS[path.suffix]}"
    target = ["-filter_complex", filters, *_ENCODERS[path.suffix]]
    with replacing(path) as temporary:
        tagged = [word for tag in said for word in ("-metadata", tag)]
        command = [get_ffmpeg_exe(), "-v", "error", "-y", *source, *target, *tagged, str(temporary)]
        # Frame by frame, since together they can be gigabytes; words go to a file, for which nobody waits.
        with TemporaryFile() as stderr:
            with (
                suppress(BrokenPipeError),  # it has ended early, and says why
                subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr) as ffmpeg,
            ):
                assert ffmpeg.stdin is not None
                ffmpeg.stdin.writelines(frames)
            stderr.seek(0)
            words = stderr.read().decode(errors="replace").strip()
        if ffmpeg.returncode:
            for number in FULL_DISK:
                if os.strerror(number) in words:
                    raise OSError(number, os.strerror(number), str(path))
            raise RuntimeError(f"ffmpeg could not write {path}: {words}")


def shows(index: int, total: int) -> bool:
    """Whether the film of a run of `total` steps has the step `index`."""
    return index * FRAMES // total > (index - 1) * FRAMES // total


def keep(folder: Path, images: Float[Tensor, "b 3 h w"], index: int) -> None:
    """Keep the images of a step, a JPEG for each member."""
    # Every member has its film, since the best is known at the end only; a frame takes about 2 ms.
    for member, image in enumerate(images):
        place = folder / str(member)
        place.mkdir(parents=True, exist_ok=True)
        with replacing(place / f"{index:020}.jpg") as temporary:
            temporary.write_bytes(jpeg(image[None]))


def kept(folder: Path, member: int) -> list[Path]:
    """The frames of a member, in order."""
    return sorted((folder / str(member)).glob("*.jpg"))


def forget(folder: Path, index: int) -> None:
    """Drop the frames of the step `index` and of those after it."""
    for frame in folder.glob("*/*.jpg"):
        if frame.stem.isdecimal() and int(frame.stem) >= index:
            frame.unlink()
