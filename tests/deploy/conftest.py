"""What the deployment tests share: the build scripts of deploy/ are importable, and say why they cannot run."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy"))
