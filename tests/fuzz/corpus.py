"""Corpus of messages that are almost valid, with the outcome of each.

A line of `corpus/KIND.txt` has the outcome and the message in hexadecimal.
`PYTHONPATH=tests .venv/bin/python -m fuzz.corpus` mutates valid messages, sends each to a server by itself, and keeps
the shortest one of each outcome. So the corpus has every kind of error that the fuzzer reaches, and a change of one
shows.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fuzz.calls import call_small
from fuzz.mutations import mutated
from fuzz.peers import PATIENCE_S, opened_rpc
from fuzz.samples import SMALL, StreamSamples, infer_request, small_message, unary_request
from fuzz.streams import Judged
from fuzz.trees import tree_of
from fuzz.verdicts import check_error, check_infer, check_unary, parsed
from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.v1 import mse_grad_pb2 as pb
from support.server.server_process import running_server

__all__ = ["KINDS", "Entry", "entries", "outcome_of"]

_FOLDER = Path(__file__).with_name("corpus")
_MOST_BYTES = 400
_UNARY = "/mse_grad.v1.MseGradService/ComputeGradient"
_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Entry:
    """A message of the corpus.

    Attributes:
        kind: One of `KINDS`.
        outcome: Its outcome: "answered", or reasons of errors.
        message: The message.
    """

    kind: str
    outcome: str
    message: bytes


def entries() -> Iterator[Entry]:
    """Yields the whole corpus."""
    for kind in KINDS:
        for line in (_FOLDER / f"{_file(kind)}.txt").read_text(encoding="ascii").splitlines():
            outcome, _, text = line.rpartition(" ")
            yield Entry(kind, outcome, bytes.fromhex(text))


def outcome_of(channel: Any, kind: str, message: bytes) -> str:
    """Sends a message by itself and judges the answer; raises Wrong if the server breaks a promise."""
    return KINDS[kind].outcome(channel, message)


def _stream_outcome(channel: Any, message: bytes) -> str:
    with opened_rpc(channel) as (rpc, _):
        judged = Judged(rpc)
        judged.send(message)
        judged.probe()
        return ", ".join(sorted(judged.reasons)) or "answered"


def _unary_outcome(channel: Any, message: bytes) -> str:
    try:
        check_unary(message, channel.unary_unary(_UNARY)(message, timeout=PATIENCE_S))
    except grpc.RpcError as error:
        return str(check_error(error).value)
    return "answered"


def _infer_outcome(channel: Any, message: bytes) -> str:
    try:
        check_infer(message, channel.unary_unary(_INFER)(message, timeout=PATIENCE_S))
    except grpc.RpcError as error:
        return str(check_error(error).value)
    return "answered"


def _small_outcome(channel: Any, message: bytes) -> str:
    path, _, rest = message.partition(b" ")
    method = next(method for method in SMALL if method.path.encode() == path)
    outcome = call_small(None, channel, method, rest)
    if "/grpc.channelz." in method.path and outcome == "NOT_FOUND":  # what there is depends on the run
        outcome = "answered"
    return f"{method.path} {outcome}"


def _stream_sample(rng: random.Random) -> bytes:
    return StreamSamples(rng, shares_memory=True).message().SerializeToString()


def _small_sample(rng: random.Random) -> bytes:
    method = rng.choice(SMALL)
    message = small_message(rng, method)
    if method.request is not None and rng.random() < 0.5:
        kind = method.request.DESCRIPTOR
        message = mutated(rng, tree_of(message, kind), lambda: tree_of(small_message(rng, method), kind))
    return method.path.encode() + b" " + message


def _mutated_sample(sample: Callable[[random.Random], bytes], kind: Any) -> Callable[[random.Random], bytes]:
    def make(rng: random.Random) -> bytes:
        return mutated(rng, tree_of(sample(rng), kind), lambda: tree_of(sample(rng), kind))

    return make


@dataclass(frozen=True)
class _Kind:
    outcome: Callable[[Any, bytes], str]
    sample: Callable[[random.Random], bytes]


KINDS = {
    "stream": _Kind(_stream_outcome, _mutated_sample(_stream_sample, pb.StreamGradientsRequest.DESCRIPTOR)),
    "unary": _Kind(
        _unary_outcome,
        _mutated_sample(lambda rng: unary_request(rng).SerializeToString(), pb.ComputeGradientRequest.DESCRIPTOR),
    ),
    "infer": _Kind(
        _infer_outcome,
        _mutated_sample(lambda rng: infer_request(rng).SerializeToString(), oip.ModelInferRequest.DESCRIPTOR),
    ),
    "small": _Kind(_small_outcome, _small_sample),
}
"""Kinds of messages."""


def _is_timed(kind: str, message: bytes) -> bool:
    """Whether the outcome of a message depends on the time."""
    request = parsed(pb.StreamGradientsRequest, message) if kind == "stream" else None
    return request is not None and any(header.time_left_us for header in request.headers)


def _file(kind: str) -> str:
    return kind.replace(" ", "_")


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the corpus anew."""
    parser = argparse.ArgumentParser(prog="fuzz.corpus", description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="messages of each kind")
    given = parser.parse_args(arguments)
    rng = random.Random(3)
    with running_server(metrics_listen="none") as server, grpc.insecure_channel(server.address) as channel:
        for name, kind in KINDS.items():
            shortest: dict[str, bytes] = {}
            for _ in range(given.cases):
                message = kind.sample(rng)
                if len(message) <= _MOST_BYTES and not _is_timed(name, message):
                    outcome = kind.outcome(channel, message)
                    shortest[outcome] = min(shortest.get(outcome, message), message, key=len)
            lines = [f"{outcome} {message.hex()}\n" for outcome, message in sorted(shortest.items())]
            (_FOLDER / f"{_file(name)}.txt").write_text("".join(lines), encoding="ascii")
            print(f"{name}: {len(lines)} messages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
