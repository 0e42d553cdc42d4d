"""Which folders are splits, which are classes, and which only hold the others."""

import pytest

from franca.data.ingest.layout import read_layout, split_of, split_of_shard
from franca.errors import FrancaError


def read(*names: str) -> dict[str, tuple[str | None, str | None]]:
    """Split and class of each image."""
    folders = {name: tuple(name.split("/")[:-1]) for name in names}
    places = read_layout({folders[name]: name for name in reversed(names)}, "here")
    return {name: (places[folders[name]].split, places[folders[name]].class_name) for name in names}


def both(top: str, below: str = "") -> list[str]:
    """An image of each of two classes, in a folder of a split."""
    return [f"{top}/{below}{name}/1.jpg" for name in ("land", "sea")]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "dev", "eval"),
        ("train2017", "val2017", "test2017"),
        ("training_set", "valid-images", "Evaluation Data"),
        ("trainval", "VALID", "test images"),
        ("seg_train", "seg_val", "seg_test"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "my_dataset/", "a/b/c/"])
def test_split_folders(wrapper: str, train: str, val: str, test: str) -> None:
    tops = {"train": train, "val": val, "test": test}
    names = [name for top in tops.values() for name in both(f"{wrapper}{top}")]
    found = read(*names)
    for split, top in tops.items():
        assert [found[name] for name in both(f"{wrapper}{top}")] == [(split, "land"), (split, "sea")]


@pytest.mark.parametrize("wrapper", ["", "my_dataset/", "a/b/c/"])
def test_lone_folders_are_no_classes(wrapper: str) -> None:
    names = [f"{wrapper}land/1.jpg", f"{wrapper}sea/deep/2.jpg"]
    assert list(read(*names).values()) == [(None, "land"), (None, "sea")]
    assert read(f"{wrapper}only/1.jpg") == {f"{wrapper}only/1.jpg": (None, None)}


@pytest.mark.parametrize("below", ["images/", "{split}/", "v2/{split}_set/"])
def test_lone_folders_below_splits(below: str) -> None:
    names = [name for split in ("train", "test") for name in both(split, below.format(split=split))]
    assert list(read(*names).values()) == [(s, c) for s in ("train", "test") for c in ("land", "sea")]


def test_splits_below_classes() -> None:
    names = ["bottle/train/good/1.png", "bottle/test/broken/2.png", "cable/train/good/3.png", "cable/test/good/4.png"]
    assert list(read(*names).values()) == [(s, c) for c in ("bottle", "cable") for s in ("train", "test")]


def test_classes_named_like_a_split() -> None:
    assert list(read("bus/1.jpg", "train/2.jpg").values()) == [(None, "bus"), (None, "train")]
    assert list(read("train/bus/1.jpg", "train/train/2.jpg", "test/bus/3.jpg", "test/train/4.jpg").values()) == [
        (split, name) for split in ("train", "test") for name in ("bus", "train")
    ]


def test_classes_that_end_like_a_split() -> None:
    names = [f"{name}/1.jpg" for name in ("bullet_train", "steam_train", "crash_test")]
    assert read(*names) == {name: (None, name.split("/")[0]) for name in names}


def test_a_repeated_folder_of_a_split_with_a_prefix() -> None:
    names = [name for split in ("train", "test") for name in both(f"seg_{split}/seg_{split}")]
    assert [read(*names)[name] for name in names] == [
        (split, label) for split in ("train", "test") for label in ("land", "sea")
    ]


def test_images_beside_the_folders_of_others_have_their_folder_in_common() -> None:
    assert list(read("photos/1.jpg", "photos/2020/2.jpg").values()) == [(None, "photos")] * 2
    assert list(read("1.jpg", "2020/2.jpg").values()) == [(None, None), (None, "2020")]


def test_a_class_that_a_split_lacks() -> None:
    names = ["train/sea/x/1.jpg", "test/land/2.jpg", "val/sea/3.jpg"]
    assert list(read(*names).values()) == [("train", "sea"), ("test", "land"), ("val", "sea")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/1.jpg", "test/2.jpg", "3.jpg"], "3.jpg is next to the split folders test and train"),
        (["Train/1.jpg", "testing/2.jpg", "unlabeled/3.jpg"], "unlabeled/3.jpg is next to the split folders"),
        (["a/train/1.jpg", "a/test/2.jpg", "b/3.jpg"], "b/3.jpg is next to the split folders test and train"),
    ],
)
def test_images_beside_split_folders(names: list[str], said: str) -> None:
    with pytest.raises(FrancaError, match=said) as caught:
        read(*names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            [*both("seg_train/seg_train"), *both("seg_test/seg_test"), "seg_pred/seg_pred/1.jpg"],
            "seg_pred/1.jpg is next",
        ),
        (["train/1.jpg", "test1/2.jpg"], "the folders test1, train look like splits, but test1 is not named like one"),
        (["train_part1/1.jpg", "train_part2/2.jpg", "test/3.jpg"], "but train_part1 is not named like one"),
        (["data/train/1.jpg", "data/train2/2.jpg"], "but train2 is not"),
        (["train1/1.jpg", "test1/2.jpg"], "but test1 is not"),
        ([*both("train"), "unlabeled/1.jpg"], "but unlabeled is not"),
        ([*both("train"), "Unlabelled_2/1.jpg"], "but Unlabelled_2 is not"),
        ([*both("Training"), *both("my-validation")], "but my-validation is not"),
        (["a/train/1.jpg", "a/pred/1.jpg", "b/train/1.jpg"], "but pred is not"),
    ],
)
def test_folders_next_to_a_split_folder_that_are_no_classes(names: list[str], said: str) -> None:
    with pytest.raises(FrancaError, match=said) as caught:
        read(*names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["trainer", "valley", "testudo", "bullet_train", "train_station", "developer"])
def test_classes_next_to_a_class_named_like_a_split(other: str) -> None:
    names = [f"{name}/1.jpg" for name in ("bus", "train", other)]
    assert read(*names) == {name: (None, name.split("/")[0]) for name in names}


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ([*both("train/images"), "test/images/1.jpg"], ["land", "sea", None]),
        ([*both("data"), "data/1.jpg"], ["land", "sea", None]),
        ([*both("data/deep/er"), "data/1.jpg"], ["deep", "deep", None]),
        ([*both("train/train"), "test/test/1.jpg"], ["land", "sea", None]),
        (["train/train/sea/1.jpg", "test/test/1.jpg"], ["sea", None]),
    ],
)
def test_images_without_a_class_next_to_classes(names: list[str], classes: list[str | None]) -> None:
    assert [class_name for _, class_name in read(*names).values()] == classes


def test_names_of_splits_and_shards() -> None:
    assert [split_of(name) for name in ("tested", "trains", "test1", "my train", "latest")] == [None] * 5
    shards = ["train-00017", "imagenet1k-validation-03", "test", "cc3m_dev_0001", "00017", "latest-0001"]
    assert [split_of_shard(stem) for stem in shards] == ["train", "val", "test", "val", None, None]


def test_no_folders_at_all() -> None:
    assert read() == {}
