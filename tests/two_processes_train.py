"""What torchrun runs for test_train_recipe.py: `guidance train` as its user would, or with a kill.

Arguments: a file of JSON, a list of runs, each with the words of its command line, `save` (seconds between
checkpoints), and perhaps `kill`: [rank, step], who dies in the middle of which step, as of kill -9, or
`signal`: [number, step], what this process gets then. Each rank writes exit codes to FILE.rank as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from guidance import cli, training
from guidance.clip import pretrain

RANK = int(os.environ.get("RANK", "0"))


def run(words: list[str], kill: list[int] | None = None, sent: list[int] | None = None) -> int:
    average_ = pretrain.average_

    def die(mean, model, decay, clock) -> None:
        if kill == [RANK, clock.index]:
            os.kill(os.getpid(), signal.SIGKILL)
        if sent is not None and sent[1] == clock.index:
            os.kill(os.getpid(), sent[0])
        average_(mean, model, decay, clock)

    pretrain.average_ = die
    try:
        return cli.main([word.replace("RANK", str(RANK)) for word in words])
    except SystemExit as end:
        return int(end.code)
    finally:
        pretrain.average_ = average_


def main(file: Path) -> None:
    torch.set_num_threads(1)
    training.WINDOW = 1
    codes = []
    for settings in json.loads(file.read_text()):
        training.SAVE_SECONDS = settings.pop("save", 1e9)
        codes.append(run(**settings))
        file.with_suffix(f".{RANK}").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
