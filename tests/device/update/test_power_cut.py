"""The power may fail at any operation on the disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "support/power_cut.py"


@pytest.mark.integration
@pytest.mark.slow
def test_board_survives_a_power_cut_at_every_operation_of_an_update():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--short", "--json"], capture_output=True, text=True, timeout=280, check=False
    )
    facts = json.loads(done.stdout)
    assert facts["cuts"] > 80
    assert facts["bad"] == []
    assert facts["survived"] == facts["cuts"]
