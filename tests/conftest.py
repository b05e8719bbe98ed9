"""Settings of every test."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: two shared cores say nothing about one example. Under CI the examples are the same in every run.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
