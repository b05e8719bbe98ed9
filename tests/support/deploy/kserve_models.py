"""Faults of objects of KServe by the models of its own SDK: `python kserve_models.py OBJECTS`; prints one line each.

OBJECTS is a JSON file. It runs in the environment of kserve, without this repository.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import kserve.models
import kubernetes.client.models

MODELS = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}
SCALARS: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def faults_of(value: Any, kind: str, where: str) -> Iterator[str]:
    """Yields keys and values that the model `kind` does not have."""
    # Some names are those of Go's packages: K8sIoApiAppsV1DeploymentStrategy.
    kind = re.sub(r"^K8sIoApi[A-Z][a-z]+(?=V1)", "", kind)
    if found := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where} must be a list"
            return
        for number, one in enumerate(value):
            yield from faults_of(one, found[1], f"{where}[{number}]")
    elif kind in SCALARS:
        if not isinstance(value, SCALARS[kind]):
            yield f"{where} is {value!r}; it must be {kind}"
    elif model := getattr(kserve.models, kind, None) or getattr(kubernetes.client.models, kind, None):
        keys = {json_name: name for name, json_name in model.attribute_map.items()}
        for key, one in value.items():
            if key not in keys:
                yield f"{where}.{key} is no key of {kind}"
            else:
                yield from faults_of(one, model.openapi_types[keys[key]], f"{where}.{key}")
    elif re.fullmatch(r"[dD]ict[(\[]str, str[)\]]", kind):
        yield from (f"{where}.{key} is {one!r}; it must be str" for key, one in value.items() if type(one) is not str)
    elif kind != "object":
        yield f"{where} is a {kind}, which has no model"


def main() -> None:
    with open(sys.argv[1]) as file:
        objects = json.load(file)
    for one in objects:
        for fault in faults_of(one, MODELS[one["kind"]], one["kind"]):
            print(fault)


if __name__ == "__main__":
    main()
