"""TLS handshake of the server with itself, which proves that gRPC can use its certificates.

gRPC's TLS supports fewer kinds of keys than PEM files can have. With an unsupported key it opens no port, or opens one
and rejects every client, without an error.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from mse_grad_server.process.exits import CredentialsError

if TYPE_CHECKING:
    from mse_grad_server.security.certificates import Certificates

__all__ = ["require_handshake"]

# The handshake takes 30 ms, on a busy machine longer.
_TIMEOUT_S = 30.0
_END = b"-----END CERTIFICATE-----"
# A proxy of the environment does not apply to a connection of the process to itself.
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


def require_handshake(certificates: Certificates, where: str) -> None:
    """Connects a gRPC client that trusts the certificates to a server that uses them. The call blocks.

    Args:
        certificates: Certificates that match each other and are valid now.
        where: The flags that name their files.

    Raises:
        CredentialsError: No client could connect.
    """
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        try:
            port = server.add_secure_port("127.0.0.1:0", _server_credentials(certificates))
        except RuntimeError as cause:  # the only error that gRPC raises here
            raise _refused(where, "it cannot open a port with these files") from cause
        server.start()
        try:
            _connect(f"127.0.0.1:{port}", certificates, where)
        finally:
            server.stop(None).wait()


def _connect(target: str, certificates: Certificates, where: str) -> None:
    # Trusts the server's own certificate, the first of the chain; then it needs no CA above it.
    own, end, _ = certificates.chain.partition(_END)
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", certificates.name)]
    with grpc.secure_channel(target, grpc.ssl_channel_credentials(own + end + b"\n"), options) as channel:
        call: Any = channel.unary_unary("/handshake")
        try:
            call(b"", timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # the answer of a server after the handshake
                raise _refused(where, str(error.details())) from None


def _server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    # Asks for no client certificate, because this client has none. gRPC reads the client CAs all the same.
    pairs = [(certificates.key, certificates.chain)]
    return grpc.ssl_server_credentials(pairs, root_certificates=certificates.client_ca)


def _refused(where: str, details: str) -> CredentialsError:
    return CredentialsError(
        f"gRPC's TLS cannot use {where} ({details}); make an RSA key, not only for PSS, or an EC key on P-256 or P-384"
    )
