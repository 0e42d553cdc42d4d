"""Tars from anywhere: cut, damaged or hostile ones are named, and nothing outside them is read."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.data.ingest.sources import Sample, Source
from franca.errors import FrancaError

Build = Callable[..., Path]
FILES = {"1.jpg": b"x" * 700, "2.jpg": b"y" * 700}
MEMBER = 512 + 1024


def read(folder: Path) -> list[Sample]:
    return list(Source(folder, "prepare.source"))


def damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(FrancaError, match=str(path)) as caught:
        read(path.parent)
    assert "pack it again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [100, 512, MEMBER, MEMBER + 300, MEMBER + 512, 2 * MEMBER - 400, 2 * MEMBER])
def test_truncated_tar(tmp_path: Path, make_tar: Build, length: int) -> None:
    path = make_tar(tmp_path / "sea.tar", FILES)
    damage(path, path.read_bytes()[:length])


def test_damaged_header_between_members(tmp_path: Path, make_tar: Build) -> None:
    path = make_tar(tmp_path / "sea.tar", FILES)
    content = path.read_bytes()
    damage(path, content[:MEMBER] + b"?" * 512 + content[MEMBER + 512 :])


def test_tars_glued_together(tmp_path: Path, make_tar: Build) -> None:
    path = make_tar(tmp_path / "sea.tar", FILES)
    damage(path, path.read_bytes() * 2)


def test_compressed_tar(tmp_path: Path) -> None:
    path = tmp_path / "sea.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    damage(path, path.read_bytes())


def test_links_and_names_that_climb_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    folder = tmp_path / "source"
    folder.mkdir()
    with tarfile.open(folder / "sea.tar", "w") as tar:
        for name, kind, target in (
            ("soft.jpg", tarfile.SYMTYPE, "../secret.jpg"),
            ("inside.jpg", tarfile.SYMTYPE, "good.jpg"),
            ("hard.jpg", tarfile.LNKTYPE, "good.jpg"),
            ("pipe.jpg", tarfile.FIFOTYPE, ""),
            ("../secret.jpg", tarfile.REGTYPE, ""),
            ("/etc/secret.jpg", tarfile.REGTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member, io.BytesIO())
        member = tarfile.TarInfo("good.jpg")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"good"))
    samples = read(folder)
    assert [sample.content for sample in samples if not sample.problem] == [b"good"]
    assert {sample.problem for sample in samples[:4]} == {"a link or special file"}
    assert {sample.problem for sample in samples[4:6]} == {"its name leads out of the archive"}
    assert all(sample.content == b"" for sample in samples[:6])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["sea.tar", "secret.jpg", "source"]


def test_member_that_claims_to_be_huge(tmp_path: Path, make_tar: Build) -> None:
    """The header says 2 GiB, as a sparse file holds them without taking the space."""
    folder = tmp_path / "source"
    folder.mkdir()
    member = tarfile.TarInfo("huge.jpg")
    member.size = 2 << 30
    with (folder / "sea.tar").open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)
    (sample,) = read(folder)
    assert sample.problem == "longer than 1 GiB"
    assert sample.content == b""
