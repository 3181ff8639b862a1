"""Where entities live, and how runs get their ids."""

from collections import Counter

import pytest

from perdure.flow.routing import is_run_id, partition_of, partition_of_run, run_id


def test_the_hash_never_changes() -> None:
    """Stored journals were routed by it."""
    assert [partition_of(entity, 1 << 16) for entity in ("", "order-1", "größe", '["a","",""]')] == [
        38082, 10358, 34604, 6360,
    ]  # fmt: skip
    assert run_id("shop", "work", "order-1") == "5d825e793337d8f3a667f7d48b6931848d94"


def test_a_run_is_found_by_its_id_alone() -> None:
    runs = [run_id("shop", "work", str(n)) for n in range(3_000)]
    assert len(set(runs)) == 3_000
    assert all(is_run_id(run) for run in runs)
    spread = Counter(partition_of_run(run, 6) for run in runs)
    assert set(spread) == set(range(6))
    assert max(spread.values()) < 2 * min(spread.values())


def test_parts_of_a_run_id_do_not_run_together() -> None:
    assert run_id("a", "bc") != run_id("ab", "c")


@pytest.mark.parametrize("text", ["", "nonsense", "g" * 36, "0" * 35, "0" * 37, "A" * 36, "-" + "0" * 35])
def test_what_is_no_run_id_has_no_partition(text: str) -> None:
    assert not is_run_id(text)
    with pytest.raises(ValueError, match="is not a run id"):
        partition_of_run(text, 4)
