"""Restart of a server under a client that stays, on each backend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from mse_grad_client import ClientOptions, MseGradClient, RetryOptions
from support.ports import held_port
from support.server.backends import running_on
from support.values import expected, operands

DEADLINE_S = 90.0


@pytest.mark.parametrize("network", ["tcp", "unix"])
def test_the_next_call_reaches_the_server_that_took_its_place(backend: str, network: str, tmp_path: Path) -> None:
    given = operands((1000,))
    with held_port() as port, ExitStack() as opened:
        listen = f"127.0.0.1:{port}" if network == "tcp" else f"unix:{tmp_path / 'mse-grad.sock'}"
        with running_on(backend, listen=listen) as first:
            client = opened.enter_context(MseGradClient(first.address))
            assert client.compute(*given).tobytes() == expected(*given).tobytes()
            instance = client.server_info().instance_id
        with running_on(backend, listen=listen):
            assert client.compute(*given).tobytes() == expected(*given).tobytes()
            assert client.server_info().instance_id != instance


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_call_made_while_no_server_runs_is_answered_by_the_next_one(backend: str, end: str, tmp_path: Path) -> None:
    given = operands((1000,))
    listen = f"unix:{tmp_path / 'mse-grad.sock'}"
    patient = ClientOptions(retry=RetryOptions(max_attempts=1000, initial_backoff_s=0.01, max_backoff_s=0.1))
    with MseGradClient(listen, options=patient) as client, ThreadPoolExecutor(1) as thread:
        with running_on(backend, listen=listen) as first:
            client.compute(*given)
            if end == "kill":
                first.kill()
        call = thread.submit(client.compute, *given, timeout_s=DEADLINE_S)
        with running_on(backend, listen=listen):
            assert call.result(DEADLINE_S).tobytes() == expected(*given).tobytes()
