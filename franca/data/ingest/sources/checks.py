"""Checks on the labels of a source that several kinds of sources make."""

from collections.abc import Collection

from franca.data.ingest.path_labels import PathLabels
from franca.data.store.files.names import printable
from franca.data.store.index import SplitName
from franca.errors import FrancaError


class LabelChecks:
    """Check that all images of a source have a class or none has, and the same for splits.

    Partly labelled data would be scored as errors, and an image without a split would be drawn next to given ones.
    """

    def __init__(self, where: str) -> None:
        """Start without images; `where` is the source, for messages."""
        self._where = where
        self._classes: dict[bool, str] = {}
        self._splits: dict[bool, str] = {}

    def add_class(self, name: str, class_name: str | None) -> None:
        """Raise FrancaError if this image has a class and an earlier one has none, or the other way round."""
        self._classes.setdefault(class_name is not None, name)
        if len(self._classes) == 2:
            raise FrancaError(
                f"{self._where}: {printable(self._classes[True])} has a class and {printable(self._classes[False])} "
                "has none; give a class to all images or to none"
            )

    def add_split(self, name: str, split: SplitName | None) -> None:
        """Raise FrancaError if this image has a split and an earlier one has none, or the other way round."""
        self._splits.setdefault(split is not None, name)
        if len(self._splits) == 2:
            raise FrancaError(
                f"{self._where}: {printable(self._splits[True])} is in a split folder and "
                f"{printable(self._splits[False])} is not; put all images into train, val or test"
            )


def require_train(labels: Collection[PathLabels], example: str, where: str, key: str) -> None:
    """Raise FrancaError if all folders are assigned to val or test.

    Args:
        labels: The labels of all folders of images.
        example: The path of an image or a tar, for the message.
        where: The source, for the message.
        key: The parameter that names the source.
    """
    if labels and all(found.split not in (None, "train") for found in labels):
        raise FrancaError(
            f"{where}: {printable(example)} and all others are for val or test, none for train; change {key}"
        )
