"""Base of the clients: the address, the options, and what does not depend on how a call waits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from mse_grad.tensor import Array
from mse_grad_client.calls import Calls
from mse_grad_client.options import ClientOptions
from mse_grad_client.routing import fork
from mse_grad_client.routing.transport import Transport
from mse_grad_client.submissions import Submissions

__all__ = ["ClientBase", "close_both"]


class ClientBase:
    """The part of a client that is the same with and without `await`; see MseGradClient."""

    def __init__(self, address: str | Sequence[str], *, options: ClientOptions | None = None) -> None:
        self._options = ClientOptions() if options is None else options
        if not isinstance(self._options, ClientOptions):
            raise ValueError(f"options is a {type(options).__name__}; it must be ClientOptions")
        self._transport = Transport(address, self._options)
        self._given = address if isinstance(address, str) else tuple(address)
        self._calls = Calls(self._options, self._transport.next_request_id)
        self._submissions = Submissions(self._transport, self._calls)
        fork.watch(self._transport)

    @property
    def address(self) -> str:
        """The address, as given; the entries of a list with commas between."""
        return self._transport.address

    @property
    def options(self) -> ClientOptions:
        """The options, as given."""
        return self._options

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> Array:
        """Returns an uninitialized array that a server on this host can use without a copy.

        It behaves like any other array, and is an ordinary one if the server is elsewhere or shares no memory.
        `compute` copies nothing if predict, label, a full dout and out all come from here; views work too. The memory
        is released when the array and all its views are garbage-collected; it outlives the client. Other clients never
        see it. After `os.fork` parent and child see each other's writes to it.

        Args:
            shape: As for `numpy.empty`.
            dtype: As for `numpy.empty`.

        Raises:
            TypeError, ValueError: As `numpy.empty`.
        """
        allocator = self._transport.allocator
        return np.empty(shape, dtype) if allocator is None else allocator.empty(shape, dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._given!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles address and options; each process has its own connections."""
        return partial(type(self), options=self._options), (self._given,)


def close_both(transport: Transport, submissions: Submissions) -> None:
    """Closes a client's transport, then ends its threads; refers to no client, which may be collected."""
    transport.close()
    submissions.close()
