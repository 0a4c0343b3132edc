"""Print the requirements of every extra in pyproject.toml but Ray's, one per line, without building the project.

Ray is large, and only `make test-ray` needs it.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = [lines for extra, lines in project["optional-dependencies"].items() if extra != "ray"]
lines = project["dependencies"] + [line for extra in extras for line in extra]
sys.stdout.write("".join(f"{line}\n" for line in lines if not line.startswith("distillnet[")))
