"""The recipes that come with the package."""

from pathlib import Path


def recipes() -> dict[str, Path]:
    """The recipe files by name: those in the installed package, or else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    folder = next(f for f in (package / "recipes", package.parent / "recipes") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.py"))}
