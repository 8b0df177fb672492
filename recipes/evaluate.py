"""How well drawings are recognised, by a CLIP that did not guide them."""

import json as json_format
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import guidance as g
from guidance.clip.sheet import write_sheet
from guidance.clip.table import table
from guidance.drawings import make_all, plan
from guidance.evaluation import (
    LANGUAGES,
    Drawn,
    Judge,
    Judged,
    Summary,
    as_csv,
    check_judge,
    keep_guides,
    read_distractors,
    read_drawn,
    read_tasks,
    summarise,
)
from guidance.folder import check_writable
from guidance.intervals import Estimate
from guidance.media import write_text
from guidance.progress import counted

RECIPES = ("clipdraw", "shapes")


def main(
    *sources: Path,
    judge: str,
    recipe: tuple[str, ...] = RECIPES,
    prompts: str | None = None,
    languages: str = "en",
    count: int | None = None,
    seeds: int = 1,
    force: bool = False,
    json: bool = False,
    device: str = "auto",
    output: Path = Path("outputs/evaluate"),
) -> str:
    """Draw names with recipes and have another model name the drawings: R-precision, CLIP score, sheets.

    The judge ranks the right English name among 1,571. The same command goes on where it was stopped, and
    drawings that are there are not made again.

    Args:
        sources: Folders of runs, or of labelled pictures, to judge instead of drawing anything.
        judge: A model that did not guide, such as local-dir:outputs/train_judge.
        recipe: How to draw: a recipe and its options, "clipdraw --steps 100"; several times to compare.
        prompts: Names, separated by commas; or @names.csv, with a column for each language, of which the
            first has the names that the judge knows. 100 common things, unless there are some here.
        languages: Columns of the names, such as en,de,es,ja,ru,zh.
        device: auto, cpu, cuda, …: of the judge, and of recipes that do not say themselves.
        count: Only the first so many names.
        seeds: How many drawings of each prompt a recipe makes.
        force: Judge even if the judge has guided, or nobody knows.
        json: Print JSON and not a table.
        output: The folder of the runs, evaluation.json, judged.csv and the sheets.
    """
    if seeds < 1 or (count is not None and count < 1):
        raise g.InputError(f"seeds and count must be at least 1, got {seeds} and {count}")
    if sources and (recipe, seeds, count) != (RECIPES, 1, None):
        raise g.InputError("what is there is judged as it is; leave out --recipe, --seeds and --count")
    if languages != "en" and (sources if prompts is None else not prompts.startswith("@")):
        raise g.InputError("--languages are the columns of names that have some; leave it out here")
    check_writable(output)
    tasks = read_tasks(prompts, [language.strip() for language in languages.split(",")], count)
    rows = [(command, task, number) for command in recipe for number in range(seeds) for task in tasks]
    plans = [
        plan(command, task.prompt, number, output, device)
        for command, task, number in ([] if sources else rows)
    ]
    known = tasks if prompts else read_tasks(languages=LANGUAGES)
    drawn = [each for source in sources for each in read_drawn(source, known)]
    clip = g.load(judge, device=g.device(device))
    guides = check_judge(clip, [each.guides for each in plans], [each.guides for each in drawn], force)
    if plans:
        keep_guides(output, guides)
        made = zip(rows, plans, make_all(plans), strict=True)
        drawn = [Drawn(*row, folder / "final.png", each.guides) for row, each, folder in made]
    names = list(dict.fromkeys([*read_distractors(), *(each.task.name for each in drawn)]))
    ranking = Judge(clip, names)
    judged = [ranking.judge(each) for each in counted(drawn, "Judging")]
    found = summarise(judged)
    facts = {"judge": judge, "names": len(names), "results": [asdict(each) for each in found]}
    text = json_format.dumps(facts, ensure_ascii=False, indent=2)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "evaluation.json", text + "\n")
    write_text(output / "judged.csv", as_csv(judged))
    sheets = write_sheets(output, judged)
    return text if json else "\n".join([report(found), *sheets])


def report(found: Sequence[Summary]) -> str:
    """The summaries as a table, with 95 % intervals."""

    def told(estimate: Estimate, form: str) -> str:
        value = format(estimate.value, form)
        if estimate.low is None or estimate.high is None:
            return value
        return f"{value} ({estimate.low:{form}} to {estimate.high:{form}})"

    rows = []
    for each in found:
        counts = (each.recipe, each.language, str(each.drawings), str(each.names))
        rows.append((*counts, told(each.first, ".0%"), told(each.ten, ".0%"), told(each.score, ".3f")))
    return table(["recipe", "language", "drawings", "names", "first", "first ten", "CLIP score"], rows)


def write_sheets(output: Path, judged: Sequence[Judged]) -> list[str]:
    """A sheet for each recipe and language; a line about each."""
    pages: dict[tuple[str, str], list[Judged]] = {}
    for each in judged:
        pages.setdefault((each.recipe, each.language), []).append(each)
    lines: list[str] = []
    taken: set[str] = set()
    for page, some in pages.items():
        # Bytes count in the name of a file, and a letter has up to four.
        name = re.sub(r"[\W_]+", "-", " ".join(page)).strip("-")[:60]
        if name in taken:
            name += f"-{len(taken) + 1}"
        taken.add(name)
        names = [f"{each.prompt}\n{each.rank}" + f"  {each.guess}" * (each.rank > 1) for each in some]
        lines.append(write_sheet(output / f"{name}.png", [(each.picture, None, 0) for each in some], names))
    return lines
