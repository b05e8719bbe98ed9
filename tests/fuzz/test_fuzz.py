"""A short run of the fuzzer, its corpus, and its own mistakes."""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from fuzz.campaign import SURFACES, fuzz
from fuzz.corpus import KINDS, Entry, entries, outcome_of
from fuzz.mutations import MOST_BYTES, mutated
from fuzz.peers import Packets
from fuzz.samples import StreamSamples, infer_request, unary_request
from fuzz.trees import encoded, tree_of
from fuzz.verdicts import StreamVerdict, Wrong, check_status, check_unary, parsed
from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.errors import BackendError, InvalidArgument, to_status
from support.server.server_process import running_server

CASES = 10_000


def test_ten_thousand_messages_that_are_almost_valid_get_right_or_typed_answers() -> None:
    report = fuzz(CASES, seed=11)
    print(report)
    assert report.failures == []
    assert report.total >= CASES
    assert set(report.cases) == set(SURFACES)


@pytest.mark.skipif(sys.platform != "linux", reason="packets need Linux")
def test_a_peer_reads_the_reason_after_a_reset() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            ours.send(b"unread")
            theirs.send(b"the reason")
        peer = Packets(ours)
        assert [peer.receive(), peer.receive()] == [b"the reason", None]


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    with running_server(metrics_listen="none") as server, grpc.insecure_channel(server.address) as channel:
        yield channel


def test_the_corpus_has_most_reasons() -> None:
    found = {word for entry in entries() for word in entry.outcome.replace(",", "").split()}
    missing = {reason.value for reason in Reason if reason.code is grpc.StatusCode.INVALID_ARGUMENT} - found
    # Objects of the SDK's callers, handovers of memory, and a dtype that only another backend refuses.
    assert missing <= {"OPERAND_UNSUPPORTED", "OUT_NOT_WRITABLE", "SHARED_MEMORY_UNUSABLE", "SHARED_RANGE_INVALID"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_outcomes_of_the_corpus_stay(channel: Any, kind: str) -> None:
    found = [
        Entry(kind, outcome_of(channel, kind, entry.message), entry.message)
        for entry in entries()
        if entry.kind == kind
    ]
    assert found == [entry for entry in entries() if entry.kind == kind]
    assert found


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        (lambda rng: StreamSamples(rng, shares_memory=True).message(), pb.StreamGradientsRequest),
        (unary_request, pb.ComputeGradientRequest),
        (infer_request, oip.ModelInferRequest),
    ],
)
def test_a_tree_is_its_message_and_mutations_are_many_small_and_repeatable(sample: object, kind: type) -> None:
    rng = random.Random(1)
    messages = [sample(rng).SerializeToString() for _ in range(200)]  # type: ignore[operator]
    trees = [tree_of(message, kind.DESCRIPTOR) for message in messages]  # type: ignore[attr-defined]
    assert [encoded(tree) for tree in trees] == messages

    def once() -> list[bytes]:
        source = random.Random(2)
        return [mutated(source, tree, lambda: trees[0]) for tree in trees]

    changed = once()
    assert changed == once()
    assert max(map(len, changed)) <= MOST_BYTES
    assert sum(old != new for old, new in zip(messages, changed, strict=True)) > 150
    assert 20 < sum(parsed(kind, message) is not None for message in changed) < 190
    assert [encoded(tree) for tree in trees] == messages, "a mutation changed its source"


def test_a_wrong_gradient_and_an_error_of_a_failed_server_are_found() -> None:
    request = unary_request(random.Random(3))
    while not request.predict.data:
        request = unary_request(random.Random(4))
    answer = pb.ComputeGradientResponse(y=request.predict)
    with pytest.raises(Wrong, match="right is"):
        check_unary(request.SerializeToString(), answer.SerializeToString())
    check_status(to_status(InvalidArgument("no", reason=Reason.SHAPE_INVALID, field="x"), request_id=""))
    for status in (
        to_status(BackendError("no"), request_id=""),
        to_status(InvalidArgument("0x7f1234567890", reason=Reason.SHAPE_INVALID, field="x"), request_id=""),
        status_pb2.Status(code=3, message="no details"),
    ):
        with pytest.raises(Wrong):
            check_status(status)


def test_answers_to_requests_that_nobody_sent_are_found() -> None:
    verdict = StreamVerdict()
    verdict.sent(pb.StreamGradientsRequest(cancel_ids=[4]).SerializeToString())
    error = pb.GradientError(
        id=4, status=to_status(InvalidArgument("", reason=Reason.REQUEST_ID_UNKNOWN, field="x"), request_id="")
    )
    verdict.check(pb.StreamGradientsResponse(errors=[error]).SerializeToString())
    error.id = 5
    for response in (
        pb.StreamGradientsResponse(errors=[error]),
        pb.StreamGradientsResponse(results=[pb.GradientResult(id=4, y=bytes(4))]),
    ):
        with pytest.raises(Wrong, match=r"nobody|not sent"):
            verdict.check(response.SerializeToString())
