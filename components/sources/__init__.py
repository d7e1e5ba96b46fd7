"""The kinds of source, each a file here with its `KIND`; `kinds.py` holds the table of them."""

NAMES = ("parquet", "arrow", "jsonl", "images", "audio", "idx", "text")  # here, so that a recipe is read without them
