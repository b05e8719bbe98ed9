"""Training loop in PyTorch: a model learns which letter follows two others. The server computes the loss's gradients.

It trains twice from the same weights, with PyTorch's loss and with the server's, and ends with the same bits.

`make serve` in another terminal, `.venv/bin/python -m pip install torch`, then
`.venv/bin/python client/examples/training_loop.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mse_grad_client import MseGradClient
from mse_grad_client.pytorch import MSELoss

LETTERS = Path(__file__).parent / "data" / "letters.npz"
CHARACTERS = 27
STEPS = 200


def main(address: str = "127.0.0.1:50051") -> None:
    """Trains with the server at `address`; raises AssertionError if the weights differ or the loss did not fall."""
    with np.load(LETTERS) as file:
        target = torch.from_numpy(file["label"]).reshape(CHARACTERS**2, CHARACTERS)
    letters = torch.eye(CHARACTERS)
    pairs = torch.cartesian_prod(torch.arange(CHARACTERS), torch.arange(CHARACTERS))
    x = letters[pairs].flatten(1)  # both letters of a pair, one-hot

    with MseGradClient(address) as client:
        here, first, last = trained(torch.nn.MSELoss(), x, target)
        there, *_ = trained(MSELoss(client=client), x, target)
    equal = all(torch.equal(here[name], there[name]) for name in here)
    print(f"loss {first:.5f}, after {STEPS} steps {last:.5f}; weights with the server's gradients: equal is {equal}")
    assert last < first / 2
    assert equal


def trained(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, target: torch.Tensor
) -> tuple[dict[str, Any], float, float]:
    """Returns the weights of a new model after `STEPS` steps, and its first and last loss."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(
        torch.nn.Linear(2 * CHARACTERS, 64), torch.nn.ReLU(), torch.nn.Linear(64, CHARACTERS), torch.nn.Softmax(dim=1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(model(x), target)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return model.state_dict(), losses[0], losses[-1]


if __name__ == "__main__":
    main(*sys.argv[1:])
