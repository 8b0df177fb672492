"""Zero-shot classification: labels of your own for pictures, and how often they are right."""

import json as json_format
import sys
from pathlib import Path
from typing import Any, Literal

import guidance as g
from guidance.clip.labels import embed_found, look_labelled, read_labels
from guidance.clip.sources import Found, look
from guidance.clip.table import skipped, table
from guidance.clip.templates import read_templates
from guidance.clip.zero_shot import check, classifier, probabilities
from guidance.clip.zero_shot import evaluate as compare
from guidance.progress import counted


def main(
    *files: Path,
    labels: str | None = None,
    templates: str = "plain",
    evaluate: bool = False,
    top: int = 5,
    json: bool = False,
    clip: str = "tiny",
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
) -> str:
    """Label pictures with words of your own, or measure how often that is right.

    Args:
        files: Pictures, folders, tables (.csv, .tsv with filepath), shards (.tar); with --evaluate one
            folder, in which there is a folder for each label, or captions.csv (filepath, title).
        labels: Separated by commas: cat,dog; or @labels.txt, a file with one a line. With --evaluate the
            folder's own, unless there are some here.
        templates: Sentences to put a label into: plain (none; best for tiny, which learned from names),
            openai (80, averaged; for models that learned from captions), or a file with one a line, such as:
            a photo of a {}.
        evaluate: Compare with the labels of the folder: top-1, top-5, recall, confusions.
        top: How many labels of each picture are shown; with --evaluate, how many labels and confusions.
        json: Print everything as JSON, not as a table.
        clip: The model: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:….
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the model's arithmetic: float32, or bfloat16, which is quicker where there is support.
    """
    if not files or (evaluate and len(files) > 1):
        wanted = "one labelled folder" if evaluate else "pictures or folders"
        raise g.InputError(f"name {wanted}, got {len(files)} paths")
    if top < 1:
        raise g.InputError(f"top must be at least 1, got {top}")
    if labels is None and not evaluate:
        raise g.InputError("name the labels to choose from, such as --labels cat,dog or --labels @labels.txt")
    sentences = read_templates(templates)
    names = [] if labels is None else read_labels(labels)
    items = [item for file in files for item in (look_labelled(file) if evaluate else look(file))]
    if evaluate:
        own = dict.fromkeys(item.caption or "" for item in items if isinstance(item, Found))
        names = names or list(own)
        check(names)
        if unknown := own.keys() - set(names):
            raise g.InputError(f"--labels lacks a label of the folder, {min(unknown)!r}; add it")

    model = g.load(clip, device=g.device(device), precision=precision)
    weights = classifier(model, names, sentences).cpu()
    seen = embed_found(model, counted(items, "Reading"))
    facts: dict[str, Any] = {"clip": clip, "templates": templates}
    if evaluate:
        number = {name: i for i, name in enumerate(names)}
        truth = [number[picture.caption or ""] for picture in seen.pictures]
        facts |= compare(seen.embeddings @ weights.T, truth).facts(names)
    else:
        best = probabilities(model, seen.embeddings, weights).topk(min(top, len(names)), dim=1)
        chances = [
            {names[i]: chance for i, chance in zip(*row, strict=True)}
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        paths = [picture.path for picture in seen.pictures]
        facts["pictures"] = [{"path": p, "labels": c} for p, c in zip(paths, chances, strict=True)]
    facts["skipped"] = {missed.path: missed.reason for missed in seen.missed}
    if json:
        return json_format.dumps(facts, ensure_ascii=False, indent=2)
    if seen.missed:
        print(skipped(facts["skipped"], len(items)), file=sys.stderr)
    return "\n\n".join(_evaluation(facts, top) if evaluate else [_choices(facts)])


def _choices(facts: dict[str, Any]) -> str:
    rows = [
        (f"{chance:.1%}", label, "" if i else picture["path"])
        for picture in facts["pictures"]
        for i, (label, chance) in enumerate(picture["labels"].items())
    ]
    return table(["probability", "label", "picture"], rows)


def _evaluation(facts: dict[str, Any], top: int) -> list[str]:
    """The shares; then what `top` lines can say of labels and confusions, which is little of single ones."""
    shares = (f"{facts['top1']:.1%}", f"{facts['top5']:.1%}")
    summary = (str(facts["count"]), str(len(facts["labels"])), *shares)
    tables = [table(["pictures", "labels", "top-1", "top-5"], [summary])]
    known = [(label["recall"], label["pictures"], name) for name, label in facts["labels"].items()]
    worst = sorted((each for each in known if each[1]), key=lambda each: (each[0], -each[1]))[:top]
    if any(count > 1 for _, count, _ in known):
        rows = [(f"{recall:.1%}", str(count), name) for recall, count, name in worst]
        tables.append(table(["recall", "pictures", "recognised least"], rows))
    pairs = facts["confusions"]
    if pairs and (len(pairs) <= top or pairs[0]["times"] > 1):
        rows = [(str(pair["times"]), pair["label"], pair["taken_for"]) for pair in pairs[:top]]
        tables.append(table(["times", "confused most", "taken for"], rows))
    return tables
