"""A row of a labelled dataset has a label of it; one of an unlabelled dataset has none, whatever its source said."""

import pytest

from components.errors import AtelierError
from components.rows import Row, label_index


def row(label: int | None) -> Row:
    return Row("row-0", b"", label, None, "train")


@pytest.mark.parametrize("label", [0, 1])
def test_a_label_of_the_dataset_is_its_class(label: int) -> None:
    assert label_index(row(label), ("a", "b")) == label


@pytest.mark.parametrize("label", [None, -1, 2])
def test_labelled_data_take_no_row_without_a_label_of_theirs(label: int | None) -> None:
    with pytest.raises(AtelierError, match=f"the row 'row-0' has the label {label}, but the dataset's 2 classes"):
        label_index(row(label), ("a", "b"))


@pytest.mark.parametrize("label", [None, -1, 0, 7])
def test_data_without_classes_have_no_labels(label: int | None) -> None:
    assert label_index(row(label), ()) is None
