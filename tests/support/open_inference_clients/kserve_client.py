"""Gradients through kserve's client: `python kserve_client.py HOST:PORT MODE CASES ANSWERS`; see `triton`.

MODE is raw or typed. The client reads no answer in BF16, and typed contents exist for FP32 and FP64 alone, so other
cases get no answer.
"""

import asyncio
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

NUMPY = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
INPUTS = ("predict", "label", "dout")


def inputs_of(cases: Any, case: str, *, is_raw: bool) -> list[Any]:
    datatype = case.split("/")[0]
    made = []
    for name in INPUTS:
        values = cases[f"{case}/{name}"]
        one = InferInput(name, list(values.shape), datatype)
        one.set_data_from_numpy(values.astype(NUMPY[datatype]), binary_data=is_raw)
        made.append(one)
    return made


async def through(address: str, cases: Any, names: list[str], *, is_raw: bool) -> dict[str, Any]:
    client = InferenceGRPCClient(url=address, timeout=60)
    answers: dict[str, Any] = {}
    try:
        assert await client.is_server_ready()
        assert await client.is_model_ready("mse_grad")
        for case in names:
            asked = InferRequest(
                model_name="mse_grad",
                request_id=case,
                infer_inputs=inputs_of(cases, case, is_raw=is_raw),
                parameters={"reduction": case.split("/")[1]},
            )
            response = await client.infer(asked)
            assert response.id == case, response.id
            (output,) = response.outputs
            raw = output._raw_data
            if raw is None:
                raw = np.array(output.data, NUMPY[case.split("/")[0]]).tobytes()
            answers[case] = np.frombuffer(raw, np.uint8)
    finally:
        await client.close()
    return answers


def main() -> None:
    address, mode, cases_path, answers_path = sys.argv[1:]
    cases = np.load(cases_path)
    names = sorted({name.rpartition("/")[0] for name in cases.files})
    datatypes = ("FP32", "FP64") if mode == "typed" else tuple(NUMPY)
    names = [name for name in names if name.startswith(datatypes)]
    np.savez(answers_path, **asyncio.run(through(address, cases, names, is_raw=mode == "raw")))


if __name__ == "__main__":
    main()
