"""Levels, slots, sizes, summary and files of `RankPlan`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

NAN, INF = float("nan"), float("inf")


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[int], list[int], list[float] | None]:
    """Draw the levels, ranks and counts of a plan."""
    ranks = sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=4)))
    levels = draw(st.lists(st.integers(1, len(ranks)), min_size=1, max_size=12))
    counts = st.lists(st.integers(0, 4) | st.floats(0, 4), min_size=len(levels), max_size=len(levels))
    return levels, ranks, draw(st.none() | counts)


class TestLevels:
    def test_from_counts_by_hand(self) -> None:
        """A count equal to a threshold does not exceed it."""
        plan = kr.RankPlan.from_counts([0, 10, 11, 100, 101, 10_000], ranks=(4, 8, 16), thresholds=(10, 100))
        np.testing.assert_array_equal(plan.levels, [1, 1, 2, 2, 3, 3])
        assert plan.levels.dtype == np.int32
        assert plan.level_sizes == (6, 4, 2)
        assert plan.ranks == (4, 8, 16)
        assert (plan.num_levels, plan.num_features) == (3, 6)

    @given(
        st.lists(st.floats(0, 20) | st.integers(0, 20), min_size=1, max_size=20),
        st.lists(st.integers(0, 20) | st.floats(0, 20), max_size=4, unique=True),
    )
    def test_from_counts_is_one_plus_thresholds_exceeded(self, counts: list, thresholds: list) -> None:
        thresholds = sorted(thresholds)
        plan = kr.RankPlan.from_counts(counts, tuple(range(1, len(thresholds) + 2)), thresholds)
        assert plan.levels.tolist() == [1 + sum(count > t for t in thresholds) for count in counts]
        np.testing.assert_array_equal(plan.counts, counts)

    @pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", "float16", "float32"])
    def test_counts_of_any_dtype(self, dtype: str) -> None:
        plan = kr.RankPlan.from_counts(np.array([3, 200, 7], dtype), (1, 2), (5,))
        assert plan.levels.tolist() == [1, 2, 2]
        assert plan.slots.tolist() == [2, 0, 1]

    @pytest.mark.parametrize(
        ("levels", "level_sizes"),
        [
            ([2, 3, 3], (3, 3, 2)),
            ([1, 3, 1], (3, 1, 1)),
            ([2, 1, 1], (3, 1, 0)),
            ([1, 1, 1], (3, 0, 0)),
            ([3, 3, 3], (3, 3, 3)),
        ],
        ids=["low", "middle", "top", "all but low", "all but top"],
    )
    def test_levels_may_be_empty(self, levels: list[int], level_sizes: tuple[int, ...]) -> None:
        plan = kr.RankPlan(levels, (2, 4, 8))
        assert plan.level_sizes == level_sizes
        assert plan.levels.tolist() == levels

    def test_one_level_is_a_plain_fm(self) -> None:
        plan = kr.RankPlan.from_counts([5, 0], ranks=(8,), thresholds=())
        assert plan.levels.tolist() == [1, 1]
        assert (plan.num_active_factors, plan.num_free_factors, plan.num_dependent_factors) == (16, 16, 0)

    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
    def test_levels_of_any_integer_dtype(self, dtype: str) -> None:
        assert kr.RankPlan(np.array([1, 2, 1], dtype), (2, 4)).level_sizes == (3, 1)

    def test_plan_keeps_copies_and_returns_read_only_views(self) -> None:
        levels, counts = np.array([1, 2], np.int32), np.array([3, 4])
        plan = kr.RankPlan(levels, (2, 4), counts)
        levels[0] = counts[0] = 2
        assert plan.levels.tolist() == [1, 2]
        assert plan.counts is not None
        assert plan.counts.tolist() == [3, 4]
        for array in (plan.levels, plan.slots, plan.counts):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


class TestSizes:
    def test_by_hand(self) -> None:
        """Levels 1, 2, 2, 3 at ranks 2, 3, 5."""
        plan = kr.RankPlan([1, 2, 2, 3], (2, 3, 5))
        assert plan.num_active_factors == 4 * 2 + 3 * 3 + 1 * 5
        assert plan.num_free_factors == 1 * 2 + 2 * 3 + 1 * 5
        assert plan.num_dependent_factors == 3 * 2 + 1 * 3
        assert plan.num_bytes() == 4 * 22
        assert plan.num_bytes(2) == 2 * 22

    @given(plans())
    def test_against_brute_force(self, parts: tuple) -> None:
        levels, ranks, counts = parts
        plan = kr.RankPlan(levels, ranks, counts)
        active = {(i, k) for i, level in enumerate(levels) for k in range(1, level + 1)}
        free = {(i, level) for i, level in enumerate(levels)}
        assert plan.level_sizes == tuple(sum(k == kk for _, k in active) for kk in range(1, len(ranks) + 1))
        assert plan.num_active_factors == sum(ranks[k - 1] for _, k in active)
        assert plan.num_free_factors == sum(ranks[k - 1] for _, k in free)
        assert plan.num_dependent_factors == sum(ranks[k - 1] for _, k in active - free)


class TestSlots:
    def test_order_by_level_then_count_then_id(self) -> None:
        plan = kr.RankPlan([1, 2, 1, 2, 2, 1], (2, 4), counts=[7, 1, 9, 5, 5, 7])
        assert np.argsort(plan.slots).tolist() == [3, 4, 1, 2, 0, 5]
        assert plan.slots.dtype == np.int32

    def test_without_counts_by_id(self) -> None:
        assert np.argsort(kr.RankPlan([1, 2, 1, 2], (2, 4)).slots).tolist() == [1, 3, 0, 2]

    @given(plans())
    def test_order(self, parts: tuple) -> None:
        levels, ranks, counts = parts
        plan = kr.RankPlan(levels, ranks, counts)
        keys = [(-level, -(counts[i] if counts else 0), i) for i, level in enumerate(levels)]
        assert [keys[i] for i in np.argsort(plan.slots)] == sorted(keys)
        assert sorted(plan.slots.tolist()) == list(range(len(levels)))

    @given(plans())
    def test_features_of_a_level_or_above_are_a_prefix(self, parts: tuple) -> None:
        levels, ranks, counts = parts
        plan = kr.RankPlan(levels, ranks, counts)
        for k, size in enumerate(plan.level_sizes, start=1):
            np.testing.assert_array_equal(plan.slots < size, np.array(levels) >= k)
        np.testing.assert_array_equal(plan.levels_of_slots(plan.slots), levels)


class TestFingerprint:
    @given(plans(), plans())
    def test_equal_if_and_only_if_slots_are(self, first: tuple, second: tuple) -> None:
        one, other = kr.RankPlan(*first), kr.RankPlan(*second)
        assert (one.fingerprint == other.fingerprint) == np.array_equal(one.slots, other.slots)

    def test_depends_on_the_order_within_a_level(self) -> None:
        one, other = (kr.RankPlan([1, 1, 2], (2, 4), counts) for counts in ([5, 3, 9], [3, 5, 9]))
        assert one.fingerprint != other.fingerprint
        assert one != other

    def test_is_the_same_on_every_platform_and_in_every_version(self) -> None:
        """Saved models hold the fingerprint, so it must never change: BLAKE2b of the little-endian int32 slots 2, 0, 1."""
        assert kr.RankPlan([1, 2, 2], (2, 4)).fingerprint == "0b291dbcebcc94437b898983e526b0b8"

    def test_equality(self) -> None:
        plan = kr.RankPlan([1, 2, 2], (2, 4))
        assert plan == kr.RankPlan([1, 2, 2], (2, 4))
        assert plan == kr.RankPlan([1, 2, 2], (2, 4), counts=[1, 9, 9])
        assert plan != kr.RankPlan([1, 2, 2], (2, 5))
        assert plan != kr.RankPlan([2, 2, 1], (2, 4))
        assert plan != "RankPlan"
        assert repr(plan) == "RankPlan(ranks=(2, 4), level_sizes=(3, 2))"


SUMMARY = """\
level  rank  features  occurrences    free  dependent    MB
-----------------------------------------------------------
    1     4     9,000        10.0%  36,000      4,000  0.16
    2    64     1,000        90.0%  64,000          0  0.26
