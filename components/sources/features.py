"""What the library `datasets` writes into an Arrow schema: the names of the classes of a `ClassLabel`."""

import json
from typing import Any

import pyarrow as pa


def classes_of(schema: pa.Schema, column: str = "label") -> tuple[str, ...]:
    """The names of a column of labels in order; empty where the schema lists none."""
    try:
        said: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = said["info"]["features"][column]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else ()
    except (KeyError, TypeError, ValueError):
        return ()
