"""How well drawings are recognised, by a CLIP that did not guide them.

The judge ranks the name of what was to be drawn among all names that there are: R-precision (Xu et al. 2018;
with a CLIP, Park et al. 2021). The drawings of one name, in all languages and with all seeds, are a cluster
of `intervals`.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from itertools import groupby
from pathlib import Path

import torch

from guidance.clip import Clip, load
from guidance.clip.labels import look_labelled
from guidance.clip.names import Folder, resolve
from guidance.clip.sources import Found
from guidance.crops import clean_views
from guidance.errors import InputError
from guidance.folder import recorded
from guidance.intervals import Estimate, mean, share
from guidance.losses.guides import load_guides
from guidance.media import read_image, write_text
from guidance.prompts import parse_weighted

NAMES = Path(__file__).parent / "names"
#: The columns of the names that come with the package.
LANGUAGES = ("en", "de", "es", "ja", "ru", "zh")


@dataclass(frozen=True)
class Task:
    """What to draw: a name as the judge knows it, and as the prompt has it, in a language."""

    name: str
    language: str
    prompt: str


@dataclass(frozen=True)
class Drawn:
    """A picture to judge: what made it, what it is to show, and the models that guided it, where known."""

    recipe: str
    task: Task
    seed: int
    picture: Path
    guides: str | None


@dataclass(frozen=True)
class Judged:
    """A drawing in the judge's eyes.

    `rank` is the place of the right name among all, from 1; `guess` the name in the first place; `score` the
    mean cosine of clean views with the right name.
    """

    recipe: str
    language: str
    name: str
    prompt: str
    seed: int
    picture: str
    rank: int
    guess: str
    score: float


@dataclass(frozen=True)
class Summary:
    """The drawings of a recipe in a language, or in all of them ("all"): how often the right name was the
    judge's first, or among its first ten, and the CLIP score."""

    recipe: str
    language: str
    drawings: int
    names: int
    first: Estimate
    ten: Estimate
    score: Estimate


def read_distractors() -> list[str]:
    """The English names of 1,571 emoji, of which a judge must find the right one."""
    return (NAMES / "distractors.txt").read_text(encoding="utf-8").splitlines()


def read_tasks(
    prompts: str | None = None, languages: Sequence[str] = ("en",), count: int | None = None
) -> list[Task]:
    """The first `count` names in "cat,dog", or in "@names.csv", with a column for each language, of which the
    first has the names that the judge knows; 100 common things without `prompts`.

    Raises InputError for a file that cannot be read, languages and cells that it has not, and no name.
    """
    if prompts is not None and not prompts.startswith("@"):
        names = [name.strip() for name in prompts.split(",")][:count]
        tasks = [Task(name, "", name) for name in names]
    else:
        file = NAMES / "prompts.csv" if prompts is None else Path(prompts[1:])
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream)
                rows, columns = list(reader)[:count], list(reader.fieldnames or [])
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"cannot read the names in {file} ({error}); check the name") from error
        if missing := [language for language in languages if language not in columns]:
            raise InputError(f"{file} has no names in {missing[0]!r}; it has {', '.join(columns)}")
        tasks = [Task(row[columns[0]], language, row[language]) for row in rows for language in languages]
    if not tasks or not all(task.name and task.prompt for task in tasks):
        raise InputError(f"no name must be empty, and there must be one, in {prompts!r}; complete it")
    return tasks


def read_drawn(source: Path, tasks: Sequence[Task]) -> list[Drawn]:
    """The finished runs in a folder; or, if it has none, what `look_labelled` finds, pictures with labels.

    Prompts and labels that are those of tasks have their names. Runs without a prompt are left out, with a
    note. Raises InputError when there is nothing.
    """
    known = {task.prompt: task for task in reversed(tasks)}
    drawn, left_out = [], 0
    for file in sorted(source.rglob("run.json")):
        facts = recorded(file.parent)
        if facts["status"] != "finished":
            continue
        prompt, seed, guides = (facts["settings"].get(name) for name in ("prompt", "seed", "clip"))
        if not isinstance(prompt, str) or not prompt.strip() or not isinstance(seed, int):
            left_out += 1
            continue
        task = known.get(prompt, Task(prompt, "", prompt))
        picture = file.with_name("final.png")
        drawn.append(Drawn(facts["recipe"], task, seed, picture, guides if isinstance(guides, str) else None))
    if left_out:
        print(f"note: {left_out} runs in {source} have no prompt and are left out", file=sys.stderr)
    if not drawn:
        for item in look_labelled(source):
            if isinstance(item, Found) and item.caption:
                task = known.get(item.caption, Task(item.caption, "", item.caption))
                drawn.append(Drawn(source.name, task, 0, Path(item.path), None))
    if not drawn:
        raise InputError(
            f"there are no finished runs and no labelled pictures in {source}; name another folder"
        )
    return drawn


