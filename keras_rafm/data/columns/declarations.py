"""Functions that declare the columns of a `Schema`.

Functions and options that also exist in `keras.utils.FeatureSpace` have the same names as there.
"""

from __future__ import annotations

from keras_rafm.data.columns.categorical import Combiner, Hashed, Identity, Vocabulary
from keras_rafm.data.columns.column import Missing
from keras_rafm.data.columns.numeric import Binning, Discretized, Number, Scaling

_Real = float  # the class below has a function of this name


class ColumnDeclarations:
    """The column-declaring functions of `Schema`."""

    @staticmethod
    def string_categorical(
        *,
        min_count: int = 1,
        max_tokens: int | None = None,
        num_oov_indices: int = 1,
        missing: Missing = "category",
        multivalued: bool = False,
        separator: str | None = None,
        weight_separator: str | None = None,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Vocabulary:
        """Declare a column of strings with one feature per value.

        Values with a line break count as unseen, because a vocabulary file has one value per line.

        Args:
            min_count: Values that occur less often in training data share the feature of unseen values.
            max_tokens: The largest number of values with a feature of their own; the most frequent ones are kept. Unlike in
                Keras's `StringLookup`, this number does not include the features of unseen and missing values.
            num_oov_indices: 1: all unseen values share one feature. 0: they contribute nothing.
            missing: `"category"`: missing values (empty strings, rows without a value) have a feature of their own.
                `"ignore"`: they contribute nothing.
            multivalued: Whether a row holds a list of values.
            separator: The text between values, such as `"|"`, if a row holds its values in one string.
            weight_separator: The character between a value and its weight, such as `":"` in `"jazz:0.7|folk:0.3"`. If it
                occurs several times in a value, the last one counts. It must not be a character that occurs in
                numbers. A value without a weight has the weight 1.
            weights: The name of a column with the weights of a `multivalued` column: lists of equal lengths.
            combiner: `x_i` of each of a row's values, given their weights `w` (1 without weights): `"sum"`: `w`; `"mean"`:
                `w / Σ w`; `"sqrtn"`: `w / √(Σ w²)`, as in `tf.nn.embedding_lookup_sparse`. The sums run over all values of
                the row, including those that contribute nothing.

        Raises:
            TypeError: An option is of the wrong type.
            ValueError: An option is out of range, or options exclude each other.
        """
        return Vocabulary(
            dtype="string",
            missing=missing,
            multivalued=multivalued,
            separator=separator,
            weight_separator=weight_separator,
            weights=weights,
            combiner=combiner,
            min_count=min_count,
            max_tokens=max_tokens,
            num_oov_indices=num_oov_indices,
        )

    @staticmethod
    def integer_categorical(
        *,
        min_count: int = 1,
        max_tokens: int | None = None,
        num_oov_indices: int = 1,
        missing: Missing = "category",
        multivalued: bool = False,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Vocabulary:
        """Declare a column of integers with one feature per value. −2**63 stands for a missing value.

        See `string_categorical` for arguments and errors.
        """
        return Vocabulary(
            dtype="int64",
            missing=missing,
            multivalued=multivalued,
            separator=None,
            weight_separator=None,
            weights=weights,
            combiner=combiner,
            min_count=min_count,
            max_tokens=max_tokens,
            num_oov_indices=num_oov_indices,
        )

    @staticmethod
    def string_hashed(
        num_bins: int,
        *,
        missing: Missing = "category",
        multivalued: bool = False,
        separator: str | None = None,
        weight_separator: str | None = None,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Hashed:
        """Declare a column of strings that are hashed into `num_bins` features.

        See `string_categorical` for the other arguments and errors.
        """
        return Hashed(
            dtype="string",
            missing=missing,
            multivalued=multivalued,
            separator=separator,
            weight_separator=weight_separator,
            weights=weights,
            combiner=combiner,
            num_bins=num_bins,
        )

    @staticmethod
    def integer_hashed(
        num_bins: int,
        *,
        missing: Missing = "category",
        multivalued: bool = False,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Hashed:
        """Declare a column of integers that are hashed into `num_bins` features.

        See `string_categorical` for the other arguments and errors.
        """
        return Hashed(
            dtype="int64",
            missing=missing,
            multivalued=multivalued,
            separator=None,
            weight_separator=None,
            weights=weights,
            combiner=combiner,
            num_bins=num_bins,
        )

    @staticmethod
    def integer_identity(
        num_ids: int, *, multivalued: bool = False, weights: str | None = None, combiner: Combiner = "sum"
    ) -> Identity:
        """Declare a column of integers in `[0, num_ids)` that are feature numbers already; others contribute nothing.

        See `string_categorical` for the other arguments and errors.
        """
        return Identity(
            dtype="int64",
            missing="ignore",
            multivalued=multivalued,
            separator=None,
            weight_separator=None,
            weights=weights,
            combiner=combiner,
            num_ids=num_ids,
        )

    @staticmethod
    def float(scaling: Scaling = "none") -> Number:
        """Declare a column of numbers that are the value `x_i` of one feature.

        A missing number (NaN, or an empty field) contributes nothing.

        Args:
            scaling: `"standard"`: subtract the mean and divide by the standard deviation of training data, as
                `float_normalized` of `keras.utils.FeatureSpace` does. `"min_max"`: map the range of training data to
                `[0, 1]`. `"none"`: leave numbers unchanged; their size should then be about 1.

        Raises:
            ValueError: `scaling` is unknown.
        """
        return Number(scaling)

    @staticmethod
    def float_discretized(
        num_bins: int | None = None,
        *,
        bin_boundaries: tuple[_Real, ...] | None = None,
        binning: Binning = "quantile",
        missing: Missing = "ignore",
    ) -> Discretized:
        """Declare a column of numbers with one feature per bin.

        Args:
            num_bins: The number of quantile bins, at least 2. There are fewer if many rows have the same number.
            bin_boundaries: Lower ends of all bins but the first, increasing, in place of `num_bins` and `binning`.
            binning: `"quantile"`: each bin has about the same number of training rows. `"log"`: `floor(ln(x)²)` above 2 and
                whole numbers up to 2, as used for Criteo's columns.
            missing: `"ignore"`: missing numbers contribute nothing. `"category"`: they have a feature of their own.

        Raises:
            TypeError: An option is of the wrong type.
            ValueError: An option is out of range, or options exclude each other.
        """
        return Discretized(num_bins=num_bins, bin_boundaries=bin_boundaries, binning=binning, missing=missing)
