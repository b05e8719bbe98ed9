from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import pytest

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.security.tokens import Grant, Scope, Tokens, read_tokens

TOKEN = "an-example.token_0123456789~+/="


def read(folder: Path, text: str) -> Tokens:
    file = folder / "tokens"
    file.write_text(text)
    return read_tokens(str(file))


def test_only_tokens_of_the_file_are_accepted(tmp_path: Path) -> None:
    tokens = read(tmp_path, f"# who uses it\n\n  {TOKEN}  \nanother-token-of-more-than-16\n")
    assert set(tokens.grants) >= {hashlib.sha256(TOKEN.encode()).digest()}
    assert tokens.grant_of(TOKEN) == tokens.grant_of("another-token-of-more-than-16") == Grant()
    assert [tokens.grant_of(token) for token in ("", TOKEN[:-1], TOKEN + "x", "# who uses it", "ä")] == [None] * 5


def test_the_file_may_have_the_digest_instead(tmp_path: Path) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens = read(tmp_path, f"sha256:{digest}\n")
    assert tokens.grant_of(TOKEN)
    assert tokens.grant_of(f"sha256:{digest}") is None


def test_an_empty_file_accepts_no_token(tmp_path: Path) -> None:
    assert read(tmp_path, "# none left\n").grant_of(TOKEN) is None


def test_a_bare_token_has_all_rights_and_no_name(tmp_path: Path) -> None:
    assert read(tmp_path, TOKEN).grant_of(TOKEN) == Grant("", Scope.ADMIN, math.inf, math.inf)


def test_a_line_may_name_the_caller_and_bound_its_rights(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"another").hexdigest()
    tokens = read(
        tmp_path,
        f"{TOKEN}  scope=compute name=trainer-a\trequests=64 bytes=256MiB\n"
        f"sha256:{digest} name=trainer-a bytes=256Mi requests=64 scope=compute  \n"
        "a-token-of-more-than-16 scope=info\n",
    )
    trainer = Grant("trainer-a", Scope.COMPUTE, 64, 2**28)
    assert [tokens.grant_of(token) for token in (TOKEN, "another")] == [trainer] * 2
    assert tokens.grant_of("a-token-of-more-than-16") == Grant("", Scope.INFO)


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("name=", "name= must be at most 31 letters"),
        ("name=with:colon", "name= must be at most 31 letters"),
        (f"name={'x' * 32}", "name= must be at most 31 letters"),
        ("scope=none", "scope= must be info, compute or admin"),
        ("scope=all", "scope= must be info, compute or admin"),
        ("requests=0", "requests= must be a number of requests, at least 1"),
        ("requests=-1", "requests= must be a number of requests, at least 1"),
        ("bytes=much", "bytes= must be a size such as 256MiB"),
        ("bytes=0", "bytes= must be a size such as 256MiB"),
        ("name=one name=two", "may appear once: name=, scope=, requests=, bytes="),
        ("rights=all", "may appear once: name=, scope=, requests=, bytes="),
        ("and-the-rest-of-a-token", "may appear once: name=, scope=, requests=, bytes="),
    ],
)
def test_wrong_rights_are_named_without_quoting_the_line(tmp_path: Path, words: str, allowed: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        read(tmp_path, f"# tokens\n{TOKEN} {words}\n")
    text = str(caught.value)
    assert f"--token-file {tmp_path}/tokens, line 2" in text
    assert allowed in text
    assert TOKEN not in text
    said = text.replace(str(tmp_path), "")  # its last number could be one of the values
    assert words.split("=")[-1] in ("", "all", "0", "info") or words.split("=")[-1] not in said
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (f"{TOKEN} name=one\n{TOKEN} name=two", "line 2 repeats a token of an earlier line with different rights"),
        (
            f"{TOKEN} name=one scope=info\na-token-of-more-than-16 name=one",
            "line 2 gives the name one different rights from an earlier line",
        ),
    ],
    ids=["token", "name"],
)
def test_a_token_or_a_name_has_the_same_rights_in_each_line(tmp_path: Path, lines: str, fault: str) -> None:
    with pytest.raises(CredentialsError, match=fault):
        read(tmp_path, lines)


@pytest.mark.parametrize("line", ["too-short", "name:0123456789abcdef0123", "two words of many letters", "sha256:00ff"])
def test_a_line_that_is_not_a_token_is_named_only_by_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        read(tmp_path, f"{TOKEN}\n{line}\n")
    assert f"--token-file {tmp_path}/tokens, line 2 is not a token" in str(caught.value)
    assert line not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="--token-file /nowhere: No such file or directory"):
        read_tokens("/nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialsError, match="is not a text file") as caught:
        read_tokens(str(tmp_path / "binary"))
    assert caught.value.__cause__ is None


def test_tokens_are_not_in_the_representation(tmp_path: Path) -> None:
    assert "b'" not in repr(read(tmp_path, TOKEN))


def test_a_line_that_is_still_being_written_gives_no_right_that_the_whole_line_withholds(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    parts = [TOKEN, f"{TOKEN} scope=", f"{TOKEN} scope=info", f"{TOKEN} scope=info requests=2\n"]
    file.write_text(parts.pop(0))
    assert read_tokens(str(file), pause=lambda _: file.write_text(parts.pop(0))).grant_of(TOKEN) == Grant(
        scope=Scope.INFO, most_requests=2
    )


def test_a_file_that_never_stops_growing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    with pytest.raises(CredentialsError, match="still being written"):
        read_tokens(str(file), pause=lambda _: file.write_text(file.read_text() + "x"))


def test_a_file_may_be_a_pipe_at_the_start(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, TOKEN.encode())
    os.close(writer)
    try:
        assert read_tokens(f"/dev/fd/{reader}").grant_of(TOKEN)
    finally:
        os.close(reader)
