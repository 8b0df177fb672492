"""The options that recipes share: a type each, with the words of its help.

def main(prompt: options.Prompt, *, steps: int = 300, seed: options.Seed = 0, ...) -> Path:
"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Prompt = Annotated[
    str,
    Parameter(
        help='What to draw; several prompts with weights: "a fox:1.5 | blurry:-0.3 | @cat.png:0.5"; in a '
        'part of the picture: "a fox [0,0,0.5,1]"; one after the other: "seed => sprout => flower".',
    ),
]
Seed = Annotated[int, Parameter(help="Another number gives another picture.")]
Size = Annotated[int, Parameter(help="Side of the picture in pixels while it is made.")]
Width = Annotated[
    int | None, Parameter(help="Another width than height, in pixels; size is then the height.")
]
Clip = Annotated[
    str,
    Parameter(
        help="The model that guides: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:…; "
        'several with weights: "tiny | ViT-B/32:0.5".',
    ),
]
Crops = Annotated[int, Parameter(help="How many augmented views of the picture the model sees in a step.")]
Templates = Annotated[
    str,
    Parameter(
        help="Sentences that a text is put into: plain, openai, or a file, one a line, {} for the text."
    ),
]
BestOf = Annotated[int, Parameter(help="How many pictures are made at once; the best is kept.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1, …")]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    Parameter(
        help="Of the model's arithmetic: float32, or bfloat16, which is quicker where there is support."
    ),
]
Start = Annotated[
    Path | None,
    Parameter(
        help="What to start from instead of noise: a picture, or the folder of a run on the same canvas."
    ),
]
Film = Annotated[
    Literal["mp4", "gif", "webp", "none"], Parameter(help="The film of how the picture came about.")
]
Metadata = Annotated[
    bool, Parameter(help="Whether pictures and mp4 films say how they were made, the prompt for one.")
]
OnNan = Annotated[
    Literal["stop", "smaller"],
    Parameter(
        help="When a loss is not a number: stop at the last good state, or take the step again, smaller."
    ),
]
Report = Annotated[
    bool,
    Parameter(help="Whether metrics.jsonl tells how long and how alike the gradients of the losses are."),
]
Output = Annotated[Path, Parameter(help="The folder of all runs.")]
Resume = Annotated[
    Path | None, Parameter(help="The folder of a run to go on with, which must have the same settings.")
]
Pipeline = Annotated[
    str,
    Parameter(
        help="The pipeline: tiny; local-dir:…, as diffusers writes it; hf-hub:…; or a .safetensors file."
    ),
]
Dialect = Annotated[
    Literal["plain", "a1111", "comfy", "compel"],
    Parameter(
        help="How the prompt says weights: plain, not at all; a1111, (fox:1.3); comfy, (fox:1.3); compel, "
        "(fox)1.3, and blends."
    ),
]
Embedding = Annotated[
    tuple[Path, ...],
    Parameter(help="Files of learned words (textual inversion), which the prompts may then have in them."),
]
Negative = Annotated[str, Parameter(help="What it shall not be a picture of.")]
Offload = Annotated[
    Literal["none", "model", "sequential"],
    Parameter(
        help="On a GPU with little memory: model, only the part that computes is there; or sequential, only "
        "the layer."
    ),
]
