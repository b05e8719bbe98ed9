"""Many gradients in one call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from mse_grad.codec import StreamRequest
from mse_grad.reasons import Reason
from mse_grad.tensor import Array
from mse_grad_client import ClientOptions, InvalidArgument, MseGradClient, MseGradError, RetryOptions, Unavailable
from support.client.scripted_server import ScriptedServer, answer, answer_all, refused
from support.values import expected, operands

ONE_ATTEMPT = ClientOptions(retry=RetryOptions(max_attempts=1))
Item = tuple[Array, Array, Array]


def items_of(*shapes: tuple[int, ...]) -> list[Item]:
    return [operands(shape, seed=seed) for seed, shape in enumerate(shapes)]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(answer_all) as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer, client_type: type[MseGradClient]) -> Iterator[MseGradClient]:
    with client_type(server.address) as client:
        yield client


def test_gradients_come_in_the_order_of_the_items(client: MseGradClient) -> None:
    items = items_of(*[(3, 4), (5,), (3, 4), (), (0, 2), (5,), (3, 4)])
    for item, y in zip(items, client.compute_many(items), strict=True):
        np.testing.assert_array_equal(y, expected(*item))
        assert (y.shape, y.dtype) == (item[0].shape, item[0].dtype)


def test_items_of_one_shape_travel_as_one_request(client: MseGradClient, server: ScriptedServer) -> None:
    items = items_of(*[(16,)] * 40, *[(8,)] * 3)
    client.compute_many(items)
    headers = [header for request in server.requests for header in request.headers]
    assert sorted((header.shape, header.tensors) for header in headers) == [((8,), 3), ((16,), 40)]


def test_no_request_holds_more_than_a_pack(client: MseGradClient, server: ScriptedServer) -> None:
    items = items_of(*[(1024, 16)] * 11)  # 64 KiB each
    for item, y in zip(items, client.compute_many(items), strict=True):
        np.testing.assert_array_equal(y, expected(*item))
    headers = [header for request in server.requests for header in request.headers]
    assert [header.tensors for header in headers] == [4, 4, 3]


def test_an_item_alone_is_an_ordinary_request(client: MseGradClient, server: ScriptedServer) -> None:
    (item,) = items_of((7,))
    (y,) = client.compute_many([item])
    np.testing.assert_array_equal(y, expected(*item))
    assert [header.tensors for request in server.requests for header in request.headers] == [0]


def test_scalar_douts_pack_if_they_are_equal(client: MseGradClient, server: ScriptedServer) -> None:
    douts = (2, 3, 2, 2)
    items = [(predict, label, dout) for (predict, label, _), dout in zip(items_of(*[(9,)] * 4), douts, strict=True)]
    for item, y in zip(items, client.compute_many(items, "sum"), strict=True):
        predict, label, dout = item
        np.testing.assert_array_equal(y, expected(predict, label, np.full_like(predict, dout), "sum"))
    headers = [header for request in server.requests for header in request.headers]
    assert sorted(header.tensors for header in headers) == [0, 3]


def test_big_endian_items_keep_their_byte_order(client: MseGradClient) -> None:
    items = items_of((6,), (6,))
    swapped = [(predict.astype(">f4"), label.astype(">f4"), dout.astype(">f4")) for predict, label, dout in items]
    for item, y in zip(items, client.compute_many(swapped), strict=True):
        assert y.dtype == np.dtype(">f4")
        np.testing.assert_array_equal(y, expected(*item))


def test_no_items_are_no_requests(client: MseGradClient, server: ScriptedServer) -> None:
    assert client.compute_many([]) == []
    assert server.requests == []


def test_an_item_that_breaks_a_rule_fails_alone(client: MseGradClient) -> None:
    good, bad, also_good = items_of((4,), (4,), (4,))
    items = [good, (bad[0], np.zeros(5, np.float32), bad[2]), also_good]
    first, error, last = client.compute_many(items, return_errors=True)
    np.testing.assert_array_equal(first, expected(*good))
    np.testing.assert_array_equal(last, expected(*also_good))
    assert isinstance(error, InvalidArgument)
    assert error.reason is Reason.SHAPE_MISMATCH
    with pytest.raises(InvalidArgument, match=r"item 1: predict has shape \[4\], label has \[5\]"):
        client.compute_many(items)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (operands((4,))[:2], "item 1 has 2 operands; it must have 3"),
        ((*operands((4,)), "mean"), "item 1 has 4 operands; it must have 3"),
        ((), "item 1 has 0 operands"),
        (None, "item 1 is a NoneType; it must be three operands"),
        (3.0, "item 1 is a float; it must be three operands"),
        (np.array(3.0), "item 1 is a ndarray of rank 0; it must be three operands"),
        (iter(operands((4,))), "item 1 is a tuple_iterator; it must be three operands"),
        ({1.0, 2.0, 3.0}, "item 1 is a set; it must be predict, label and dout in this order"),
        (dict.fromkeys((1.0, 2.0, 3.0)), "item 1 is a dict; it must be predict, label and dout in this order"),
        ((None, None, None), "item 1: predict has dtype object"),
        ((*operands((4,))[:2], 10**400), "item 1: dout is an integer of 1329 bits"),
    ],
)
def test_an_item_that_is_not_three_operands_fails_alone(client: MseGradClient, item: Any, words: str) -> None:
    good = items_of((4,))[0]
    first, error, last = client.compute_many([good, item, good], return_errors=True)
    assert isinstance(error, InvalidArgument)
    assert words in error.message
    for y in (first, last):
        np.testing.assert_array_equal(y, expected(*good))
    with pytest.raises(InvalidArgument, match=re.escape(words)):
        client.compute_many([good, item])


@pytest.mark.parametrize("items", [None, 3.0])
def test_items_that_cannot_be_iterated_are_refused(client: MseGradClient, items: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"items is a {type(items).__name__}"):
        client.compute_many(items)


@pytest.mark.parametrize("elements", [16, 1024, 64 * 1024, 128 * 1024], ids=lambda elements: f"{elements} elements")
@pytest.mark.parametrize("scalar", [False, True], ids=["full dout", "dout of one element"])
def test_a_generator_of_items_may_reuse_its_arrays(client: MseGradClient, elements: int, scalar: bool) -> None:
    predict, label = np.empty((2, elements), "f4")
    dout = np.empty(1 if scalar else elements, "f4")

    def items() -> Iterator[Item]:
        for number in range(9):
            predict[:], label[:], dout[:] = number, 2 * number + 1, number % 2 + 1
            yield predict, label, dout

    wanted = [expected(predict, label, dout, "sum") for _ in items()]
    for y, right in zip(client.compute_many(items(), "sum"), wanted, strict=True):
        np.testing.assert_array_equal(y, right)


def test_a_sequence_that_creates_its_items_may_reuse_its_arrays(client: MseGradClient) -> None:
    class Batches(Sequence[Item]):
        predict, label, dout = np.empty((3, 16), "f4")

        def __len__(self) -> int:
            return 5

        def __getitem__(self, number: Any) -> Any:
            if number >= len(self):
                raise IndexError(number)
            self.predict[:], self.label[:], self.dout[:] = number, 1, 1
            return self.predict, self.label, self.dout

    for number, y in enumerate(client.compute_many(Batches(), "sum")):
        np.testing.assert_array_equal(y, np.full(16, 2 * (number - 1), "f4"))


def refuse_the_first_shape(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    for request in requests:
        if request.headers[0].shape == (4,):
            yield refused(request.headers[0].id, Reason.INTERNAL, "of no use")
        else:
            yield answer({}, request)


def test_a_request_that_the_server_refuses_leaves_the_others_their_gradients() -> None:
    items = items_of((4,), (4,), (5,), (5,))
    with ScriptedServer(refuse_the_first_shape) as server, MseGradClient(server.address, options=ONE_ATTEMPT) as client:
        results = client.compute_many(items, return_errors=True)
    for error in results[:2]:
        assert isinstance(error, MseGradError)
        assert error.reason is Reason.INTERNAL
    for item, y in zip(items[2:], results[2:], strict=True):
        np.testing.assert_array_equal(y, expected(*item))


def end_at_once(_: Iterator[StreamRequest]) -> Iterator[bytes]:
    yield from ()


def test_a_stream_that_breaks_off_is_tried_again() -> None:
    items = items_of(*[(4,)] * 10, *[(5,)] * 10)
    with ScriptedServer(end_at_once, answer_all) as server, MseGradClient(server.address) as client:
        for item, y in zip(items, client.compute_many(items), strict=True):
            np.testing.assert_array_equal(y, expected(*item))


def test_without_a_server_every_item_is_unavailable() -> None:
    with MseGradClient("127.0.0.1:1", options=ONE_ATTEMPT) as client:
        results = client.compute_many(items_of((4,), (5,)), return_errors=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]


def test_items_that_end_midway_leave_nothing_in_flight(client: MseGradClient, server: ScriptedServer) -> None:
    def broken() -> Iterator[Item]:
        yield from items_of(*[(1024, 64)] * 3)
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        client.compute_many(broken())
    assert client._transport._session.pool.given.in_flight_bytes == 0
    np.testing.assert_array_equal(client.compute(*operands((4,))), expected(*operands((4,))))
