"""Certificates and tokens of a client, from files that may be replaced while it runs."""

from __future__ import annotations

import codecs
import os
import re
import ssl

import grpc

from mse_grad.reasons import Reason
from mse_grad_client.errors import TlsFailed, Unauthenticated
from mse_grad_client.options import ClientOptions
from mse_grad_client.routing.address import host_and_port, is_on_this_host
from mse_grad_client.routing.proxy import Proxy, proxy_of
from mse_grad_client.stream.call import Metadata

__all__ = ["Credentials"]

_TOKEN = r"[\x21-\x7e]+"  # noqa: S105 - what a token looks like


class Credentials:
    """Opens channels to a server and its workers. Thread-safe.

    Args:
        options: Options of the client.
        given: Address of the server; its workers have the same certificate, with the name of this host.
        looks_up: Whether `given` is looked up for the addresses of many servers. Then no proxy is on the way to them.

    Raises:
        ValueError: A token would go to another machine without TLS.
        TlsFailed: A certificate file cannot be used.
        Unauthenticated: The token file cannot be used.
    """

    def __init__(self, options: ClientOptions, *, given: str, looks_up: bool = False) -> None:
        self._options = options
        self._looks_up = looks_up
        self._given = given
        self._has_token = bool(options.token or options.token_file)
        if self._has_token and not self._may_show_token(given):
            raise ValueError(
                f"the token would go to {given} unencrypted; use TLS, such as tls_ca='ca.pem', or "
                "allow it with insecure_token=True"
            )
        if self._encrypts(given):
            self._read()
        self.metadata(given)

    def channel(self, address: str, target: str) -> grpc.Channel:
        """Returns a channel, with TLS if the options ask for it, through the proxy, if any; raises TlsFailed.

        Args:
            address: Address of the server, or of one of its workers.
            target: The same address as a gRPC target.
        """
        if self._options.open_channel is not None:
            return self._options.open_channel(address)
        own: dict[str, int | str] = {
            "grpc.max_receive_message_length": self._options.max_unary_bytes,
            "grpc.max_send_message_length": -1,
            "grpc.keepalive_time_ms": int(self._options.keepalive_s * 1000),
            # Our own retries decide when to try again; gRPC's default waits up to two minutes.
            "grpc.initial_reconnect_backoff_ms": 50,
            "grpc.max_reconnect_backoff_ms": 500,
            "grpc.use_local_subchannel_pool": 1,
            "grpc.enable_http_proxy": int(self.proxy(address) is not None),
        }
        if self._options.user_agent:
            own["grpc.primary_user_agent"] = self._options.user_agent
        arguments = tuple({**own, **dict(self._options.channel_options)}.items())
        if not self._encrypts(address):
            return grpc.insecure_channel(target, options=arguments)
        named = () if self.server_name == _host(address) else (("grpc.ssl_target_name_override", self.server_name),)
        return grpc.secure_channel(target, self._read()[1], options=(*arguments, *named))

    def context(self, address: str) -> ssl.SSLContext | None:
        """Returns the context of TLS 1.3 with a server; None if connections to `address` have no TLS.

        The server must have the name `server_name`, and its certificate an issuer, as for a channel.

        Raises:
            TlsFailed: A file cannot be used.
        """
        if not self._encrypts(address):
            return None
        context, _ = self._read()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if not self._options.tls_ca:
            context.load_default_certs()
        return context

    @property
    def server_name(self) -> str:
        """The name that a server's certificate must have."""
        return self._options.tls_server_name or _host(self._given)

    def proxy(self, address: str) -> Proxy | None:
        """Returns the proxy on the way to `address`; None for a direct connection.

        A name with a proxy on the way is not looked up here. So the addresses of a name have none, whatever their own
        digits say.
        """
        return proxy_of(address) if address == self._given or not self._looks_up else None

    def metadata(self, address: str) -> Metadata:
        """Returns the metadata of calls to `address`, with the token; raises Unauthenticated."""
        if not self._has_token or not self._may_show_token(address):
            return ()
        token, where = self._options.token, "token"
        if self._options.token_file:
            where = f"token_file {os.fspath(self._options.token_file)}"
            try:
                with open(self._options.token_file, encoding="utf-8") as file:
                    token = file.read().strip()
            except (OSError, UnicodeDecodeError) as cause:
                why = cause.strerror if isinstance(cause, OSError) else "is not UTF-8 text"
                raise Unauthenticated(f"{where}: {why}", reason=Reason.TOKEN_MISSING) from None
        if not re.fullmatch(_TOKEN, token):
            raise Unauthenticated(
                f"{where} must be one token: letters, digits and signs without spaces", reason=Reason.TOKEN_MISSING
            )
        return (("authorization", f"Bearer {token}"),)

    def state(self) -> list[object]:
        """Returns a value that changes with the certificate files; an open channel keeps its certificates."""
        options = self._options
        return [_state_of(path) for path in (options.tls_ca, options.tls_certificate, options.tls_key) if path]

    def _encrypts(self, address: str) -> bool:
        return self._options.uses_tls and not any(at.startswith("unix:") for at in (self._given, address))

    def _may_show_token(self, address: str) -> bool:
        return self._encrypts(address) or is_on_this_host(address) or self._options.insecure_token

    def _read(self) -> tuple[ssl.SSLContext, grpc.ChannelCredentials]:
        """Returns the same certificates for a socket and for gRPC; raises TlsFailed."""
        options = self._options
        # gRPC reports a wrong file only as a failed handshake, and only when it connects. Check the files here.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        root = key = chain = None
        if options.tls_ca:
            root = _content("tls_ca", options.tls_ca)
            try:
                context.load_verify_locations(cafile=options.tls_ca)
            except ssl.SSLError as cause:
                raise _failed(f"tls_ca {options.tls_ca} holds no certificate in PEM: {cause.reason}") from cause
        if options.tls_certificate and options.tls_key:
            chain = _content("tls_certificate", options.tls_certificate)
            key = _content("tls_key", options.tls_key)
            try:
                # An empty password keeps OpenSSL from prompting for one.
                context.load_cert_chain(options.tls_certificate, options.tls_key, password="")
            except ssl.SSLError as cause:
                words = f": {cause.reason}" if cause.reason else ""  # no reason for a wrong password
                raise _failed(
                    f"tls_certificate {options.tls_certificate} and tls_key {options.tls_key} are not a pair in PEM "
                    f"without a password{words}"
                ) from cause
        return context, grpc.ssl_channel_credentials(root, key, chain)


def _host(address: str) -> str:
    return host_and_port(address)[0].strip("[]")


def _content(name: str, path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as cause:
        raise _failed(f"{name} {os.fspath(path)}: {cause.strerror}") from cause
    if content.startswith(codecs.BOM_UTF8):
        raise _failed(f"{name} {os.fspath(path)} begins with a byte order mark, which gRPC does not read")
    return content


def _failed(message: str) -> TlsFailed:
    return TlsFailed(message, reason=Reason.TLS_FAILED)


def _state_of(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
