from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.security.tokens import Tokens, read_tokens

TOKEN = "an-example.token_0123456789~+/="


def read(folder: Path, text: str) -> Tokens:
    file = folder / "tokens"
    file.write_text(text)
    return read_tokens(str(file))


def test_only_tokens_of_the_file_are_accepted(tmp_path: Path) -> None:
    tokens = read(tmp_path, f"# who uses it\n\n  {TOKEN}  \nanother-token-of-more-than-16\n")
    assert tokens.digest_of(TOKEN) == hashlib.sha256(TOKEN.encode()).digest()
    assert tokens.digest_of("another-token-of-more-than-16")
    assert [tokens.digest_of(token) for token in ("", TOKEN[:-1], TOKEN + "x", "# who uses it", "ä")] == [None] * 5


def test_the_file_may_have_the_digest_instead(tmp_path: Path) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens = read(tmp_path, f"sha256:{digest}\n")
    assert tokens.digest_of(TOKEN)
    assert tokens.digest_of(f"sha256:{digest}") is None


def test_an_empty_file_accepts_no_token(tmp_path: Path) -> None:
    assert read(tmp_path, "# none left\n").digest_of(TOKEN) is None


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
