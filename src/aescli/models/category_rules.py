"""The benchmarks' scale categories (AesMamba §4.1), for models and for measuring. Imports nothing."""

CATEGORY_RULES: dict[str, tuple[tuple[float, float], tuple[float, ...]]] = {
    "ava": ((1.0, 10.0), (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)),  # floor(mean), 1..8
    "para": ((1.0, 5.0), (2.0, 3.0, 4.0)),  # floor(mean) − 1 in 0..3
    "aadb": ((0.0, 1.0), (0.2, 0.4, 0.6, 0.8)),  # floor(5s), at most 4
    "tad66k": ((0.0, 10.0), (2.0, 4.0, 6.0, 8.0)),  # floor(s/2), at most 4
    "photonet": ((1.0, 7.0), (4.0, 5.0, 6.0)),  # floor(mean) − 3 in 0..3
}
"""Scale and cuts of the benchmarks' scale categories; a score's category is the number of cuts at or below it."""
