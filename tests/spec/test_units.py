from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamac.spec.units import parse_bytes, parse_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (4_000_000, 4_000_000),
        (4e6, 4_000_000),
        ("1.4T", 1_400_000_000_000),
        ("1.4B", 1_400_000_000),
        ("1.4G", 1_400_000_000),
        ("4M", 4_000_000),
        ("4Mi", 4 * 1024**2),
        ("512Ki", 512 * 1024),
        ("64 K", 64_000),
        ("1_000", 1000),
        ("0.5Ki", 512),
    ],
)
def test_token_counts_read_like_people_write_them(text: object, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "size"),
    [("60GB", 60 * 10**9), ("60GiB", 60 * 2**30), ("500K", 500_000), ("12B", 12), (12, 12)],
)
def test_sizes_read_like_people_write_them(text: object, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("parse", [parse_tokens, parse_bytes])
@pytest.mark.parametrize(
    "text",
    [
        *("", "K", "1.4", "4m", "4MM", "-3M", "1e6", "0", "1" * 40, "999999999T", "4M tokens"),
        *("٣M", "1.0001K1", 0, -1, 10**30, 1.5, float("nan"), float("inf"), True, [], {}, None),
    ],
)
def test_anything_else_is_refused(parse: Callable[[object], int], text: object) -> None:
    with pytest.raises(ValueError, match=r"must be|must come to"):
        parse(text)


def test_only_sizes_may_end_in_bytes() -> None:
    with pytest.raises(ValueError, match='such as 4_000_000, "4M"'):
        parse_tokens("60GB")


@given(st.integers(1, 10**5), st.sampled_from(["K", "M", "G", "T"]), st.booleans())
def test_prefixes_are_powers_of_1000_and_1024(count: int, prefix: str, binary: bool) -> None:
    power = "KMGT".index(prefix) + 1
    assert (
        parse_tokens(f"{count}{prefix}{'i' * binary}")
        == count * (1024 if binary else 1000) ** power
    )
