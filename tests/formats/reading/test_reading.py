"""Checkpoints of every form, and files that are none: broken, hostile, in the wrong order."""

import argparse
import gzip
import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from franca.errors import FrancaError
from franca.formats.official import state_of
from franca.formats.tensor_files import read_checkpoint

STATE = {"cls_token": torch.arange(6.0).reshape(1, 1, 6), "norm.bias": torch.randn(5, dtype=torch.float64)}


class Code:
    """Creates a file where its pickle is loaded the unsafe way."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.witness), "w")


def saved(content: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tar_of(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    """A gzip-compressed tar; a member is a name or a TarInfo, and its content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def parts_of(content: bytes, folder: Path, count: int = 3) -> list[Path]:
    size = -(-len(content) // count)
    paths = [folder / f"vitg14.tar.gz.part_a{chr(ord('a') + index)}" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(content[index * size : (index + 1) * size])
    return paths


def check_same(content: Any, expected: dict[str, Tensor]) -> None:
    assert content.keys() == expected.keys()
    for key, value in expected.items():
        assert content[key].dtype == value.dtype and torch.equal(content[key], value)


def refusal(*paths: Path) -> str:
    """The one line of the error that reading raises."""
    with warnings.catch_warnings(action="error"), pytest.raises(FrancaError) as caught:
        read_checkpoint(paths)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(str(paths[0]))
    return line.removeprefix(str(paths[0]))


def test_every_form(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    check_same(read_checkpoint([tmp_path / "model.safetensors"]), STATE)
    for name, zipped in (("zip.pth", True), ("old.bin", False)):
        (tmp_path / name).write_bytes(saved({"teacher": STATE, "epoch": 3}, zipped))
        content = read_checkpoint([tmp_path / name])
        check_same(content["teacher"], STATE)
        assert content["epoch"] == 3
    # What a file is shows in its content, not in its name.
    (tmp_path / "model.safetensors").rename(tmp_path / "model.pth")
    check_same(read_checkpoint([tmp_path / "model.pth"]), STATE)


@pytest.mark.parametrize("name", ["franca_vitg14.pth", "release/weights/model.safetensors", "./model.pt"])
def test_a_tar_whole_and_in_parts(tmp_path: Path, name: str) -> None:
    content = saved(STATE)
    if name.endswith("safetensors"):
        save_file(STATE, tmp_path / "x")
        content = (tmp_path / "x").read_bytes()
    tar = tar_of(("README.md", b"weights"), (name, content), ("release/sums.txt", b"0 1 2" * 5000))
    (tmp_path / "model.tar.gz").write_bytes(tar)
    check_same(read_checkpoint([tmp_path / "model.tar.gz"]), STATE)
    check_same(read_checkpoint(parts_of(tar, tmp_path)), STATE)


def test_parts_in_another_order_or_not_all(tmp_path: Path) -> None:
    noise = {"x": torch.randn(20_000)}
    first, second, third = parts_of(tar_of(("model.pth", saved(noise))), tmp_path)
    check_same(read_checkpoint([first, second, third]), noise)
    for wrong in ([first, third, second], [first, second], [first, third]):
        assert "name all parts in order, or download them again" in refusal(*wrong)
    assert refusal(second, first, third) == (
        ": no gzip-compressed tar, so that the 3 files are not its parts in order; name one checkpoint, or all parts"
        " from part_aa on"
    )
    with pytest.raises(FrancaError, match="part_ad: no such file"):
        read_checkpoint([first, second, third, tmp_path / "vitg14.tar.gz.part_ad"])


def test_a_pickle_with_code_runs_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    evil = {"teacher": STATE | {"x": Code(witness)}}
    for name, content in (
        ("zip.pth", saved(evil)),
        ("old.pth", saved(evil, False)),
        ("plain.pkl", pickle.dumps(evil)),
    ):
        (tmp_path / name).write_bytes(content)
        line = refusal(tmp_path / name)
        assert line.startswith(": refused, nothing was run: a pickle of ") and "no unsafe way is tried" in line
        assert ("io.open" in line) == (name != "plain.pkl")
        assert not witness.exists()
    (tmp_path / "in.tar.gz").write_bytes(tar_of(("model.pth", saved(evil))))
    assert ": model.pth: refused, nothing was run: " in refusal(tmp_path / "in.tar.gz")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "culprit"),
    [(nn.Linear(2, 2), "torch.nn.modules.linear.Linear"), ({"args": argparse.Namespace()}, "argparse.Namespace")],
)
def test_other_objects_are_named(tmp_path: Path, content: Any, culprit: str) -> None:
    (tmp_path / "model.pth").write_bytes(saved(content))
    assert f"a pickle of {culprit}; " in refusal(tmp_path / "model.pth")


def test_torchscript_holds_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "clip.pt", "w") as archive:
        archive.writestr("clip/constants.pkl", b"")
        archive.writestr("clip/code/__torch__.py", b"")
    assert "a TorchScript archive, which holds code; save its state_dict()" in refusal(tmp_path / "clip.pt")


