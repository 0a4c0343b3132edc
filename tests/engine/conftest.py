import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def data_dir() -> Path:
    import os

    root = Path(__file__).parents[2]
    path = Path(os.environ.get("DISTILLNET_DATA", root.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"{path} is not there: would have shown bit-exactness on real models")
    return path
