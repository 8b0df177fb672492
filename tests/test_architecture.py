"""The rules of the tree: imports go one way, and the package loads nothing before it is needed."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import guidance

PACKAGE = Path(guidance.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "recipes" not in path.parts)

#: What each part may import of the package, besides `errors`, `clock` and itself.
ALLOWED = {
    "errors": set(),
    "clock": set(),
    "devices": set(),
    "distributed": set(),
    "media": set(),
    "options": set(),
    "prompts": set(),
    "warp": set(),
    "crops": {"warp"},
    "clip": {"media", "prompts", "crops", "devices", "distributed"},
    "canvas": {"diffusion.conditioning", "media", "prompts", "crops"},
    "losses": {"clip", "crops", "diffusion", "media", "prompts", "canvas", "warp"},
    "generator": {"canvas.base", "clip", "losses", "media", "optimization", "prompts"},
    "optimization": {"canvas.base"},
    "progress": {"optimization"},
    "checkpoint": {"distributed", "media"},
    "training": {"checkpoint", "distributed", "folder", "media", "progress"},
    "diffusion": {"canvas.base", "clip", "devices", "media", "optimization", "prompts"},
    "shipped": set(),
    "film": {"media"},
    "folder": set(),
    "metadata": {"canvas.svg"},
    "starting": {"canvas.base", "checkpoint", "media", "optimization", "progress"},
    "run": {
        "canvas.base",
        "checkpoint",
        "film",
        "folder",
        "media",
        "metadata",
        "optimization",
        "progress",
        "shipped",
        "starting",
    },
    "doctor": {"canvas", "clip", "film", "media", "shipped"},
    "recipe": {"folder"},
    "drawings": {"folder", "recipe", "run", "shipped"},
    "intervals": set(),
    "evaluation": {"clip", "crops", "folder", "intervals", "losses", "media", "prompts"},
    "cli": {"doctor", "folder", "metadata", "recipe", "run", "shipped"},
    "__main__": {"cli"},
    "__init__": None,
}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere, without the leading `guidance.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= names if node.module == "guidance" else {str(node.module)}
    return {name.removeprefix("guidance.") for name in found if name.startswith("guidance.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert part(path) in ALLOWED, "a new part of the package: say here what it may import"
    allowed = ALLOWED[part(path)]
    if allowed is not None:
        allowed = allowed | {"errors", "clock", part(path), "__version__"}
        wrong = {m for m in imported(path) if not any(m == a or m.startswith(f"{a}.") for a in allowed)}
        assert not wrong


def test_the_rule_would_notice(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "from guidance import clip, __version__\ndef f():\n    from guidance.losses.clip import ClipLoss"
    )
    assert imported(file) == {"clip", "__version__", "losses.clip"}


def test_import_loads_nothing_heavy() -> None:
    code = "import guidance.cli, sys; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert out.stdout == "[]\n", out.stderr


@pytest.mark.parametrize("name", guidance.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(guidance, name) is not None


def test_public_names_are_those_type_checkers_see() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    block = next(node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        name.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == guidance._HOME


def test_no_module_hides_a_public_name() -> None:
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(guidance._HOME)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        importlib.import_module("guidance").nonsense  # noqa: B018
