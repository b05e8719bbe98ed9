from __future__ import annotations

from collections import Counter
from itertools import permutations

from mse_grad_client.chance import token, two_below, uniform


def test_a_token_has_eight_digits_and_differs_from_the_next() -> None:
    tokens = {token() for _ in range(8)}
    assert {len(each) for each in tokens} == {8}
    assert all(int(each, 16) >= 0 for each in tokens)
    assert len(tokens) > 1  # all equal once in 2**224 runs


def test_numbers_lie_between_the_bounds_and_reach_each_tenth() -> None:
    drawn = [uniform(2.0, 3.0) for _ in range(1000)]
    assert all(2.0 <= each < 3.0 for each in drawn)
    assert {int(10 * each) for each in drawn} == set(range(20, 30))  # misses one in 1e45 runs


def test_each_pair_of_different_numbers_is_drawn() -> None:
    drawn = Counter(two_below(4) for _ in range(2400))
    assert set(drawn) == set(permutations(range(4), 2))
    assert all(drawn[pair] > 100 for pair in drawn)  # 200 on average, 7 standard deviations
    assert {two_below(2) for _ in range(200)} == {(0, 1), (1, 0)}
