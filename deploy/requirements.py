"""Print the requirements of every extra in pyproject.toml, one per line, without building the project."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"].values()
lines = project["dependencies"] + [line for extra in extras for line in extra]
sys.stdout.write("".join(f"{line}\n" for line in lines if not line.startswith("distillnet[")))
