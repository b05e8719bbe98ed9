"""Secrets of a host with two workers: they show in no output, page, message, file of the process or command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from mse_grad_client import ClientOptions, MseGradClient, Unauthenticated
from mse_grad_client.options import RetryOptions
from support.server.certificates import Authority, Pair
from support.server.host_process import metrics
from support.server.server_process import ServerProcess, running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

TOKEN, HASHED, WRONG = "a-token-that-is-long-enough", "a-token-of-which-only-the-hash-is-known", "a-token-nobody-knows"
SPOILT = "a-token-that-somebody spoilt"


def rewrite(file: Path, text: str) -> None:
    """Replaces a file in one step."""
    following = file.with_suffix(".next")
    following.write_text(text)
    following.replace(file)


def children(pid: int) -> Iterator[int]:
    """Yields a process and all that it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from children(int(child))


def command_lines(server: ServerProcess) -> str:
    """Returns the command lines of all processes of a host, which every user of the machine can read."""
    return "\n".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in children(server.process.pid))


def output(*arguments: str) -> str:
    """Returns everything that a command of the server prints."""
    program = [sys.executable, "-m", "mse_grad_server", *arguments]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return ended.stdout + ended.stderr


def secrets_of(pair: Pair) -> list[str]:
    """Returns what may show nowhere: tokens, their hashes, and every line of the key."""
    lines = [line for line in pair.key.read_text().splitlines() if not line.startswith("-----")]
    hashes = [sha256(token.encode()).hexdigest() for token in (TOKEN, HASHED, WRONG)]
    return [TOKEN, HASHED, WRONG, "somebody", "spoilt", *hashes, *lines]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc has the command lines")
def test_no_secret_shows_anywhere(tmp_path: Path) -> None:
    ca, tokens = Authority(tmp_path), tmp_path / "tokens"
    pair = ca.issue("server")
    tokens.write_text(f"{TOKEN} name=trainer-a scope=compute\nsha256:{sha256(HASHED.encode()).hexdigest()}\n")
    flags = [*pair.flags, "--token-file", str(tokens)]
    shown = []
    with running_server("--workers", "2", "--ready-when", "all", "--log-level", "debug", *flags) as server:
        for token in (TOKEN, HASHED, WRONG, ""):
            once = RetryOptions(max_attempts=1)
            options = ClientOptions(tls_ca=ca.certificate, token=token, timeout_s=PATIENCE_S, retry=once)
            with MseGradClient(server.address, options=options) as client:
                shown.append(repr(client))
                try:
                    gradient = client.compute(*operands((100,)))
                except Unauthenticated as error:
                    assert token not in (TOKEN, HASHED)
                    shown += [str(error), repr(error)]
                else:
                    assert token in (TOKEN, HASHED)
                    assert gradient.tobytes() == expected(*operands((100,))).tobytes()
        rewrite(tokens, f"{TOKEN}\n{SPOILT}\n")
        wait_until(lambda: "credentials_kept" in server.log)
        shown += [server.log, metrics(server), command_lines(server)]
        assert '"caller": "trainer-a"' in shown[-3]
        assert 'caller="trainer-a"' in shown[-2]
        assert "multiprocessing" in shown[-1] or shown[-1].count("python") > 2
    shown.append(server.log)
    shown.append(output("--print-config", *flags))
    shown.append(output("doctor", *flags))
    shown.append(output("--listen", "127.0.0.1:0", "--metrics-listen", "none", *flags))
    assert "must be a token" in shown[-1]
    assert len(shown) > 8
    assert [(secret, text) for secret in secrets_of(pair) for text in shown if secret in text] == []
