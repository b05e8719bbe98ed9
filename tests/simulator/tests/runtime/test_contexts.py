"""Contexts belong to threads, streams to contexts, and each set of a device needs its reset."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mse_grad_server.backends.ascend.acl.runtime import Acl
from support.npu.runtime import AscendRuntime
from support.npu.runtime_bench import DEVICE, Bench, fails


def test_a_thread_without_a_context_gets_107002_until_it_sets_one(bench: Bench) -> None:
    def ask() -> None:
        with fails(107002):
            bench.acl.create_stream()
        bench.make_current()
        bench.acl.call("aclrtDestroyStreamForce", bench.acl.create_stream())

    with ThreadPoolExecutor(1) as thread:
        thread.submit(ask).result()


def test_a_destroyed_context_is_no_longer_current(acl: Acl) -> None:
    acl.call("aclrtDestroyContext", acl.create_context(DEVICE))
    with fails(107002):
        acl.malloc(64)
    acl.call("aclrtSetDevice", DEVICE)
    acl.call("aclrtResetDevice", DEVICE)


def test_a_stream_of_another_context_gets_107003(bench: Bench) -> None:
    stream = bench.stream()
    other = bench.acl.create_context(DEVICE)
    with fails(107003):
        bench.wait(stream)
    bench.acl.call("aclrtDestroyContext", other)
    bench.make_current()


@pytest.mark.parametrize("number", [-1, 2, 99])
def test_an_unknown_device_gets_107001(acl: Acl, number: int) -> None:
    with fails(107001):
        acl.call("aclrtSetDevice", number)


def test_a_device_is_given_back_by_as_many_resets_as_it_was_set(acl: Acl, runtime: AscendRuntime) -> None:
    acl.call("aclrtSetDevice", DEVICE)
    address = acl.malloc(64)
    reclaimed = runtime.accounts().reclaimed
    acl.call("aclrtResetDevice", DEVICE)
    assert runtime.accounts().reclaimed == reclaimed
    acl.call("aclrtFree", address)


def test_a_reset_frees_everything_that_is_left(acl: Acl, runtime: AscendRuntime) -> None:
    before = runtime.accounts()
    Bench(acl, runtime).stream()
    acl.call("aclrtResetDevice", DEVICE)
    after = runtime.accounts()
    assert after.living == before.living
    assert after.reclaimed == before.reclaimed + 4
    acl.call("aclrtSetDevice", DEVICE)
