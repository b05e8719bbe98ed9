"""Who may call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from structlog.typing import FilteringBoundLogger

from mse_grad_server.call import Call
from mse_grad_server.clock import Clock
from mse_grad_server.errors import TokenMissing, TokenRemoved, TokenUnknown, Unauthenticated
from mse_grad_server.rotation import Rotated
from mse_grad_server.tokens import Tokens, digest_of

__all__ = ["Access"]

_KEY = "authorization"
_SCHEME = "bearer "
# Docker, Kubernetes and load balancers ask without a token, and hear only whether the server takes requests.
_OPEN_SERVICE = "/grpc.health.v1.Health/"


class Access:
    """Looks for a token at each RPC, once, when it begins; belongs to the event loop.

    What an RPC was opened with may be taken out of the file while it goes on: a stream is then told to go away, and cut
    off where it has not ended within the drain timeout.
    """

    def __init__(
        self,
        tokens: Rotated[Tokens] | None,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        on_refusal: Callable[[str], None],
        drain_timeout_s: float,
    ) -> None:
        """Takes whom it lets in.

        Args:
            tokens: Of which each caller needs one; None lets everybody in.
            clock: Says when to cut off.
            log: Has a line for each stream that is told to go away.
            on_refusal: Called with the reason of each refusal.
            drain_timeout_s: How long a stream may take to end.
        """
        self._tokens = tokens
        self._clock = clock
        self._log = log
        self._on_refusal = on_refusal
        self._drain_timeout_s = drain_timeout_s
        self._calls: dict[int, Call] = {}

    def refusal(self, method: str, metadata: Iterable[Any]) -> Unauthenticated | None:
        """Returns why an RPC is refused, or None.

        Args:
            method: Full name, "/package.Service/Method".
            metadata: What the caller sent, pairs of key and value.
        """
        if self._tokens is None or method.startswith(_OPEN_SERVICE):
            return None
        token = _token(metadata)
        refusal: Unauthenticated | None = None
        if token is None:
            refusal = TokenMissing(
                "the server serves only callers with a token; send it as the metadata 'authorization: Bearer <token>' "
                "(in the SDK: ClientOptions(token_file=...))"
            )
        elif self._tokens.value.digest_of(token) is None:
            refusal = TokenUnknown("the token is none of the server's; ask its operator for one that holds")
        if refusal is not None:
            self._on_refusal(refusal.reason.value)
        return refusal

    def enter(self, call: Call, metadata: Iterable[Any]) -> None:
        """Watches over an RPC that was let in, until it leaves."""
        token = None if self._tokens is None else _token(metadata)
        if token is not None:
            call.token_digest = digest_of(token)
            self._calls[id(call)] = call

    def leave(self, call: Call) -> None:
        """The RPC has ended."""
        self._calls.pop(id(call), None)
        if call.cutting_off is not None:
            call.cutting_off.cancel()

    def tokens_changed(self) -> None:
        """Tells streams to go away whose tokens hold no more."""
        if self._tokens is None:
            return
        held = self._tokens.value.digests
        for call in list(self._calls.values()):
            if call.token_digest not in held and call.streams and call.cutting_off is None:
                self._send_away(call)

    def _send_away(self, call: Call) -> None:
        self._log.info("token_removed", method=call.method, request_id=call.request_id)
        why = TokenRemoved("the token of this stream holds no more; open another one with one that does")
        for stream in call.streams:
            stream.drain(why)

        def cut_off() -> None:
            for stream in call.streams:
                stream.cut_off()

        call.cutting_off = self._clock.call_at(self._clock.now() + self._drain_timeout_s, cut_off)


def _token(metadata: Iterable[Any]) -> str | None:
    for key, value in metadata:
        if key == _KEY and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
            return value[len(_SCHEME) :].strip()
    return None
