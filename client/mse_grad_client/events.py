"""Events of a client, for its log and its metrics: connections, retries, detours."""

from __future__ import annotations

import logging

from mse_grad_client.errors import MseGradError
from mse_grad_client.interceptor import ClientMetrics

__all__ = ["Events"]

_log = logging.getLogger("mse_grad_client")


class Events:
    """Reports what happens below the calls. Thread-safe.

    The log is quiet by default: nothing is above INFO, which Python shows only if it is asked for.

    Args:
        metrics: Receives the events too; None for the log alone.
    """

    def __init__(self, metrics: ClientMetrics | None = None) -> None:
        self._metrics = metrics

    def connected(self, address: str) -> None:
        """A stream to `address` was opened."""
        _log.debug("connected to %s", address)
        if self._metrics is not None:
            self._metrics.connected(address)

    def directly_connected(self, address: str) -> None:
        """A direct connection beside a stream to `address` takes requests from now on."""
        _log.debug("directly connected to %s", address)

    def not_direct(self, address: str, failure: str) -> None:
        """A direct connection to `address` was tried in vain; requests go on over the stream."""
        _log.info("no direct connection to %s, so requests take the stream: %s", address, failure)

    def retries(self, error: MseGradError, *, step: str, pause_s: float) -> None:
        """A request is sent again, by `step`, after `pause_s`, because `error` ended its last attempt."""
        _log.info("request %s is sent again, %s, in %.3f s: %s", error.request_id or "-", step, pause_s, error.message)
        if self._metrics is not None:
            self._metrics.retried(error.request_id, error)
