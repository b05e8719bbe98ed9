"""Pictures of every panel with live data, for a person to look at: `make dashboard-pictures`, needs matplotlib."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.deploy.dashboards import dashboards
from support.deploy.panel_pictures import draw

from .conftest import Watched

FOLDER = Path(__file__).parents[2] / "build/dashboards"
LOAD_S = 40.0


@pytest.fixture(scope="module")
def span(watched: Watched) -> tuple[float, float]:
    """Begin and end of a load."""
    begin_s = time.time()
    while time.time() < begin_s + LOAD_S:
        watched.load()
    return begin_s, time.time()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", dashboards())
def test_every_panel_shows_something(watched: Watched, span: tuple[float, float], name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / name.replace(".json", ".png")
    empty = draw(dashboards()[name], watched.prometheus, path, begin_s=span[0], end_s=span[1])
    assert empty == []
