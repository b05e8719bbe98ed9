"""Writes the dashboards: `cd deploy/grafana && python -m source`. Nobody edits the files under dashboards/ by hand."""

from __future__ import annotations

import json
from pathlib import Path

from source.client import client_dashboard
from source.device import device_dashboard
from source.service import service_dashboard

__all__ = ["FOLDER", "dashboards"]

FOLDER = Path(__file__).parents[1] / "dashboards"


def dashboards() -> dict[str, str]:
    """Returns the text of each dashboard by the name of its file."""
    made = {"service.json": service_dashboard(), "device.json": device_dashboard(), "client.json": client_dashboard()}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    for file_name, content in dashboards().items():
        (FOLDER / file_name).write_text(content)
