"""Writer of `data/letters.npz`: the predictions of a small model and their targets, both counted in a real text.

The text is the LICENSE of this repository: the letters a to z without case, and one space for everything else. For
every pair of characters (a, b) and every character c:

- label[a, b, c]: how often c follows ab in the text, as a share of all characters that follow ab;
- predict[a, b, c]: the same share, predicted by a model that sees only b;
- dout[a, b, c]: the weight of the pair ab, its share of all pairs in the text.

All are float32 of shape (27, 27, 27). Most labels are exactly 0 and many weights are small: real input for a
gradient. Run it from any directory: `python client/examples/letters.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXT = Path(__file__).parents[2] / "LICENSE"
OUTPUT = Path(__file__).parent / "data" / "letters.npz"
CHARACTERS = 27


def letters_of(text: str) -> NDArray[np.int64]:
    """Returns the text as numbers: 0 for a run of anything but letters, 1 to 26 for a to z."""
    words = "".join(c if c.isascii() and c.isalpha() else " " for c in text.lower()).split()
    return np.array([0 if c == " " else ord(c) - ord("a") + 1 for c in " ".join(words)], dtype=np.int64)


def arrays_of(letters: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Returns predict, label and dout, float32 of shape (27, 27, 27)."""
    triples = np.zeros((CHARACTERS,) * 3)
    np.add.at(triples, (letters[:-2], letters[1:-1], letters[2:]), 1)
    pairs = triples.sum(axis=2, keepdims=True)
    after_one = triples.sum(axis=0)
    singles = after_one.sum(axis=1, keepdims=True)
    label = np.divide(triples, pairs, out=np.zeros_like(triples), where=pairs > 0)
    guess = np.divide(after_one, singles, out=np.zeros_like(after_one), where=singles > 0)
    predict = np.broadcast_to(guess[None, :, :], triples.shape)
    dout = np.broadcast_to(pairs / pairs.sum(), triples.shape)
    return predict.astype(np.float32, order="C"), label.astype(np.float32), dout.astype(np.float32, order="C")


def main() -> None:
    """Writes the file."""
    predict, label, dout = arrays_of(letters_of(TEXT.read_text(encoding="utf-8")))
    OUTPUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUTPUT, predict=predict, label=label, dout=dout)
    print(f"{OUTPUT}: predict, label, dout of shape {predict.shape}, {predict.dtype}")


if __name__ == "__main__":
    main()
