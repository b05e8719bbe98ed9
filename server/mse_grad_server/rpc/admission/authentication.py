"""Authentication of callers by bearer tokens, and what their tokens allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

from mse_grad_server.errors import ScopeMissing, ServerError, TokenMissing, TokenRemoved, TokenUnknown
from mse_grad_server.process.clock import Clock
from mse_grad_server.rpc.admission.call import Call
from mse_grad_server.security.credentials import Rotated
from mse_grad_server.security.tokens import Scope, Tokens, digest_of

__all__ = ["Authenticator"]

_KEY = "authorization"
_SCHEME = "bearer "


class Authenticator:
    """Checks the token of each RPC once, when it begins; belongs to the event loop.

    If the token of a stream is removed from the file, or its rights change there, the stream drains. If it does not end
    within the drain timeout, it is cut off.

    Args:
        tokens: Tokens of which each caller needs one; None if callers need none.
        scopes: Full name of a method -> scope that it needs; a method that is not in it needs the greatest.
        clock: Clock of the drain timeout.
        log: Receives a line for each stream that has to drain.
        on_refusal: Called with the reason of each refusal.
        drain_timeout_s: Longest time for a stream to drain.
    """

    def __init__(
        self,
        tokens: Rotated[Tokens] | None,
        scopes: Mapping[str, Scope],
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        on_refusal: Callable[[str], None],
        drain_timeout_s: float,
    ) -> None:
        self._tokens = tokens
        self._scopes = scopes
        self._clock = clock
        self._log = log
        self._on_refusal = on_refusal
        self._drain_timeout_s = drain_timeout_s
        self._calls: dict[int, Call] = {}

    def refusal(self, method: str, metadata: Iterable[Any]) -> ServerError | None:
        """Returns the error that refuses an RPC, or None.

        Args:
            method: Full name of the method, "/package.Service/Method".
            metadata: Metadata of the caller, pairs of key and value.
        """
        needed = self._scopes.get(method, Scope.ADMIN)
        if self._tokens is None or needed is Scope.NONE:
            return None
        token = _token(metadata)
        refusal: ServerError | None = None
        if token is None:
            refusal = TokenMissing(
                "the server serves only callers with a token; send it as the metadata 'authorization: Bearer <token>' "
                "(in the SDK: ClientOptions(token_file=...))"
            )
        elif (grant := self._tokens.value.grant_of(token)) is None:
            refusal = TokenUnknown("the server does not know the token; ask its operator for a valid one")
        elif grant.scope < needed:
            refusal = ScopeMissing(
                f"the token has the scope {grant.scope.name.lower()} and this method needs {needed.name.lower()}; ask "
                "the operator of the server for another token"
            )
        if refusal is not None:
            self._on_refusal(refusal.reason.value)
        return refusal

    def enter(self, call: Call, metadata: Iterable[Any]) -> None:
        """Remembers the token of an RPC and its rights until `leave`."""
        token = None if self._tokens is None else _token(metadata)
        if token is not None and self._tokens is not None:
            call.token_digest = digest_of(token)
            call.grant = self._tokens.value.grants.get(call.token_digest, call.grant)
            self._calls[id(call)] = call

    def leave(self, call: Call) -> None:
        """Forgets an RPC that has ended."""
        self._calls.pop(id(call), None)
        if call.cutting_off is not None:
            call.cutting_off.cancel()

    def tokens_changed(self) -> None:
        """Drains the streams whose tokens are no longer valid, or whose rights have changed."""
        if self._tokens is None:
            return
        grants = self._tokens.value.grants
        for call in list(self._calls.values()):
            if call.streams and call.cutting_off is None and grants.get(call.token_digest) != call.grant:
                self._drain(call, is_valid=call.token_digest in grants)

    def _drain(self, call: Call, *, is_valid: bool) -> None:
        caller = {"caller": call.grant.name} if call.grant.name else {}
        self._log.info("token_removed", method=call.method, request_id=call.request_id, **caller)
        reason = TokenRemoved(
            "the rights of this stream's token have changed; open another stream"
            if is_valid
            else "the token of this stream is no longer valid; open another stream with a valid one"
        )
        for stream in call.streams:
            stream.drain(reason)

        def cut_off() -> None:
            for stream in call.streams:
                stream.cut_off()

        call.cutting_off = self._clock.call_at(self._clock.now() + self._drain_timeout_s, cut_off)


def _token(metadata: Iterable[Any]) -> str | None:
    for key, value in metadata:
        if key == _KEY and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
            return value[len(_SCHEME) :].strip()
    return None