-----------------------------------------------------------
 RaFM          10,000       100.0% 100,000      4,000  0.42
FM-64    64    10,000              640,000          0  2.56
 FM-4     4    10,000               40,000          0  0.16
"""


class TestSummary:
    @staticmethod
    def cells(table: str) -> list[list[str]]:
        return [line.split() for line in table.splitlines() if "---" not in line]

    def test_content(self) -> None:
        counts = np.array([1] * 9_000 + [81] * 1_000)
        printed: list[str] = []
        kr.RankPlan.from_counts(counts, (4, 64), (1,)).summary(print_fn=printed.append)
        (table,) = printed
        assert self.cells(table) == self.cells(SUMMARY)
        assert len({len(line) for line in table.splitlines()}) == 1

    def test_printed_without_print_fn(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert kr.RankPlan([1, 2], (4, 64)).summary() is None
        out, err = capsys.readouterr()
        assert self.cells(out)[1:3] == [["1", "4", "1", "?", "4", "4", "0.00"], ["2", "64", "1", "?", "64", "0", "0.00"]]
        assert err == ""

    def test_single_level_shows_one_plain_fm(self, capsys: pytest.CaptureFixture[str]) -> None:
        kr.RankPlan([1, 1], (4,)).summary()
        assert [row[0] for row in self.cells(capsys.readouterr().out)] == ["level", "1", "RaFM", "FM-4"]

    def test_counts_of_zero_have_no_shares(self, capsys: pytest.CaptureFixture[str]) -> None:
        kr.RankPlan.from_counts([0, 0], (4,), ()).summary()
        assert "%" not in capsys.readouterr().out

    def test_shares_of_counts_whose_sum_overflows_their_dtype(self, capsys: pytest.CaptureFixture[str]) -> None:
        kr.RankPlan.from_counts(np.array([6e4, 6e4, 0], np.float16), (2, 4), (5,)).summary()
        assert self.cells(capsys.readouterr().out)[2][3] == "100.0%"


class TestFile:
    @pytest.mark.parametrize("name", ["plan.npz", "plan", "plan.v1.bin", "план 1"])
    @pytest.mark.parametrize("counts", [None, [3, 1, 4, 1], [0.5, 0.0, 2.25, 1.0]], ids=["none", "int", "float"])
    def test_round_trip(self, tmp_path: Path, name: str, counts: list | None) -> None:
        plan = kr.RankPlan([2, 1, 3, 1], (2, 4, 8), counts)
        plan.save(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        loaded = kr.RankPlan.load(str(tmp_path / name))
        assert loaded == plan
        assert loaded.fingerprint == plan.fingerprint
        assert loaded.ranks == plan.ranks
        if counts is None:
            assert loaded.counts is None
        else:
            np.testing.assert_array_equal(loaded.counts, counts)

    @given(plans())
    def test_round_trip_of_any_plan(self, tmp_path_factory: pytest.TempPathFactory, parts: tuple) -> None:
        path = tmp_path_factory.mktemp("plan") / "plan"
        plan = kr.RankPlan(*parts)
        plan.save(path)
        assert kr.RankPlan.load(path) == plan
        shutil.rmtree(path.parent)

    def test_more_levels_than_fit_a_byte(self, tmp_path: Path) -> None:
        plan = kr.RankPlan([300, 1], tuple(range(1, 301)))
        plan.save(tmp_path / "plan")
        assert kr.RankPlan.load(tmp_path / "plan").levels.tolist() == [300, 1]

    def test_save_replaces_a_file(self, tmp_path: Path) -> None:
        kr.RankPlan([1] * 1000, (2, 4), range(1000)).save(tmp_path / "plan")
        kr.RankPlan([1, 2], (2, 4)).save(tmp_path / "plan")
        assert kr.RankPlan.load(tmp_path / "plan").num_features == 2

    def test_size(self, tmp_path: Path) -> None:
        """A file of 10,000 features of two levels takes a few bits per feature."""
        levels = np.random.default_rng(0).integers(1, 3, 10_000)
        kr.RankPlan(levels, (2, 4)).save(tmp_path / "plan")
        assert (tmp_path / "plan").stat().st_size < 5_000

    @staticmethod
    def write_version_1(path: Path, **changes: object) -> None:
        """Write a file of format 1. Entries may be changed, or left out by `None`."""
        entries = {
            "format": np.array("keras_rafm.RankPlan"),
            "format_version": np.array(1),
            "ranks": np.array([4, 16], np.int64),
            "levels": np.array([1, 2, 1, 2], np.uint8),
            "counts": np.array([3, 700, 0, 900], np.int64),
        } | changes
        with path.open("wb") as file:
            np.savez_compressed(file, **{name: entry for name, entry in entries.items() if entry is not None})

    def test_a_file_of_version_1_always_loads(self, tmp_path: Path) -> None:
        self.write_version_1(tmp_path / "old")
        plan = kr.RankPlan.load(tmp_path / "old")
        assert plan == kr.RankPlan.from_counts([3, 700, 0, 900], (4, 16), (10,))
        assert plan.counts is not None
        assert plan.counts.tolist() == [3, 700, 0, 900]
        assert plan.slots.tolist() == [2, 1, 3, 0]

    def test_a_file_of_version_1_without_counts(self, tmp_path: Path) -> None:
        self.write_version_1(tmp_path / "old", counts=None)
        assert kr.RankPlan.load(tmp_path / "old") == kr.RankPlan([1, 2, 1, 2], (4, 16))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            kr.RankPlan.load(tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format_version": np.array(2)}, "expected a RankPlan file of format 1 or lower, received format 2"),
            ({"format": np.array("other")}, "expected a RankPlan file"),
            ({"format": None}, "expected a RankPlan file, received one with the entries .*'levels'"),
            ({"format_version": None}, "damaged.*format_version"),
            ({"format_version": np.array("one")}, "damaged"),
            ({"levels": None}, "damaged.*levels"),
            ({"levels": np.array([1, 3, 1, 2])}, r"damaged.*levels\[1\]=3"),
            ({"levels": np.array([[1, 2]])}, "damaged.*one-dimensional"),
            ({"ranks": None}, "damaged.*ranks"),
            ({"ranks": np.array([16, 4])}, "damaged.*increasing"),
            ({"ranks": np.array([4.0, 16.0])}, "damaged.*integers"),
            ({"counts": np.array([1])}, "damaged.*counts"),
            ({"counts": np.array([1, 2, 3, NAN])}, r"damaged.*counts\[3\]=nan"),
        ],
    )
    def test_a_wrong_archive(self, tmp_path: Path, changes: dict, message: str) -> None:
        self.write_version_1(tmp_path / "wrong one", **changes)
        with pytest.raises(ValueError, match=f"wrong one.*{message}"):
            kr.RankPlan.load(tmp_path / "wrong one")

    @pytest.mark.parametrize("content", [b"", b"ranks: 4, 16", b"PK\x03\x04 not really"], ids=["empty", "text", "no zip"])
    def test_a_foreign_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(ValueError, match="foreign: expected a RankPlan file, could not read it"):
            kr.RankPlan.load(tmp_path / "foreign")

    def test_a_single_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "array.npy", np.arange(3))
        with pytest.raises(ValueError, match=r"array.npy: expected a RankPlan file, could not read it"):
            kr.RankPlan.load(tmp_path / "array.npy")

    def test_a_pickle_is_never_run(self, tmp_path: Path) -> None:
        with (tmp_path / "pickled").open("wb") as file:
            np.savez(file, format=np.array([{}], object))
        with pytest.raises(ValueError, match=r"pickled: expected a RankPlan file, could not read it.*allow_pickle"):
            kr.RankPlan.load(tmp_path / "pickled")

    def test_every_truncation_and_every_wrong_byte(self, tmp_path: Path) -> None:
        """A damaged file raises ValueError, or the damage does no harm: `load` never returns a wrong plan."""
        plan = kr.RankPlan([2, 1, 3, 1], (2, 4, 8))
        plan.save(tmp_path / "plan")
        content = (tmp_path / "plan").read_bytes()
        damaged = [content[:end] for end in range(0, len(content), 7)]
        for place in range(0, len(content), 3):
            damaged.append(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        messages = []
        for bytes_of_file in damaged:
            (tmp_path / "broken one").write_bytes(bytes_of_file)
            try:
                loaded = kr.RankPlan.load(tmp_path / "broken one")
            except ValueError as error:
                messages.append(str(error))
            else:
                assert loaded == plan
        assert all("broken one" in message for message in messages)
        assert len(messages) > len(damaged) / 2


class TestErrors:
    @pytest.mark.parametrize(
        ("ranks", "message"),
        [
            ((64, 32), r"`ranks` must be one or more positive, increasing integers.*ranks=\(64, 32\)"),
            ((8, 8), "increasing"),
            ((0, 8), "positive"),
            ((-4,), "positive"),
            ((), "one or more"),
        ],
    )
    def test_ranks(self, ranks: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            kr.RankPlan([1, 1], ranks)

    @pytest.mark.parametrize("rank", [8.0, True, np.bool_(True), "8", None, np.float32(8)])
    def test_ranks_that_are_not_integers(self, rank: object) -> None:
        with pytest.raises(TypeError, match="`ranks` must be integers"):
            kr.RankPlan([1, 1], (rank,))

    def test_ranks_of_numpy_integers(self) -> None:
        ranks = kr.RankPlan([1], np.array([4, 8], np.int16)).ranks
        assert ranks == (4, 8)
        assert {type(rank) for rank in ranks} == {int}

    @pytest.mark.parametrize(
        ("thresholds", "message"),
        [
            ((), "one entry fewer than `ranks`"),
            ((1,), r"one entry fewer than `ranks`, here 2.*thresholds=\(1,\)"),
            ((1, 2, 3), "one entry fewer"),
            ((5, 5), "increasing"),
            ((5, 4), r"increasing. Received: thresholds=\(5, 4\)"),
            ((INF, INF), "increasing"),
            ((-1, 4), "non-negative"),
            ((NAN, 4), "non-negative and increasing"),
            ((1, NAN), "non-negative and increasing"),
        ],
    )
    def test_thresholds(self, thresholds: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            kr.RankPlan.from_counts([1, 2, 3], (4, 8, 16), thresholds)

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ([1, 2, -3], r"non-negative and finite.*counts\[2\]=-3 \(1 such"),
            ([1.0, NAN, NAN], r"counts\[1\]=nan \(2 such"),
            ([INF, 1.0, 1.0], r"counts\[0\]=inf"),
            ([[1, 2, 3]], r"shape.*\(1, 3\)"),
            (3, "shape"),
            ([], r"at least one.*Received: shape \(0,\)"),
        ],
    )
    @pytest.mark.parametrize("method", ["from_counts", "init"])
    def test_counts(self, counts: object, message: str, method: str) -> None:
        make = {
            "init": lambda: kr.RankPlan([1, 2, 1], (4, 8), counts),
            "from_counts": lambda: kr.RankPlan.from_counts(counts, (4, 8), (2,)),
        }
        with pytest.raises(ValueError, match=message):
            make[method]()

    def test_counts_of_another_length(self) -> None:
        with pytest.raises(ValueError, match=r"`counts` must be of shape \[num_features=3\].*\(2,\)"):
            kr.RankPlan([1, 2, 1], (4, 8), [1, 2])

    @pytest.mark.parametrize("counts", [["1", "2"], [True, False], [1j, 2], [None, 1]])
    def test_counts_that_are_not_numbers(self, counts: list) -> None:
        with pytest.raises(TypeError, match="`counts` must be numbers"):
            kr.RankPlan.from_counts(counts, (4, 8), (1,))

    @pytest.mark.parametrize(
        ("levels", "message"),
        [
            ([1, 0, 2, 0], r"1 … 2 .*levels\[1\]=0 \(2 such"),
            ([1, 3], r"levels\[1\]=3 \(1 such"),
            ([-1, 1], r"levels\[0\]=-1"),
            (np.array([2**63], np.uint64), r"levels\[0\]=9223372036854775808"),
            ([[1, 2], [2, 1]], r"one-dimensional.*\(2, 2\)"),
            (1, "one-dimensional"),
            ([], "1 to .* features"),
        ],
    )
    def test_levels(self, levels: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            kr.RankPlan(levels, (4, 8))

    @pytest.mark.parametrize("levels", [[1.0, 2.0], [True, True], ["1"], [NAN]])
    def test_levels_that_are_not_integers(self, levels: list) -> None:
        with pytest.raises(TypeError, match="`levels` must be integers"):
            kr.RankPlan(levels, (4, 8))


def test_two_million_features() -> None:
    num_features = 2_000_000
    counts = np.arange(num_features)[::-1]  # feature 0 is the most frequent
    plan = kr.RankPlan.from_counts(counts, (8, 64, 512), (999_999, 1_998_999))
    assert plan.level_sizes == (2_000_000, 1_000_000, 1_000)
    assert plan.num_active_factors == 8 * 2_000_000 + 64 * 1_000_000 + 512 * 1_000
    np.testing.assert_array_equal(plan.slots, np.arange(num_features))


class TestGivenSlots:
    def test_a_layer_made_from_the_plan_of_another_loads_its_weights(self, tmp_path: Path) -> None:
        """`layer.plan` has no counts, but it keeps the order of the tables that followed from them."""
        layer = kr.RaFMLayer(kr.RankPlan.from_counts([1, 9, 3, 12], (2, 3), (5,)))
        layer.build()
        plan = layer.plan
        np.testing.assert_array_equal(plan.slots, [3, 1, 2, 0])
        plan.save(tmp_path / "plan")
        assert kr.RankPlan.load(tmp_path / "plan") == plan
        weights: dict[str, np.ndarray] = {}
        layer.save_own_variables(weights)
        other = kr.RaFMLayer(kr.RankPlan.load(tmp_path / "plan"))
        other.build()
        other.load_own_variables(weights)
        np.testing.assert_array_equal(other.factors(2)[1], layer.factors(2)[1])

    @pytest.mark.parametrize(
        ("slots", "error", "message"),
        [
            ([0, 1], ValueError, r"must have the shape of `levels`, \(3,\)"),
            ([0.0, 1.0, 2.0], TypeError, "integers"),
            ([0, 0, 1], ValueError, r"each of 0 … 2 exactly once\. Received: \[0 0 1\]"),
            ([0, 1, 2], ValueError, r"slots\[0\]=0 for a feature of level 1"),
        ],
    )
    def test_wrong_slots(self, slots: list, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            kr.RankPlan([1, 2, 2], (1, 2), slots=slots)