class Judge:
    """A model that ranks names for pictures; the names are encoded once."""

    def __init__(self, clip: Clip, names: list[str]) -> None:
        self.clip = clip
        self._names = names
        self._number = {name: i for i, name in enumerate(self._names)}
        self._texts = clip.encode_many(self._names)

    @torch.no_grad()
    def judge(self, drawn: Drawn) -> Judged:
        """Rank all names for a picture; raises InputError when it cannot be read, or the judge is broken."""
        task, image = drawn.task, read_image(drawn.picture).to(self.clip.device)
        views = clean_views(image, self.clip.image_size)[0]
        similarity = (self.clip.encode_image(views) @ self._texts.T).mean(0)
        if not similarity.isfinite().all():
            raise InputError(f"{self.clip.name} gives numbers that are not finite; name another --judge")
        own = similarity[self._number[task.name]]
        return Judged(
            drawn.recipe,
            task.language,
            task.name,
            task.prompt,
            drawn.seed,
            str(drawn.picture),
            rank=int((similarity > own).sum()) + 1,
            guess=self._names[int(similarity.argmax())],
            score=round(own.item(), 4),
        )


def check_judge(
    clip: Clip, made: Iterable[str | None], found: Iterable[str | None], force: bool
) -> dict[str, str]:
    """The fingerprints of the models that are to guide, by their names.

    `made` are the guides of drawings to make, `found` those of drawings that are there, both as `Drawn` names
    them. What is found is not trusted: only its models on this disk are looked at, and none if forced.

    Raises InputError if a guide is the judge, or if somebody's guides are not known, unless forced.
    """
    made, found = set(made), set(found)
    lines = sorted(line for line in made if line is not None)
    own = {name: guide.fingerprint for line in lines for name, (_, guide) in load_guides(line).items()}
    if force:
        return own
    guides = set(own.values())
    unknown = ["a recipe without --clip"] if None in made | found else []
    names = {name for line in found if line is not None for name, _ in parse_weighted(line)}
    for name in sorted(names):
        place = resolve(name)
        if place == resolve(clip.name):
            guides.add(clip.fingerprint)
        elif isinstance(place, Folder) and place.path.exists():
            guides.add(load(name).fingerprint)
        else:
            unknown.append(name)
    if clip.fingerprint in guides:
        raise InputError(f"{clip.name} guides and cannot judge as well; name another --judge, or add --force")
    if unknown:
        raise InputError(
            f"what guided some of the drawings is not known here ({', '.join(unknown)}); "
            "if not the judge, add --force"
        )
    return own


def keep_guides(folder: Path, now: dict[str, str]) -> None:
    """Note in a folder which models guide, by their fingerprints.

    Raises InputError if a model of the same name guided before that has been trained anew since, and if the
    note is broken.
    """
    file = folder / "guides.json"
    try:
        then = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is broken ({error}); choose another output") from error
    if not isinstance(then, dict):
        raise InputError(f"{file} is broken (not names and fingerprints); choose another output")
    if changed := [name for name in then.keys() & now.keys() if then[name] != now[name]]:
        raise InputError(f"{changed[0]} has changed since it guided in {folder}; choose another output")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(then | now, indent=2) + "\n")


def summarise(judged: Sequence[Judged]) -> list[Summary]:
    """The summaries of every recipe, in its languages and, if there are several, in all; in order."""
    found = []
    for recipe in dict.fromkeys(each.recipe for each in judged):
        own = [each for each in judged if each.recipe == recipe]
        languages = list(dict.fromkeys(each.language for each in own))
        for language in [*languages, "all"] if len(languages) > 1 else languages:
            some = [each for each in own if language in ("all", each.language)]
            clusters = _clusters(some)
            found.append(
                Summary(
                    recipe,
                    language,
                    len(some),
                    len(clusters),
                    share([[each.rank == 1 for each in cluster] for cluster in clusters]),
                    share([[each.rank <= 10 for each in cluster] for cluster in clusters]),
                    mean([[each.score for each in cluster] for cluster in clusters]),
                )
            )
    return found


def as_csv(judged: Sequence[Judged]) -> str:
    """A row for each drawing."""
    stream = StringIO()
    writer = csv.DictWriter(stream, list(Judged.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in judged)
    return stream.getvalue()


def _clusters(judged: Sequence[Judged]) -> list[list[Judged]]:
    """The drawings of each name."""
    ordered = sorted(judged, key=lambda each: each.name)
    return [list(group) for _, group in groupby(ordered, key=lambda each: each.name)]