def test_files_cut_short(tmp_path: Path) -> None:
    state = {"x": torch.randn(2000)}
    save_file(state, tmp_path / "model.safetensors")
    whole = {
        "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
        "zip.pth": saved(state),
        "old.pth": saved(state, False),
        "model.tar.gz": tar_of(("model.pth", saved(state))),
    }
    for name, content in whole.items():
        for length in (9, 20, 300, len(content) // 2, len(content) - 30, len(content) - 1):
            (tmp_path / name).write_bytes(content[:length])
            line = refusal(tmp_path / name)
            # Where the name of a type is cut off, nobody can tell it from one that is not allowed.
            assert "download it again" in line or "a pickle of collections.Ordered" in line, (name, length, line)


def test_a_damaged_tar_is_seen_behind_the_checkpoint(tmp_path: Path) -> None:
    content = bytearray(tar_of(("model.pth", saved(STATE))))
    content[-6] ^= 1  # of the checksum
    (tmp_path / "model.tar.gz").write_bytes(content)
    assert "CRC check failed" in refusal(tmp_path / "model.tar.gz")


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html>404</html>\n", b"12345678{\n", b"\x1f\x8b", b"PK", b"\x80"]
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    assert len(refusal(tmp_path / "model.pth")) < 200


def test_folders_missing_files_and_several_files(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ": a folder; name the checkpoint in it"
    assert refusal(tmp_path / "x.pth") == ": no such file"
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(saved(STATE))
    assert "the 2 files are not its parts" in refusal(tmp_path / "a.pth", tmp_path / "b.pth")


def test_tars_that_hold_something_else(tmp_path: Path) -> None:
    model = saved(STATE)
    tars = {
        "../model.pth leads out of the tar": tar_of(("../model.pth", model)),
        "/etc/model.pth leads out of the tar": tar_of(("/etc/model.pth", model)),
        "notes.txt is a link": tar_of(link("notes.txt", "/etc/passwd"), ("model.pth", model)),
        "model.pth is a link": tar_of(link("model.pth", "../other.pth", tarfile.LNKTYPE)),
        "fifo is a link or a device": tar_of(link("fifo", "", tarfile.FIFOTYPE)),
        "several checkpoints: a.pth, b/c.safetensors; ": tar_of(("a.pth", model), ("b/c.safetensors", b"x")),
        "no checkpoint inside": tar_of(("README.md", b"x")),
        "no whole gzip-compressed tar": gzip.compress(model),
    }
    for fault, content in tars.items():
        (tmp_path / "x.tar.gz").write_bytes(content)
        assert fault in refusal(tmp_path / "x.tar.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar.gz"]


def test_a_member_larger_than_the_disk(tmp_path: Path) -> None:
    info = tarfile.TarInfo("model.pth")
    info.size = 1 << 60
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(info.tobuf() + b"\0" * 1024))
    with pytest.raises(
        FrancaError, match=r"model\.pth needs 1152921504\.6 GB, .* are free; name another folder in TMPDIR"
    ):
        read_checkpoint([tmp_path / "x.tar.gz"])


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    (tmp_path / "model.pth").write_bytes(saved({"model": {"teacher": {"cls_token": huge}}}))
    assert refusal(tmp_path / "model.pth") == ": refused: cls_token is not stored element by element"
    with warnings.catch_warnings(action="ignore"):
        sparse = torch.zeros(4, 4).to_sparse()
        (tmp_path / "model.pth").write_bytes(saved({"cls_token": sparse}))
    assert refusal(tmp_path / "model.pth") == ": refused: cls_token is not stored element by element"


def test_a_dictionary_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content |= {"model": content, "teacher": content}
    (tmp_path / "model.pth").write_bytes(saved(content))
    with pytest.raises(FrancaError, match="no dictionary of tensors"):
        state_of(read_checkpoint([tmp_path / "model.pth"]), "x.pth")


def test_a_compressed_zip(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved(STATE))
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.pth", "a.pth")
    assert refusal(tmp_path / "model.zip") == ": a compressed zip, not a file of torch.save; unpack it"
