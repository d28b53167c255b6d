"""Groups hold every sequence once, share what they say, and read less than each alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.evaluate.prefix_groups import OVERHEAD, batches, group_by_prefix, waves

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=40).map(tuple)


@settings(max_examples=200, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=30, unique=True), st.integers(1, 5))
def test_groups_are_a_partition_that_shares_its_prefix(sequences, most) -> None:
    groups = group_by_prefix(sequences, most)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(sequences)))
    for group in groups:
        assert len(group.rows) <= most
        if group.is_single:
            assert group.shared == len(sequences[group.rows[0]])
        else:
            assert len({sequences[row][: group.shared] for row in group.rows}) == 1
            assert all(len(sequences[row]) > group.shared for row in group.rows)
    assert [row for wave in waves(groups, 20) for group in wave for row in group.rows]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(50, 200))
def test_batches_hold_all_once_and_no_more_than_may_be(lengths, most) -> None:
    found = list(batches(lengths, most))
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    assert all(max(lengths[row] for row in batch) * len(batch) <= most for batch in found)


def test_few_shot_examples_are_read_once_though_questions_share_more_in_pairs() -> None:
    examples = tuple(range(100, 200))
    rows = [(*examples, question, 7, 8, choice) for question in range(5) for choice in range(4)]
    [group] = group_by_prefix(rows, 64)
    assert (group.shared, len(group.rows)) == (100, 20)


def test_the_choices_of_a_long_question_share_it() -> None:
    rows = [(q, *range(10, 90), choice, 5) for q in range(3) for choice in range(4)]
    groups = group_by_prefix(rows, 64)
    assert [(group.shared, len(group.rows)) for group in groups] == [(81, 4)] * 3
    short = [(q, *range(OVERHEAD - 2), choice) for q in range(3) for choice in range(2)]
    assert all(group.is_single for group in group_by_prefix(short, 64))


@pytest.mark.timeout(60)
def test_thousands_of_sequences_that_begin_each_other_are_no_problem() -> None:
    rows = [tuple([1] * length) for length in range(1, 3000)]
    assert sum(len(group.rows) for group in group_by_prefix(rows, 64)) == len(rows)
