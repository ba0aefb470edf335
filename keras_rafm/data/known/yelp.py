"""Yelp: stars that users gave businesses, as in papers on heterogeneous networks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.known.recipe import Recipe
from keras_rafm.data.known.rows import split_rows
from keras_rafm.data.known.sources import Layout, Source
from keras_rafm.data.known.splits import SplitWriter, write_drawn
from keras_rafm.data.schema import Schema


def _schema(min_count: int) -> Schema:
    # With `min_count=1`, training would never update a feature of unseen values.
    unseen = int(min_count > 1)
    number = Schema.integer_categorical(min_count=min_count, num_oov_indices=unseen, missing="ignore")
    city = Schema.integer_categorical(min_count=min_count, num_oov_indices=unseen)
    categories = Schema.string_categorical(min_count=min_count, num_oov_indices=unseen, missing="ignore", separator="|")
    features = {"user": number, "business": number, "city": city, "categories": categories}
    return Schema(features, label="stars", task="regression")


def _write(writer: SplitWriter, sources: Mapping[str, Source], seed: int) -> None:
    cities = _by_business(sources["business_city.dat"], "city")
    categories = _by_business(sources["business_category.dat"], "category")
    several = [business for business, cities_of_business in cities.items() if len(cities_of_business) > 1]
    if several:
        name = several[0]
        raise ValueError(
            f"{sources['business_city.dat'].name}: business {name!r} must have one city. Received: {cities[name]}"
        )
    examples = split_rows(sources["user_business.dat"], "\t", ("user", "business", "stars"))
    write_drawn(writer, examples, defaultdict(str), _Businesses(cities, categories), seed)


class _Businesses(dict[str, str]):
    """City and categories of each business, as fields preceded by tabs. Businesses may have none."""

    def __init__(self, cities: Mapping[str, list[str]], categories: Mapping[str, list[str]]) -> None:
        super().__init__()
        self._cities, self._categories = cities, categories

    def __missing__(self, key: str) -> str:
        return f"\t{'|'.join(self._cities.get(key, []))}\t{'|'.join(self._categories.get(key, []))}"


def _by_business(source: Source, what: str) -> dict[str, list[str]]:
    """Return the values (cities or categories) of each business."""
    values: dict[str, list[str]] = {}
    for business, value, _ in split_rows(source, "\t", ("business", what, "weight")):
        values.setdefault(business, []).append(value)
    return values


YELP = Recipe(
    layout=Layout(
        "yelp", (("user_business.dat",), ("business_city.dat",), ("business_category.dat",)), ("Yelp", "yelp"), archive=None
    ),
    description="198,397 ratings of businesses by users; city and categories of the business",
    citation=(
        "Chuan Shi, Binbin Hu, Wayne Xin Zhao and Philip S. Yu. 2019. Heterogeneous Information Network Embedding for "
        "Recommendation. IEEE Transactions on Knowledge and Data Engineering 31, 2. https://doi.org/10.1109/TKDE.2018.2833443"
    ),
    licence="none stated with these files; Yelp's own terms for its dataset allow academic use",
    page="https://github.com/librahu/HIN-Datasets-for-Recommendation-and-Network-Embedding (the folder Yelp)",
    source="these files have no permanent address",
    file_format=CSVFormat(delimiter="\t", quote=None),
    suffix=".tsv",
    write=_write,
    schema=_schema,
    header=b"user\tbusiness\tcity\tcategories\tstars\n",
)
