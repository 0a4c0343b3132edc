"""Build the documentation as a site: build/site, from the Markdown in the tree as it lies; a broken link is an error.

    python deploy/docs_site.py [--serve]

MkDocs wants one folder of pages, ours link across the tree: the pages are copied with their places kept.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build/site-pages"
SITE = ROOT / "build/site"
SHOWN = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "docs",
    "examples",
    "deploy/cloud",
    "deploy/systemd",
)
CONFIGURATION = ROOT / "docs/mkdocs.yml"


def stage() -> None:
    """Copy what is shown to where MkDocs looks."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for name in SHOWN:
        target = PAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target)
        else:
            shutil.copy(ROOT / name, target)


def main() -> int:
    """The command line."""
    stage()
    tool = [sys.executable, "-m", "mkdocs", "-q"]
    if sys.argv[1:] == ["--serve"]:
        return subprocess.run([*tool, "serve", "-f", str(CONFIGURATION)]).returncode
    return subprocess.run([*tool, "build", "--strict", "-f", str(CONFIGURATION), "-d", str(SITE)]).returncode


if __name__ == "__main__":
    sys.exit(main())
