"""Writes the JSON Schemas of all MQTT payloads: `python -m distillnet.device.schemas docs/mqtt`."""

import json
import sys
from pathlib import Path

from distillnet.proto.mqtt import schemas


def files() -> dict[str, str]:
    """Return the schema files by name."""
    return {
        f"{name}.schema.json": json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, indent=2
        )
        + "\n"
        for name, schema in schemas().items()
    }


def main(directory: Path) -> None:
    """Write them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
