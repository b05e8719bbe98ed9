"""A client in a pickle or a copy: another open client of the same server."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from mse_grad.tensor import Array
from mse_grad_client import ClientOptions, MseGradClient, RetryOptions
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands

OPTIONS = ClientOptions(timeout_s=60, token="secret", retry=RetryOptions(max_attempts=2))


@pytest.fixture
def client() -> Iterator[MseGradClient]:
    with ScriptedServer() as server, MseGradClient(server.address, options=OPTIONS) as connected:
        yield connected


def pickled(client: MseGradClient) -> MseGradClient:
    restored: MseGradClient = pickle.loads(pickle.dumps(client))
    return restored


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep copy"])
def test_it_has_address_and_options_and_a_connection_of_its_own(
    client: MseGradClient, again: Callable[[MseGradClient], MseGradClient]
) -> None:
    given = operands((100,))
    client.compute(*given)
    with again(client) as other:
        assert (other.address, other.options) == (client.address, client.options)
        np.testing.assert_array_equal(other.compute(*given), expected(*given))
    np.testing.assert_array_equal(client.compute(*given), expected(*given))
    client.close()
    with again(client) as open_again:
        np.testing.assert_array_equal(open_again.compute(*given), expected(*given))


def compute_there(client: MseGradClient, given: tuple[Array, Array, Array]) -> Array:
    with client:
        return client.compute(*given)


def test_it_can_be_passed_to_a_spawned_process(client: MseGradClient) -> None:
    given = operands((100,))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        y = processes.submit(compute_there, client, given).result(60)
    np.testing.assert_array_equal(y, expected(*given))
