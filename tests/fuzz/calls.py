"""Sessions of whole calls: ComputeGradient, the Open Inference Protocol, health, reflection, channelz and the rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from fuzz.mutations import mutated, odd_text
from fuzz.peers import PATIENCE_S
from fuzz.samples import SMALL, SmallMethod, infer_request, small_message, unary_request
from fuzz.streams import Tell
from fuzz.trees import Tree, tree_of
from fuzz.verdicts import Wrong, check_error, check_infer, check_infer_in_stream, check_unary
from mse_grad.metadata import METADATA_PREFIX
from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = ["infer_in_stream_session", "infer_session", "small_session", "unary_session"]

_UNARY = "/mse_grad.v1.MseGradService/ComputeGradient"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
# Codes that gRPC's own services give without details: of names and numbers that do not exist.
_OF_GRPC = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
# Other sessions may have all places.
_OF_VALID = (Reason.SERVER_BUSY,)


def unary_session(rng: random.Random, channel: Any, tell: Tell) -> None:
    """Calls ComputeGradient some ten times; raises Wrong if the server breaks a promise."""
    call = channel.unary_unary(_UNARY)

    def sample() -> bytes:
        return bytes(unary_request(rng).SerializeToString())

    for message, is_valid in _messages(rng, sample, pb.ComputeGradientRequest.DESCRIPTOR):
        tell(message)
        answer = _answer(rng, call, message, is_valid=is_valid)
        if answer is not None:
            check_unary(message, answer)


def infer_session(rng: random.Random, channel: Any, tell: Tell) -> None:
    """Calls ModelInfer some ten times; raises Wrong if the server breaks a promise."""
    call = channel.unary_unary(_INFER)

    def sample() -> bytes:
        return infer_request(rng).SerializeToString()

    for message, is_valid in _messages(rng, sample, oip.ModelInferRequest.DESCRIPTOR):
        tell(message)
        answer = _answer(rng, call, message, is_valid=is_valid)
        if answer is not None:
            check_infer(message, answer)


def infer_in_stream_session(rng: random.Random, channel: Any, tell: Tell) -> None:
    """Sends some ten messages over ModelStreamInfer; raises Wrong if the server breaks a promise."""

    def sample() -> bytes:
        return infer_request(rng).SerializeToString()

    sent: list[tuple[bytes, bool]] = []

    def noted() -> Iterator[bytes]:
        for message, is_valid in _messages(rng, sample, oip.ModelInferRequest.DESCRIPTOR):
            tell(message)
            sent.append((message, is_valid))
            yield message

    answered = 0
    try:
        for answer in channel.stream_stream(_INFER_STREAM)(noted(), timeout=2 * PATIENCE_S):
            message, is_valid = sent[answered]
            answered += 1
            check_infer_in_stream(message, answer)
            response = oip.ModelStreamInferResponse.FromString(answer)
            if is_valid and response.error_message and "places" not in response.error_message:
                raise Wrong(f"a valid request failed: {response.error_message}")
    except grpc.RpcError as error:
        check_error(error)
    else:
        if answered != len(sent):
            raise Wrong(f"{answered} answers to {len(sent)} messages")


def small_session(rng: random.Random, channel: Any, tell: Tell) -> None:
    """Calls one of the other methods some ten times; raises Wrong if the server breaks a promise."""
    method = rng.choice(SMALL)
    kind = None if method.request is None else method.request.DESCRIPTOR
    for message, _ in _messages(rng, lambda: small_message(rng, method), kind):
        tell(method.path.encode() + b" " + message)
        call_small(rng, channel, method, message)


def call_small(rng: random.Random | None, channel: Any, method: SmallMethod, message: bytes) -> str:
    """Calls a small method once; returns the reason or code of its failure, or "answered".

    Args:
        rng: Source of odd metadata; None for none.
        channel: Connection to the server.
        method: The method.
        message: Its message.
    """
    try:
        if not method.streams_out:
            channel.unary_unary(method.path)(message, timeout=PATIENCE_S, metadata=_odd_metadata(rng))
            return "answered"
        call = channel.stream_stream(method.path)(iter([message]), timeout=PATIENCE_S)
        try:
            if next(call, None) is None and not method.streams_in:
                raise Wrong("the call ended without an answer")
            if method.ends:
                for _ in call:
                    raise Wrong("a second answer to one message")
        finally:
            call.cancel()
    except grpc.RpcError as error:
        if error.code() in _OF_GRPC and not _has_details(error):
            return str(error.code().name)
        return str(check_error(error).value)
    return "answered"


def _has_details(error: Any) -> bool:
    return any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())


def _messages(rng: random.Random, sample: Callable[[], bytes], kind: Any) -> Iterator[tuple[bytes, bool]]:
    """Yields messages, and whether each is as `sample` made it."""
    for _ in range(rng.randint(4, 16)):
        message = sample()
        if rng.random() < 0.12:
            yield message, True
            continue

        def other() -> Tree:
            return tree_of(sample(), kind)

        yield (odd_text(rng) if kind is None else mutated(rng, tree_of(message, kind), other)), False


def _answer(rng: random.Random, call: Any, message: bytes, *, is_valid: bool) -> bytes | None:
    compression = grpc.Compression.Gzip if rng.random() < 0.1 else None
    try:
        answer: bytes = call(message, timeout=PATIENCE_S, compression=compression, metadata=_odd_metadata(rng))
        return answer
    except grpc.RpcError as error:
        reason = check_error(error)
        if is_valid and reason not in _OF_VALID:
            raise Wrong(f"a valid request failed: {reason}, {error.details()}") from error
        return None


def _odd_metadata(rng: random.Random | None) -> list[tuple[str, str | bytes]] | None:
    if rng is None or rng.random() < 0.8:
        return None
    text = "".join(character for character in odd_text(rng).decode("ascii", "replace") if " " <= character <= "~")
    return [
        rng.choice(
            (
                ("x-request-id", text.strip()),
                ("traceparent", text.strip()),
                ("traceparent", f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-{rng.getrandbits(8):02x}"),
                (f"{METADATA_PREFIX}step", text.strip()),
                ("authorization", f"Bearer {text.strip()}"),
                ("odd-bin", odd_text(rng)),
            )
        )
    ]
