"""Labels: the column `label` of a source, whatever its type, as indices into the names of its classes.

Where the source or its card lists the classes, a whole number is an index and text is a name; else each different value
is the name of a class. Whole numbers are whole in any type (pandas writes them as floats beside a null), NaN is a null.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.errors import AtelierError
from components.sources.contract import MOST_CLASSES, Table
from components.spelling import unknown

SHOWN = 10  # classes that a message lists
UP_TO = 2.0**63  # whole floats below it are int64


@dataclass(frozen=True)
class Classes:
    """The classes of a source, in the order of their indices."""

    names: tuple[str, ...] = ()
    listed: bool = False  # whole numbers are indices then
    indexed: bool = False  # the source lists them itself; -1 is a label that is not known


def classes(title: str, table: Table, listed: Iterable[Any]) -> Classes:
    """The classes that a card lists, those of the source itself, or else the labels that there are.

    These stand in the order of numbers where all are numbers, else in that of text. An `AtelierError` where card and
    source differ, where there are too many, and where a value cannot be a label.
    """
    names = tuple(_listed(title, value) for value in listed)
    if names and table.indexed and names != table.classes:
        raise AtelierError(
            f"the card of {title!r} lists the classes {_some(names)}, but its data {_some(table.classes)}. "
            "Remove `classes` from the README.md, or correct it."
        )
    if names or table.classes:
        return Classes(names or table.classes, listed=True, indexed=table.indexed)
    return Classes(_found(title, table))


def indices(column: pa.Array, classes: Classes, title: str) -> pa.Array:
    """The index of each label's class as int64; an index that the source gives itself is taken as it is."""
    column = _plain(column, title)
    if classes.listed and _is_number(column.type):
        given = _whole(column, title)
        return pc.if_else(pc.equal(given, -1), None, given) if classes.indexed else given
    names = _names(column, title)
    found = pc.index_in(names, value_set=pa.array(classes.names, pa.string())).cast(pa.int64())
    strange = names.filter(pc.and_(found.is_null(), names.is_valid()))
    if len(strange):
        raise AtelierError(f"a label of {title!r}: {unknown('class', strange[0].as_py(), classes.names)}")
    return found


def _found(title: str, table: Table) -> tuple[str, ...]:
    seen: set[str] = set()
    numbers = True
    for batch in table.read(["label"]):
        column = _plain(batch.column(0), title)
        here = _names(column, title).drop_null().unique().to_pylist()
        numbers = numbers and (_is_number(column.type) or not here)
        seen.update(here)
        if len(seen) > MOST_CLASSES:
            raise AtelierError(
                f"the column 'label' of {title!r} has more than {MOST_CLASSES:,} different values, so it does not "
                "name classes. Call it 'text' if it says what the row shows, or list the classes in README.md."
            )
    return tuple(sorted(seen, key=Decimal) if numbers else sorted(seen))


def _listed(title: str, value: Any) -> str:
    """A class as a card lists it, spelt as a label of that value is."""
    try:
        name = _names(_plain(pa.array([value]), title), title)[0].as_py()
    except (pa.ArrowException, AtelierError):
        name = None
    if name is None:
        raise AtelierError(f"the card of {title!r} lists {value!r} among its `classes`, which is no name. Correct it.")
    return str(name)


def _plain(column: pa.Array, title: str) -> pa.Array:
    """A column of one value a row, without the NaN of those who have no other null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        raise _no_label(title, column.type)
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _names(column: pa.Array, title: str) -> pa.Array:
    """Each value as text; it hangs on the value alone, so that it is the same in each batch and type."""
    if pa.types.is_decimal(column.type):
        return pa.array([None if value is None else f"{value.normalize():f}" for value in column.to_pylist()])
    if not pa.types.is_floating(column.type):
        return _cast(column, pa.string(), title)
    if pc.any(pc.is_inf(column)).as_py():
        raise AtelierError(f"the column 'label' of {title!r} holds an infinite number, which names no class.")
    whole = _are_whole(column)
    return pc.if_else(whole, pc.if_else(whole, column, 0).cast(pa.int64()).cast(pa.string()), column.cast(pa.string()))


def _are_whole(column: pa.Array) -> pa.Array:
    return pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), UP_TO))


def _whole(column: pa.Array, title: str) -> pa.Array:
    """Numbers as the indices they are."""
    if pa.types.is_floating(column.type):
        broken = column.filter(pc.invert(_are_whole(column)))
        if len(broken):
            raise AtelierError(
                f"the column 'label' of {title!r} holds {broken[0].as_py()}: where the classes are listed, a number is "
                "the index of one. Write whole numbers, or the names as text."
            )
    return _cast(column, pa.int64(), title)


def _cast(column: pa.Array, kind: pa.DataType, title: str) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowException:
        raise _no_label(title, column.type) from None


def _no_label(title: str, kind: pa.DataType) -> AtelierError:
    return AtelierError(
        f"the column 'label' of {title!r} is {kind}, or holds what does not read as UTF-8 or int64: a label is one "
        "value, text or a number. Write it so, or give the column another name if it is no label."
    )


def _some(values: Iterable[str]) -> str:
    first = list(islice(values, SHOWN + 1))
    return ", ".join(first[:SHOWN]) + (" ..." if len(first) > SHOWN else "")
