"""TLS and tokens: an encrypted connection, and the errors if the token or the CA is missing.

docs/deploying.md makes a CA, a certificate and a token. Then, for a server with
`--tls-certificate server.pem --tls-key server.key --token-file tokens`:
`.venv/bin/python client/examples/tls_and_tokens.py 127.0.0.1:50051 ca.pem token`.
"""

from __future__ import annotations

import sys

import numpy as np

from mse_grad_client import ClientOptions, MseGradClient, TlsFailed, Unauthenticated


def main(address: str, ca: str, token_file: str) -> None:
    """Computes on the server at `address`.

    Args:
        address: "host:port"; the host is a name in the server's certificate.
        ca: PEM file of the CA that signed it.
        token_file: File with a token that the server knows. The client reads it for each stream and call, so that it
            can be replaced while the client runs.
    """
    x = np.ones((2, 3), np.float32)
    with MseGradClient(address, options=ClientOptions(tls_ca=ca, token_file=token_file)) as client:
        print(f"with CA and token: {client.compute(x, 0 * x, 1.0, 'sum').tolist()}")
    with MseGradClient(address, options=ClientOptions(tls_ca=ca)) as client:
        try:
            client.compute(x, x, 1.0)
        except Unauthenticated as error:
            print(f"without a token: Unauthenticated, {error.message}")
    with MseGradClient(address, options=ClientOptions(tls=True, token_file=token_file)) as client:
        try:
            client.compute(x, x, 1.0)
        except TlsFailed as error:  # the token was not sent
            print(f"with public CAs only: TlsFailed, {error.message}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: tls_and_tokens.py ADDRESS CA_FILE TOKEN_FILE, such as 127.0.0.1:50051 ca.pem token")
    main(*sys.argv[1:])
