"""Gradients through tritonclient: `python triton.py HOST:PORT MODE CASES ANSWERS`; runs without this repository.

CASES is an npz file of predict, label and dout as float32 by case, with names such as "BF16/sum/3/predict". ANSWERS
gets each gradient as bytes in the datatype of the case. MODE is sync, aio, stream or aio_stream.
"""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as sync_grpc
import tritonclient.grpc.aio as aio_grpc

INPUTS = ("predict", "label", "dout")
NUMPY = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
TIMEOUT_S = 60.0


def inputs_of(library: Any, cases: Any, case: str) -> list[Any]:
    datatype = case.split("/")[0]
    made = []
    for name in INPUTS:
        values = cases[f"{case}/{name}"]
        one = library.InferInput(name, list(values.shape), datatype)
        one.set_data_from_numpy(values.astype(ml_dtypes.bfloat16 if datatype == "BF16" else NUMPY[datatype]))
        made.append(one)
    return made


def options(case: str) -> dict[str, Any]:
    return {"request_id": case.replace("/", "-"), "parameters": {"reduction": case.split("/")[1]}}


def answer_of(result: Any, case: str) -> Any:
    response = result.get_response()
    assert response.id == case.replace("/", "-"), response.id
    assert result.as_numpy("y") is not None
    return np.frombuffer(b"".join(response.raw_output_contents), np.uint8)


def check_descriptions(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mse_grad")
    assert client.get_server_metadata().name == "mse-grad"
    assert [one.name for one in client.get_model_metadata("mse_grad").inputs] == list(INPUTS)
    assert client.get_model_config("mse_grad").config.name == "mse_grad"
    assert client.get_inference_statistics("mse_grad").model_stats[0].name == "mse_grad"
    assert client.get_model_repository_index().models[0].state == "READY"
    assert status_of(client.get_system_shared_memory_status) == "StatusCode.UNIMPLEMENTED"
    assert status_of(lambda: client.infer("resnet", [])) == "StatusCode.NOT_FOUND"


def status_of(call: Callable[[], object]) -> str:
    try:
        call()
    except sync_grpc.InferenceServerException as error:
        return str(error.status())
    return "OK"


def through_sync(address: str, cases: Any, names: list[str]) -> dict[str, Any]:
    with sync_grpc.InferenceServerClient(address) as client:
        check_descriptions(client)
        return {
            case: answer_of(client.infer("mse_grad", inputs_of(sync_grpc, cases, case), **options(case)), case)
            for case in names
        }


def through_stream(address: str, cases: Any, names: list[str]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    results: queue.Queue[Any] = queue.Queue()
    with sync_grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        for case in names:
            client.async_stream_infer("mse_grad", inputs_of(sync_grpc, cases, case), **options(case))
        for case in names:
            result, error = results.get(timeout=TIMEOUT_S)
            assert error is None, error
            answers[case] = answer_of(result, case)
        client.async_stream_infer("resnet", inputs_of(sync_grpc, cases, names[0]))
        assert "resnet" in str(results.get(timeout=TIMEOUT_S)[1])
        client.stop_stream()
    return answers


async def through_aio(address: str, cases: Any, names: list[str]) -> dict[str, Any]:
    async with aio_grpc.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(
            *(client.infer("mse_grad", inputs_of(aio_grpc, cases, case), **options(case)) for case in names[:4])
        )
        answers = {case: answer_of(result, case) for case, result in zip(names[:4], results, strict=True)}
        for case in names[4:]:
            result = await client.infer("mse_grad", inputs_of(aio_grpc, cases, case), **options(case))
            answers[case] = answer_of(result, case)
        return answers


async def through_aio_stream(address: str, cases: Any, names: list[str]) -> dict[str, Any]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for case in names:
            yield {"model_name": "mse_grad", "inputs": inputs_of(aio_grpc, cases, case), **options(case)}

    answers: dict[str, Any] = {}
    left = iter(names)
    async with aio_grpc.InferenceServerClient(address) as client:
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            case = next(left)
            answers[case] = answer_of(result, case)
    return answers


def main() -> None:
    address, mode, cases_path, answers_path = sys.argv[1:]
    cases = np.load(cases_path)
    names = sorted({name.rpartition("/")[0] for name in cases.files})
    through: dict[str, Callable[..., Any]] = {
        "sync": through_sync,
        "stream": through_stream,
        "aio": through_aio,
        "aio_stream": through_aio_stream,
    }
    answers = through[mode](address, cases, names)
    if asyncio.iscoroutine(answers):
        answers = asyncio.run(answers)
    np.savez(answers_path, **answers)


if __name__ == "__main__":
    main()
