"""The application of deploy/ray: its parts without Ray, and a cluster of two nodes with it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.rpc import status_pb2

from mse_grad.codec import Chunk, Header, decode_stream_response, encode_stream_request
from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO, STREAM_GRADIENTS, full_name
from mse_grad.reasons import Reason
from mse_grad.tensor import Reduction
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_ray.ingress import add_service
from mse_grad_ray.replica import Replica, settings_of
from support.deploy.ray_processes import run_with_ray
from support.server.raw_stream import reason_of
from support.tools import require_program
from support.values import expected, operands
from support.waiting import PATIENCE_S

CONFIGS = sorted((Path(__file__).parents[2] / "deploy/ray").glob("*.yaml"))


class FakeContext:
    """Ray's context of one call."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailing: dict[str, str | bytes] = {}
        self._metadata = metadata

    @property
    def reason(self) -> Reason:
        details = self.trailing["grpc-status-details-bin"]
        assert isinstance(details, bytes)
        status = status_pb2.Status.FromString(details)
        assert self.code is not None
        assert (self.code.value[0], self.details) == (status.code, status.message)
        return reason_of(status)

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return self._metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str | bytes]]) -> None:
        self.trailing = dict(trailing_metadata)


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Replica]:
    replica = Replica({"log_level": "error", **settings})
    await replica.open()
    try:
        yield replica
    finally:
        await replica.close()


def unary_request(*, label_bytes: int = 12) -> bytes:
    tensor, label = (pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3], data=bytes(size)) for size in (12, label_bytes))
    return pb.ComputeGradientRequest(
        predict=tensor, label=label, dout=tensor, reduction=pb.REDUCTION_SUM
    ).SerializeToString()


async def each(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def test_a_replica_answers_a_stream_with_the_bits_of_the_formula() -> None:
    predict, label, dout = operands((5000,))
    chunk = Chunk(1, 0, predict.tobytes(), label.tobytes(), dout.tobytes())
    request = encode_stream_request([Header(1, pb.DATA_TYPE_FLOAT32, (5000,), Reduction.MEAN)], [chunk], ())

    async def answers() -> list[bytes]:
        async with opened() as replica:
            context = FakeContext()
            found = [a.SerializeToString() async for a in replica.stream_gradients(each(request), context)]
        assert context.code is None
        return found

    responses = [decode_stream_response(answer) for answer in asyncio.run(answers())]
    (result,) = (result for response in responses for result in response.results)
    assert bytes(result.y) == expected(predict, label, dout).tobytes()
    assert responses[0].opened is not None
    assert not responses[0].opened.HasField("shared_memory")


def test_a_refusal_keeps_its_status_with_details() -> None:
    async def refused() -> FakeContext:
        async with opened() as replica:
            context = FakeContext(("x-request-id", "call-7"), ("user-agent", "a"), ("grpc-trace-bin", b""))
            answer = await replica.compute_gradient(unary_request(label_bytes=8), context)
            assert answer.SerializeToString() == b""
            return context

    context = asyncio.run(refused())
    assert context.reason is Reason.BYTE_COUNT_MISMATCH
    assert context.trailing["x-request-id"] == "call-7"


def test_a_failed_stream_passes_its_status_with_an_empty_last_answer() -> None:
    async def failed() -> tuple[list[bytes], FakeContext]:
        async with opened() as replica:
            context = FakeContext()
            stream = replica.stream_gradients(each(b"\xff"), context)
            return [answer.SerializeToString() async for answer in stream], context

    answers, context = asyncio.run(failed())
    assert answers[-1] == b""
    assert context.reason is Reason.MESSAGE_MALFORMED


def test_a_replica_asks_for_the_token_of_the_caller(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-long-enough\n")

    async def codes() -> list[grpc.StatusCode | None]:
        async with opened(token_file=str(tokens)) as replica:
            contexts = FakeContext(), FakeContext(("authorization", "Bearer a-token-that-is-long-enough"))
            for context in contexts:
                await replica.compute_gradient(unary_request(), context)
            return [context.code for context in contexts]

    assert asyncio.run(codes()) == [grpc.StatusCode.UNAUTHENTICATED, None]


def test_a_caller_that_leaves_ends_its_stream() -> None:
    async def left() -> None:
        async with opened() as replica:
            waiting = asyncio.Event()

            async def silent() -> AsyncIterator[bytes]:
                await waiting.wait()
                yield b""

            async def open_streams() -> int:
                answer = await replica.get_server_info(b"", FakeContext())
                return pb.GetServerInfoResponse.FromString(answer.message).load.open_streams

            stream = replica.stream_gradients(silent(), FakeContext())
            await anext(stream)
            assert await open_streams() == 1
            await stream.aclose()
            while await open_streams():
                pass

    asyncio.run(asyncio.wait_for(left(), PATIENCE_S))


def test_a_proxy_accepts_every_method_and_decodes_no_message() -> None:
    added: list[Any] = []

    class Proxy:
        def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
            added.extend(handlers)

    add_service(object(), Proxy())
    (handler,) = added
    methods = handler._method_handlers  # as Ray reads them
    assert set(methods) == {full_name(method) for method in (COMPUTE_GRADIENT, STREAM_GRADIENTS, GET_SERVER_INFO)}
    for name, method in methods.items():
        assert (method.request_deserializer, method.response_serializer) == (None, None)
        assert (method.request_streaming and method.response_streaming) == (name == full_name(STREAM_GRADIENTS))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_a_configuration_names_what_exists_and_outlives_the_streams(config: Path) -> None:
    parsed = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert parsed["grpc_options"]["grpc_servicer_functions"] == [f"{add_service.__module__}.{add_service.__name__}"]
    (application,) = parsed["applications"]
    module, _, builder = application["import_path"].partition(":")
    source = (config.parent / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    (deployment,) = application["deployments"]
    assert f"\ndef {builder}(" in source
    assert f"\nclass {deployment['name']}:" in source
    settings = settings_of(application["args"], folder="/run")
    assert 1.1 * settings.stream_age_s < deployment["graceful_shutdown_timeout_s"]
    needs_npu = "NPU" in deployment["ray_actor_options"].get("resources", {})
    assert needs_npu == (settings.backend == "ascend")


@pytest.mark.slow
@pytest.mark.timeout(290)  # the cluster may take 180 s, and the environment is installed before
def test_two_nodes_answer_with_the_same_bits_and_statuses_and_survive_a_kill(tmp_path: Path) -> None:
    require_program("unshare")
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root, for its own network")
    report_file = tmp_path / "report.json"
    run_with_ray("-m", "support.deploy.ray_cluster", str(report_file), timeout_s=180)
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert report["bits"] == {"gradients": 144, "different": 0}
    assert report["refusals"]["ray"] == report["refusals"]["direct"]
    assert len(report["refusals"]["direct"]) == 5
    assert "accepted" not in report["refusals"]["direct"]
    assert report["npus"] == ["0", "0,1"]
    assert report["different"] == 0
    assert report["node"]["failures_before"] == 0
    for killed in ("node", "replica"):
        # Only calls that were under way on the killed side fail, at most one a caller.
        assert len(report[killed]["failures"]) <= report["callers"], report[killed]
        assert {failure["error"] for failure in report[killed]["failures"]} <= {"InternalError", "Unavailable"}
