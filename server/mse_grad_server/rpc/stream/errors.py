"""Errors of requests on one stream, collected until the stream sends them."""

from __future__ import annotations

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.errors import InvalidArgument, to_status

__all__ = ["RequestErrors", "go_away", "id_invalid", "id_unknown"]


class RequestErrors:
    """Errors of requests, with a bound on the errors of one message; belongs to the event loop.

    The bound exists because a message of millions of invalid headers must not become millions of answers.

    Args:
        most_of_message: Most errors of one message.

    Attributes:
        of_message: Errors of the current message; the caller sets it to 0 for each new message.
    """

    def __init__(self, *, most_of_message: int) -> None:
        self.of_message = 0
        self._most_of_message = most_of_message
        self._errors: list[pb.GradientError] = []

    def add(self, id: int, request_id: str, error: BaseException) -> None:
        """Adds the error of request `id`; raises InvalidArgument MESSAGE_MALFORMED beyond the bound."""
        self.of_message += 1
        if self.of_message > self._most_of_message:
            raise InvalidArgument(
                f"the message has more than {self._most_of_message} errors, which no client makes by mistake",
                reason=Reason.MESSAGE_MALFORMED,
                field="message",
            )
        self._errors.append(pb.GradientError(id=id, status=to_status(error, request_id=request_id)))

    def take(self) -> bytes:
        """Returns a message with the errors since the last call; empty without errors."""
        if not self._errors:
            return b""
        message = pb.StreamGradientsResponse(errors=self._errors).SerializeToString()
        self._errors.clear()
        return message

    def clear(self) -> None:
        """Drops all errors."""
        self._errors.clear()


def go_away(reason: BaseException, *, request_id: str = "", last_id: int = 0) -> bytes:
    """Returns a message that ends a stream with `reason`, after the requests up to `last_id`."""
    farewell = pb.GoAway(last_id=last_id, status=to_status(reason, request_id=request_id))
    return pb.StreamGradientsResponse(go_away=farewell).SerializeToString()


def id_invalid(id: int, *, last_id: int) -> InvalidArgument:
    """Returns the error of a header whose id is 0, taken or not ascending."""
    return InvalidArgument(
        f"a header has id {id}; ids are at least 1 and ascend, and the last one of this stream was {last_id}",
        reason=Reason.REQUEST_ID_INVALID,
        field="headers.id",
    )


def id_unknown(id: int, *, field: str) -> InvalidArgument:
    """Returns the error of a chunk or cancellation without a header."""
    return InvalidArgument(
        f"{field} names request {id}, which no header opened", reason=Reason.REQUEST_ID_UNKNOWN, field=field
    )
