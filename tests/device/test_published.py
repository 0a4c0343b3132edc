"""What is published beside the code: schemas, examples and the systemd unit."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distillnet.device.check import check_config
from distillnet.device.schemas import files

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


def test_the_published_schemas_are_current() -> None:
    published = {path.name: path.read_text() for path in (ROOT / "docs/mqtt").glob("*.schema.json")}
    assert published == files(), "run: python -m distillnet.device.schemas docs/mqtt"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.device.toml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert "device file of" in check_config(path)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_the_unit_is_hardened(unit: Path) -> None:
    """Exposure at most 1.5: peers have 9 and more."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed: not shown that the unit's exposure is at most 1.5")
    done = subprocess.run(
        [tool, "security", "--offline=true", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= 1.5
