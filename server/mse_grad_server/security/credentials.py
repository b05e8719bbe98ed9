"""Files of certificates, keys and tokens: read at the start, and again when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from structlog.typing import FilteringBoundLogger

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.security.files import require_file, state_of
from mse_grad_server.security.tokens import Tokens, read_tokens
from mse_grad_server.settings.model import Settings

if TYPE_CHECKING:
    from mse_grad_server.security.certificates import Certificates

__all__ = ["CredentialFiles", "Credentials", "Rotated", "in_thread"]

T = TypeVar("T")

# Interval between checks of the files.
_CHECK_S = 1.0
# Unusable files are read again after this number of checks even if they did not change: perhaps no descriptor was free.
_CHECKS_TO_RETRY = 30
# A check that takes longer has a folder that does not answer: one of a network whose server is gone.
_ANSWER_S = 30.0


@dataclass(frozen=True)
class CredentialFiles:
    """Paths of the files; "" for a file that is not used.

    Attributes:
        tls_certificate: PEM file of the server's certificate chain.
        tls_key: PEM file of its private key.
        tls_client_ca: PEM file of the CAs of clients.
        token_file: File of the accepted tokens.
    """

    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    token_file: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Returns the paths in the settings."""
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca, settings.token_file)


class Rotated(Generic[T]):
    """The common content of some files, which users may replace while the server runs.

    While the files are unusable, for example halfway through a replacement, their former content stays in use. No
    failure ends the checks: nobody would notice that a removed token is still valid.

    Thread safety: one thread at a time calls `open` and `refresh`; any thread may read `value`.

    Args:
        paths: The files; empty paths are ignored.
        read: Reads them and returns their content; raises CredentialsError.
        log: Receives a line for each replacement.

    Attributes:
        value: The last usable content; set by `open`.
        why_kept: Why the files are unusable now; "" if `value` is their content.
        is_late: Whether a check has not ended for so long that nobody knows their content.
    """

    value: T

    def __init__(self, paths: Sequence[str], read: Callable[[], T], log: FilteringBoundLogger) -> None:
        self._paths = [path for path in paths if path]
        self._read = read
        self._log = log
        self._seen: list[object] = []
        self._checks = 0
        self.why_kept = ""
        self.is_late = False

    def open(self) -> None:
        """Reads the files; raises CredentialsError if they are unusable."""
        self._seen = self._state()
        self.value = self._read()

    @property
    def is_stale(self) -> bool:
        """Whether the former content of the files stays in use."""
        return self.is_late or bool(self.why_kept)

    def late(self) -> None:
        """Notes that a check does not end, in the thread that waits for it."""
        self.is_late = True
        self._log.error(
            "credentials_kept", message=f"{', '.join(self._paths)}: no answer for long; the former content stays in use"
        )

    def refresh(self) -> bool:
        """Reads the files again if they changed; returns whether `value` changed."""
        state = self._state()
        self._checks += 1
        is_retry_due = self.why_kept and self._checks % _CHECKS_TO_RETRY == 0
        if state == self._seen and not is_retry_due:
            return False
        self._seen = state
        try:
            for path in self._paths:
                require_file(path)
            self.value = self._read()
        except CredentialsError as error:
            self._keep(str(error))
            return False
        except Exception as error:  # noqa: BLE001 - too little memory or no thread, say; its text may hold a secret
            self._keep(f"{', '.join(self._paths)} cannot be read now ({type(error).__name__})")
            return False
        self.why_kept = ""
        self._log.info("credentials_read", files=self._paths)
        return True

    def _keep(self, why: str) -> None:
        if why != self.why_kept:
            self._log.error("credentials_kept", message=f"{why}; the former content stays in use")
        self.why_kept = why

    def _state(self) -> list[object]:
        return [state_of(path) for path in self._paths]


class Credentials:
    """Certificates and tokens of the server. Belongs to the event loop.

    Args:
        files: Paths of the files.
        log: Receives a line for each replacement.
        prove: Called with certificates before they are used, and with the flags that name their files; raises
            CredentialsError if they are unusable.

    Attributes:
        certificates: Certificates for TLS; None without TLS.
        tokens: Accepted tokens; None if callers need none.
    """

    def __init__(
        self,
        files: CredentialFiles,
        log: FilteringBoundLogger,
        *,
        prove: Callable[[Certificates, str], None] = lambda certificates, where: None,
    ) -> None:
        self._token_file = files.token_file
        self.certificates = _certificates(files, log, prove) if files.tls_certificate else None
        self.tokens: Rotated[Tokens] | None = None
        if files.token_file:
            self.tokens = Rotated((files.token_file,), lambda: read_tokens(files.token_file), log)

    def open(self) -> None:
        """Reads the files; raises CredentialsError if one is unusable."""
        for files in (self.certificates, self.tokens):
            if files is not None:
                files.open()
        # Checked only at start-up: later, removing the last token is a legitimate way to lock out all callers.
        if self.tokens is not None and not self.tokens.value.grants:
            raise CredentialsError(
                f"--token-file {self._token_file} has no token, so nobody could call; add one per line, such as "
                "`openssl rand -hex 32` prints"
            )

    @property
    def are_stale(self) -> bool:
        """Whether some files are unusable and their former content stays in use."""
        return any(files is not None and files.is_stale for files in (self.certificates, self.tokens))

    async def keep(self, on_change: Callable[[], None]) -> None:
        """Checks the files until it is cancelled, and calls `on_change` after each change."""

        async def keep(files: Rotated[Any]) -> None:
            while True:
                await asyncio.sleep(_CHECK_S)
                await _refresh(files, on_change)

        # Apart, so that a token is removed in time while the folder of the certificates does not answer.
        await asyncio.gather(*(keep(files) for files in (self.certificates, self.tokens) if files is not None))

    async def refresh(self, on_change: Callable[[], None]) -> None:
        """Checks the files once."""
        for files in (self.certificates, self.tokens):
            if files is not None:
                await _refresh(files, on_change)


async def _refresh(files: Rotated[Any], on_change: Callable[[], None]) -> None:
    was_stale = files.is_stale
    checking = asyncio.ensure_future(in_thread(files.refresh))
    try:
        done, _ = await asyncio.wait({checking}, timeout=_ANSWER_S)
        if not done:
            files.late()
            on_change()
            was_stale = True
        has_changed = await checking
    except RuntimeError:  # no thread can be started now
        return
    finally:
        checking.cancel()
    files.is_late = False
    if has_changed or files.is_stale != was_stale:
        on_change()


async def in_thread(check: Callable[[], T]) -> T:
    """Returns the result of `check`. A network folder may never answer: the thread keeps no process from ending."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(check())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            result.set_exception(error)

    Thread(target=run, name="credentials", daemon=True).start()
    return await asyncio.wrap_future(result)


def _certificates(
    files: CredentialFiles, log: FilteringBoundLogger, prove: Callable[[Certificates, str], None]
) -> Rotated[Certificates]:
    # A late import: the module takes 20 MB and 50 ms, which only servers with TLS should pay.
    from mse_grad_server.security.certificates import read_certificates

    paths = (files.tls_certificate, files.tls_key, files.tls_client_ca)
    flags = ("--tls-certificate", "--tls-key", "--tls-client-ca")
    where = ", ".join(f"{flag} {path}" for flag, path in zip(flags, paths, strict=True) if path)

    def read() -> Certificates:
        certificates = read_certificates(files)
        prove(certificates, where)
        return certificates

    return Rotated(paths, read, log)
