"""The files that say who the server is and who may call it: read at the start, and again when they changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from mse_grad_server.config import Settings
from mse_grad_server.exits import CredentialsError
from mse_grad_server.rotation import Rotated
from mse_grad_server.tokens import Tokens, read_tokens

if TYPE_CHECKING:
    from mse_grad_server.certificates import Certificates

__all__ = ["Credentials"]

# How often the files are looked at.
_LOOK_S = 1.0


class Credentials:
    """Belongs to the event loop.

    Attributes:
        certificates: For TLS; None without.
        tokens: Those that callers need; None where they need none.
    """

    def __init__(self, settings: Settings, log: FilteringBoundLogger) -> None:
        self.certificates: Rotated[Certificates] | None = None
        self.tokens: Rotated[Tokens] | None = None
        self._token_file = settings.token_file
        if settings.tls_certificate:
            # 20 MB and 50 ms for who reads certificates, which only TLS is worth.
            from mse_grad_server.certificates import read_certificates

            files = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            self.certificates = Rotated(files, lambda: read_certificates(settings), log)
        if settings.token_file:
            self.tokens = Rotated((settings.token_file,), lambda: read_tokens(settings.token_file), log)

    def open(self) -> None:
        """Reads the files; raises CredentialsError where one cannot be used."""
        for files in (self.certificates, self.tokens):
            if files is not None:
                files.open()
        # Later, who takes the last token out means that nobody is to call.
        if self.tokens is not None and not self.tokens.value.digests:
            raise CredentialsError(
                f"--token-file {self._token_file} has no token, so nobody could call; add one a line, such as "
                "`openssl rand -hex 32` prints"
            )

    async def keep(self, on_change: Callable[[], None]) -> None:
        """Looks, until it is cancelled, whether the files changed, and calls `on_change` after each change."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.refresh(on_change)

    async def refresh(self, on_change: Callable[[], None]) -> None:
        """Looks once."""
        # In a thread: a folder of the network may not answer.
        changed = [
            await asyncio.to_thread(files.refresh) for files in (self.certificates, self.tokens) if files is not None
        ]
        if any(changed):
            on_change()
