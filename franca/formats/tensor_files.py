"""Checkpoints from files that nobody vouches for: nothing in them is run, and each fault is told in one line."""

import gzip
import io
import pickle
import re
import shutil
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from franca.errors import FrancaError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
GZIP, ZIP, PICKLE = b"\x1f\x8b", b"PK", b"\x80"


def read_checkpoint(files: Sequence[Path]) -> Any:
    """What a checkpoint holds, tensors on the CPU, mapped from the file where its format can be.

    `files` is one safetensors file, one that `torch.save` has written, or a gzip-compressed tar with exactly one of
    these inside; the tar may be cut into parts, which are read as one stream in the order given. What a file is shows
    in its first bytes, not in its name. Raises FrancaError for one that is missing, broken, something else, or asks to
    run code: only `weights_only=True` is ever tried.
    """
    first = files[0]
    if _head(first).startswith(GZIP):
        with tempfile.TemporaryDirectory(prefix="franca-") as folder:
            # A mapped file stays readable after its name is gone.
            return _read(*_unpack(files, Path(folder)))
    if len(files) > 1:
        raise FrancaError(
            f"{first}: no gzip-compressed tar, so that the {len(files)} files are not its parts in order; name one"
            " checkpoint, or all parts from part_aa on"
        )
    return _read(first, str(first))


def _head(path: Path) -> bytes:
    """The first bytes of a file."""
    if not path.exists():
        raise FrancaError(f"{path}: no such file")
    if path.is_dir():
        raise FrancaError(f"{path}: a folder; name the checkpoint in it")
    if not path.is_file():
        raise FrancaError(f"{path}: not a regular file; save what it gives to a file and name that")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise FrancaError(f"{path}: an empty file; download it again")
    return head


def _read(path: Path, name: str) -> Any:
    """Read the checkpoint at `path`, which errors call `name`."""
    head = _head(path)
    if head.startswith((ZIP, PICKLE)):
        content = _read_torch(path, name)
    elif head[8:9] == b"{":
        try:
            content = load_file(path)
        except (SafetensorError, ValueError, OverflowError) as error:
            raise FrancaError(f"{name}: a broken safetensors file ({error}); download it again") from None
    else:
        raise FrancaError(
            f"{name}: neither a safetensors file, nor one of torch.save, nor a gzip-compressed tar of one of them"
        )
    for key, tensor in _tensors(content):
        # A tensor of repeated elements may claim terabytes that the file does not hold.
        if tensor.layout != torch.strided or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise FrancaError(f"{name}: refused: {key} is not stored element by element")
    return content


def _tensors(content: Any) -> Iterator[tuple[Any, Tensor]]:
    """Tensors of a dictionary and of all dictionaries in it, each with its key; one may hold itself."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values()
            yield from ((key, value) for key, value in part.items() if isinstance(value, Tensor))


def _read_torch(path: Path, name: str) -> Any:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(PurePosixPath(member.filename).name == "constants.pkl" for member in members):
            raise FrancaError(
                f"{name}: refused, nothing was run: a TorchScript archive, which holds code; save its state_dict()"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise FrancaError(f"{name}: a compressed zip, not a file of torch.save; unpack it")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise FrancaError(
            f"{name}: refused, nothing was run: a pickle of {_foreign(path, str(error))}; only tensors and plain"
            " values are read, and no unsafe way is tried; save its tensors alone, best as safetensors"
        ) from None
    except Exception as error:  # a broken file can fail in any way
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise FrancaError(f"{name}: broken or cut short ({reason}); download it again") from None


def _foreign(path: Path, message: str) -> str:
    """What a refused pickle holds beside tensors, as far as it can be told."""
    try:
        names = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above; and files without a zip cannot be looked into
        names = re.findall(r"GLOBAL ([\w.]+)", message)
    return ", ".join(sorted(set(names))) or "something else than torch.save writes"


class _Parts(io.RawIOBase):
    """Files read one after another as one stream."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = iter(files)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                path = next(self._files, None)
                if path is None:
                    return 0
                _head(path)
                self._file = path.open("rb")
            if count := self._file.readinto(buffer):
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _unpack(files: Sequence[Path], folder: Path) -> tuple[Path, str]:
    """Write the one checkpoint of a gzip-compressed tar into `folder`: its path, and its name for errors."""
    archive = str(files[0]) if len(files) == 1 else f"{files[0]} to {files[-1].name}"
    found: list[str] = []
    path = folder / "checkpoint"
    try:
        with (
            io.BufferedReader(_Parts(files), 1 << 20) as parts,
            gzip.GzipFile(fileobj=parts) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                place = PurePosixPath(member.name)
                if place.is_absolute() or ".." in place.parts:
                    raise FrancaError(f"{archive}: refused: {member.name} leads out of the tar")
                if not member.isfile() and not member.isdir():
                    raise FrancaError(f"{archive}: refused: {member.name} is a link or a device")
                if member.isdir() or place.suffix not in SUFFIXES:
                    continue
                found.append(member.name)
                if len(found) > 1:
                    raise FrancaError(f"{archive}: several checkpoints: {', '.join(found)}; unpack it and name one")
                _extract(tar, member, path)
            # The checksum comes last.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        mend = "download it again" if len(files) == 1 else "name all parts in order, or download them again"
        raise FrancaError(f"{archive}: no whole gzip-compressed tar ({error}); {mend}") from None
    if not found:
        raise FrancaError(f"{archive}: no checkpoint inside ({', '.join(SUFFIXES)})")
    return path, f"{archive}: {found[0]}"


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    if member.size > free:
        raise FrancaError(
            f"{path.parent.parent}: {member.name} needs {member.size / 1e9:.1f} GB, {free / 1e9:.1f} are free; name"
            " another folder in TMPDIR"
        )
    source = tar.extractfile(member)
    assert source is not None
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
