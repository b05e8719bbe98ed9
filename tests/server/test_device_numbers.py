from __future__ import annotations

import pytest

from mse_grad_server.device_numbers import parse_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        (" ", ()),
        ("3", (3,)),
        ("0-7", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("0,2,5-7", (0, 2, 5, 6, 7)),
        (" 5 - 6 , 1 ", (1, 5, 6)),
        ("4-4", (4,)),
        ("1023", (1023,)),
    ],
)
def test_numbers_and_ranges_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["a", "-1", "1-", "1,,2", "0..7", "0x1", "1.5", "٣"])
def test_what_is_neither_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="write such as '0-7' or '0,2,5-7'"):
        parse_numbers(text)


@pytest.mark.parametrize("text", ["7-0", "0-1024", "2000"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="numbers from 0 to 1023, the smaller first"):
        parse_numbers(text)


@pytest.mark.parametrize("text", ["1,1", "0-3,2"])
def test_a_device_named_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="named twice"):
        parse_numbers(text)
