"""Calls that a server refuses, each with a line in its log; the SDK would refuse them before it sends them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from support.waiting import PATIENCE_S

__all__ = ["make_refused_calls"]


def make_refused_calls(address: str, times: int) -> None:
    """Makes calls without a dtype. The log has at most 50 lines of one reason in ten seconds."""
    with grpc.insecure_channel(address) as channel:
        compute: Any = channel.unary_unary("/mse_grad.v1.MseGradService/ComputeGradient")
        for _ in range(times):
            with pytest.raises(grpc.RpcError) as refusal:
                compute(b"", timeout=PATIENCE_S, wait_for_ready=True)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
