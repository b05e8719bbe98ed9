"""Writes the dashboards: `python deploy/grafana/generate.py`. The files under dashboards/ are never edited by hand."""

from __future__ import annotations

import json
from pathlib import Path

from device import device_dashboard
from service import service_dashboard

from client import client_dashboard

__all__ = ["FOLDER", "dashboards"]

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Returns the text of each dashboard by the name of its file."""
    made = {"service.json": service_dashboard(), "device.json": device_dashboard(), "client.json": client_dashboard()}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    for file_name, content in dashboards().items():
        (FOLDER / file_name).write_text(content)
