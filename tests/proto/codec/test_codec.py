from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import mse_grad
from mse_grad import codec
from mse_grad.codec import decode, encode, messages

MODULES = [name for _, name, is_package in pkgutil.iter_modules(mse_grad.__path__, "mse_grad.") if not is_package]


def test_the_facade_offers_all_of_the_codec() -> None:
    assert set(codec.__all__) == {*messages.__all__, *encode.__all__, *decode.__all__}


@pytest.mark.parametrize("name", MODULES)
def test_all_names_existing_objects_once(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_all_holds_every_public_name_that_a_module_defines(name: str) -> None:
    module = importlib.import_module(name)
    assert public_definitions(module) <= set(module.__all__)


def public_definitions(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
