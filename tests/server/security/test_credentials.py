from __future__ import annotations

import asyncio
import io
import json
import os
from pathlib import Path
from threading import Event, Thread

import pytest

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.process.log import open_log
from mse_grad_server.security.certificates import Certificates
from mse_grad_server.security.credentials import CredentialFiles, Credentials, Rotated
from support.server.certificates import Authority
from support.waiting import PATIENCE_S, until


def test_a_certificate_that_fails_the_proof_is_not_used(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    pair, unusable, renewed = (ca.issue(name) for name in ("server", "unusable", "renewed"))
    refused = unusable.certificate.read_bytes()
    renewed_chain = renewed.certificate.read_bytes()

    def prove(certificates: Certificates, where: str) -> None:
        if certificates.chain == refused:
            raise CredentialsError(f"no client can connect with {where}")

    log, stale = io.StringIO(), []
    credentials = Credentials(CredentialFiles(**pair.settings), open_log("info", "json", stream=log), prove=prove)
    credentials.open()
    assert credentials.certificates is not None
    before = credentials.certificates.value

    def look() -> None:
        asyncio.run(credentials.refresh(lambda: stale.append(credentials.are_stale)))

    pair.replace_with(unusable)
    look()
    look()
    assert credentials.certificates.value is before
    pair.replace_with(renewed)
    look()
    assert credentials.certificates.value.chain == renewed_chain
    assert stale == [True, False]
    kept, _ = (json.loads(line) for line in log.getvalue().splitlines())
    assert f"--tls-certificate {pair.certificate}, --tls-key {pair.key}" in kept["message"]


class File:
    """A file with a number, and its `Rotated`.

    Attributes:
        reads: Number of times that it was read.
        error: Raised when it is read; None for no error.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "number"
        self.path.write_text("1")
        self.reads = 0
        self.error: Exception | None = None
        self.log = io.StringIO()
        self.rotated = Rotated([str(self.path), ""], self._read, open_log("info", "json", stream=self.log))

    def _read(self) -> int:
        self.reads += 1
        if self.error is not None:
            raise self.error
        try:
            return int(self.path.read_text())
        except (OSError, ValueError) as cause:
            raise CredentialsError("it is no number") from cause

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


def test_a_file_is_read_again_only_if_it_changed(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.rotated.open()
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.reads) == (1, 1)
    file.path.write_text("22")
    assert file.rotated.refresh()
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.reads, file.events) == (22, 2, ["credentials_read"])


def test_a_replaced_file_has_changed(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.rotated.open()
    (tmp_path / "next").write_text("2")
    (tmp_path / "next").replace(file.path)
    assert file.rotated.refresh()
    assert file.rotated.value == 2


def test_unusable_files_are_read_again_even_if_they_did_not_change(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.rotated.open()
    file.path.write_text("2")
    file.error = CredentialsError("no descriptor is free")
    assert not file.rotated.refresh()
    assert file.rotated.why_kept == "no descriptor is free"
    file.error = None
    assert sum(file.rotated.refresh() for _ in range(60)) == 1
    assert (file.rotated.value, file.rotated.why_kept) == (2, "")


@pytest.mark.parametrize("content", ["none", None])
def test_unusable_content_leaves_the_former_value_and_is_logged_once(tmp_path: Path, content: str | None) -> None:
    file = File(tmp_path)
    file.rotated.open()
    if content is None:
        file.path.unlink()
    else:
        file.path.write_text(content)
    assert not file.rotated.refresh()
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.events) == (1, ["credentials_kept"])
    file.path.write_text("333")
    assert file.rotated.refresh()
    assert file.rotated.value == 333


def test_an_unusable_file_fails_the_first_read(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.path.unlink()
    with pytest.raises(CredentialsError):
        file.rotated.open()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread"), KeyError("a secret")])
def test_any_failure_to_read_leaves_the_former_value_and_tells_no_secret(tmp_path: Path, error: Exception) -> None:
    file = File(tmp_path)
    file.rotated.open()
    file.path.write_text("22")
    file.error = error
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.events) == (1, ["credentials_kept"])
    assert "secret" not in file.log.getvalue()
    file.error = None
    file.path.write_text("333")
    assert file.rotated.refresh()
    assert file.rotated.value == 333


def test_a_pipe_in_the_place_of_a_file_blocks_nobody(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.rotated.open()
    file.path.unlink()
    os.mkfifo(file.path)
    refreshing = Thread(target=file.rotated.refresh, daemon=True)
    refreshing.start()
    refreshing.join(PATIENCE_S)
    assert not refreshing.is_alive()
    assert "make it a file" in file.rotated.why_kept


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.rotated.open()
    os.truncate(file.path, 2**40)
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.reads) == (1, 1)


async def test_tokens_are_checked_while_the_folder_of_the_certificates_does_not_answer(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-long-enough\n")
    answers, changed = Event(), asyncio.Event()
    proofs: list[Certificates] = []

    def prove(certificates: Certificates, where: str) -> None:
        proofs.append(certificates)
        if len(proofs) > 1:
            answers.wait(PATIENCE_S)

    ca = Authority(tmp_path)
    pair = ca.issue("server")
    log = open_log("info", "json", stream=io.StringIO())
    credentials = Credentials(CredentialFiles(**pair.settings, token_file=str(tokens)), log, prove=prove)
    credentials.open()
    keeping = asyncio.ensure_future(credentials.keep(changed.set))
    try:
        pair.replace_with(ca.issue("renewed"))
        tokens.write_text("another-token-of-somebody-else\n")
        async with asyncio.timeout(PATIENCE_S):
            await changed.wait()
        assert credentials.tokens is not None
        assert credentials.tokens.value.grant_of("a-token-that-is-long-enough") is None
    finally:
        answers.set()
        keeping.cancel()
        await asyncio.wait([keeping])


def test_a_folder_that_never_answers_keeps_no_loop_from_ending(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-long-enough\n")
    began, answers = Event(), Event()

    def never() -> bool:
        began.set()
        return not answers.wait()

    async def check() -> None:
        credentials = Credentials(
            CredentialFiles(token_file=str(tokens)), open_log("info", "json", stream=io.StringIO())
        )
        credentials.open()
        assert credentials.tokens is not None
        credentials.tokens.refresh = never  # type: ignore[method-assign]
        checking = asyncio.ensure_future(credentials.refresh(lambda: None))
        await until(began.is_set)
        checking.cancel()
        await asyncio.wait([checking])

    ending = Thread(target=lambda: asyncio.run(check()), daemon=True)
    ending.start()
    ending.join(PATIENCE_S)
    has_ended = not ending.is_alive()
    answers.set()
    assert has_ended


async def test_files_without_an_answer_are_stale_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mse_grad_server.security.credentials._ANSWER_S", 0.01)
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-long-enough\n")
    log, answers, stale = io.StringIO(), Event(), []
    credentials = Credentials(CredentialFiles(token_file=str(tokens)), open_log("info", "json", stream=log))
    credentials.open()
    assert credentials.tokens is not None
    credentials.tokens.refresh = lambda: not answers.wait(PATIENCE_S)  # type: ignore[method-assign]
    checking = asyncio.ensure_future(credentials.refresh(lambda: stale.append(credentials.are_stale)))
    await until(lambda: stale == [True])
    assert json.loads(log.getvalue())["event"] == "credentials_kept"
    answers.set()
    await checking
    assert stale == [True, False]


@pytest.mark.parametrize("which", ["tls_certificate", "tls_key", "tls_client_ca", "token_file"])
def test_a_device_without_an_end_fails_the_start(tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mse_grad_server.security.files._MOST_BYTES", 2**16)
    pair = Authority(tmp_path).issue("server")
    files = CredentialFiles(**{**pair.settings, which: "/dev/zero"})
    with pytest.raises(CredentialsError, match=r"/dev/zero has more than"):
        Credentials(files, open_log("info", "json", stream=io.StringIO())).open()
