"""Quotas of tokens, and the bounds on what one client may take of the places."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.errors import ServerBusy
from mse_grad_server.rpc.admission.places import Occupant, Places
from support.server.fakes import FakeClock
from support.server.raw_stream import chunk, detail, header, operands, reason_of, told
from support.server.server_in_loop import serving

SMALL, OTHER = "a-token-with-a-small-quota", "a-token-without-a-quota"
KIB = 1024


def bearer(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),)}


def tokens(folder: Path, rights: str) -> str:
    file = folder / "tokens"
    file.write_text(f"{SMALL} name=small {rights}\n{OTHER}\n")
    return str(file)


async def test_a_token_has_only_so_many_requests_under_way_over_all_of_its_streams(tmp_path: Path) -> None:
    async with serving(token_file=tokens(tmp_path, "requests=2")) as server:
        streams = [await server.stream(**bearer(SMALL)) for _ in range(3)]
        for stream in streams[:2]:
            await stream.send([header(1, (2,))], [chunk(1, 0, [1.0])])
            await stream.receive_gradient(1, 1)
        await streams[2].send([header(1, (2,))], [chunk(1, 0, [1.0])])
        (error,) = (await streams[2].receive()).errors
        assert reason_of(error.status) is Reason.QUOTA_EXCEEDED
        assert detail(error.status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        other = await server.stream(**bearer(OTHER))
        await other.assert_works(1)
        await streams[0].send((), [chunk(1, 1, [1.0])])
        await streams[0].receive()
        await streams[2].assert_works(2)
        assert server.metric("mse_grad_refusals_total", reason="QUOTA_EXCEEDED") == 1
        assert server.metric("mse_grad_caller_in_flight_requests", caller="small") == 1


async def test_a_token_has_only_so_many_bytes_in_flight(tmp_path: Path) -> None:
    async with serving(token_file=tokens(tmp_path, "bytes=24KiB")) as server:
        stream = await server.stream(**bearer(SMALL))
        count = KIB  # 12 KiB of operands
        for id in (1, 2, 3):
            await stream.send([header(id, (count,))])
        (error,) = (await stream.receive()).errors
        assert (error.id, reason_of(error.status)) == (3, Reason.QUOTA_EXCEEDED)
        assert server.metric("mse_grad_caller_in_flight_bytes", caller="small") == 24 * KIB
        await stream.send((), (), [1, 2])
        await stream.receive()
        await stream.send([header(4, (100 * count,))], [chunk(4, 0, [1.0] * 100 * count)])  # alone
        assert (await stream.receive_gradient(4, 100 * count)).size == 100 * count


async def test_unary_calls_count_too(tmp_path: Path) -> None:
    predict, label, dout = (
        pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3], data=operand.tobytes()) for operand in operands([1.0] * 3)
    )
    message = pb.ComputeGradientRequest(predict=predict, label=label, dout=dout, reduction=pb.REDUCTION_SUM)
    async with serving(token_file=tokens(tmp_path, "requests=1")) as server:
        stream = await server.stream(**bearer(SMALL))
        await stream.send([header(1, (2,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call("ComputeGradient", message.SerializeToString(), **bearer(SMALL))
        assert told(caught.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUOTA_EXCEEDED)
        await stream.send((), (), [1])
        await stream.receive()
        assert await server.call("ComputeGradient", message.SerializeToString(), **bearer(SMALL))


class Rpc(Occupant):
    client: Hashable = None
    idle_since_s: float | None = None

    def __init__(self, client: str, peer: str, *, idle_since_s: float | None = None) -> None:
        self.client = client
        self.idle_since_s = idle_since_s
        self.gave_way = False
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def give_way(self) -> None:
        self.gave_way = True


def test_one_client_takes_seven_eighths_of_the_places_over_all_of_its_connections() -> None:
    places = Places(64, FakeClock(), noun="streams")
    greedy = [Rpc("greedy", f"ipv4:10.0.0.1:{port}") for port in range(57)]
    for rpc in greedy[:56]:
        places.take(rpc)
    with pytest.raises(ServerBusy, match="56 streams of this client are open"):
        places.take(greedy[56])
    others = [Rpc("modest", "ipv4:10.0.0.2:1") for _ in range(8)]
    for rpc in others:
        places.take(rpc)
    assert len(places) == 64
    places.leave(greedy[0])
    places.take(greedy[56])
    assert not any(rpc.gave_way for rpc in (*greedy, *others))


def test_at_its_bound_a_client_makes_room_for_itself_and_not_at_the_cost_of_others() -> None:
    places = Places(8, FakeClock(), noun="streams")
    idle = Rpc("modest", "b", idle_since_s=0.0)
    places.take(idle)
    own = [Rpc("greedy", "a", idle_since_s=500.0 if number == 3 else None) for number in range(7)]
    for rpc in own:
        places.take(rpc)
    places.take(Rpc("greedy", "a"))
    assert [rpc.gave_way for rpc in own] == [number == 3 for number in range(7)]
    assert not idle.gave_way


def test_few_places_may_all_go_to_one_client() -> None:
    places = Places(4, FakeClock(), noun="streams")
    for _ in range(4):
        places.take(Rpc("only", "a"))
    assert len(places) == 4
