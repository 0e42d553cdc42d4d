"""Read checkpoints from untrusted files: no code in them is run, and each error is one line."""

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
"""First bytes of files."""


def read_checkpoint(files: Sequence[Path]) -> Any:
    """Return the content of a checkpoint, tensors on the CPU, memory-mapped if the format allows it.

    The format is recognized by the first bytes, not by the name. Pickles are loaded with `weights_only=True` only.

    Args:
        files: A safetensors file, a file of `torch.save`, or a gzip-compressed tar with exactly one of these. The tar
            may be split into parts, which are read as one stream in the given order.

    Raises:
        FrancaError: A file is missing, broken, of another format, or would run code.
    """
    first = files[0]
    if _head(first).startswith(GZIP):
        with tempfile.TemporaryDirectory(prefix="franca-") as folder:
            # A memory-mapped file stays readable after it is deleted.
            return _read(*_unpack(files, Path(folder)))
    if len(files) > 1:
        raise FrancaError(
            f"{first}: not a gzip-compressed tar, so the {len(files)} files are not its parts in order; give one"
            " checkpoint, or all parts starting with part_aa"
        )
    return _read(first, str(first))


def _head(path: Path) -> bytes:
    """Return the first 16 bytes of a file.

    Raises:
        FrancaError: It is missing, not a regular file, or empty.
    """
    if not path.exists():
        raise FrancaError(f"{path}: no such file")
    if path.is_dir():
        raise FrancaError(f"{path}: is a folder; give the checkpoint in it")
    if not path.is_file():
        raise FrancaError(f"{path}: not a regular file; copy its content to a file")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise FrancaError(f"{path}: the file is empty; download it again")
    return head


def _read(path: Path, name: str) -> Any:
    """Return the content of the checkpoint at `path`; `name` is used in errors."""
    head = _head(path)
    if head.startswith((ZIP, PICKLE)):
        content = _read_torch(path, name)
    # Safetensors: 8 bytes with the length of the header, which is JSON.
    elif head[8:9] == b"{":
        try:
            content = load_file(path)
        except (SafetensorError, ValueError, OverflowError) as error:
            raise FrancaError(f"{name}: broken safetensors file ({error}); download it again") from None
    else:
        raise FrancaError(
            f"{name}: unknown format; give a file of safetensors or torch.save, or a gzip-compressed tar of one"
        )
    for key, tensor in _tensors(content):
        # A tensor with stride 0 repeats its elements: a small file could make us allocate terabytes.
        if tensor.layout != torch.strided or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise FrancaError(
                f"{name}: {key} has strides or a layout that does not store each element; save it with .contiguous()"
            )
    return content


def _tensors(content: Any) -> Iterator[tuple[Any, Tensor]]:
    """Yield keys and tensors of nested dictionaries, which may contain themselves."""
    seen: set[int] = set()
    pending = [content]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping) and id(part) not in seen:
            seen.add(id(part))
            pending += part.values()
            yield from ((key, value) for key, value in part.items() if isinstance(value, Tensor))


def _read_torch(path: Path, name: str) -> Any:
    """Return the content of a file of `torch.save`, either the zip format or the pickle format before torch 1.6."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(PurePosixPath(member.filename).name == "constants.pkl" for member in members):
            raise FrancaError(
                f"{name}: not loaded, nothing was run: TorchScript archives contain code; save its state_dict()"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise FrancaError(f"{name}: a compressed zip, not a file of torch.save; unpack it")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise FrancaError(
            f"{name}: not loaded, nothing was run: a pickle with {_unsafe_names(path, str(error))}, which"
            " could run code; save its tensors only, preferably as safetensors"
        ) from None
    except Exception as error:  # torch.load raises many types for broken files
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise FrancaError(f"{name}: broken or incomplete ({reason}); download it again") from None


def _unsafe_names(path: Path, message: str) -> str:
    """Return the classes and functions that a pickle refers to besides tensors, as far as they can be found."""
    try:
        names = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above; the function supports the zip format only
        names = re.findall(r"GLOBAL ([\w.]+)", message)
    return ", ".join(sorted(set(names))) or "unknown objects"


class _Parts(io.RawIOBase):
    """A raw stream over several files, one after another."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = iter(files)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
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
        """See `io.RawIOBase`."""
        if self._file is not None:
            self._file.close()
        super().close()


def _unpack(files: Sequence[Path], folder: Path) -> tuple[Path, str]:
    """Extract the only checkpoint of a gzip-compressed tar; return its path, and a name for errors.

    The parts are read as one stream, so they need not be joined first.
    """
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
                inner = PurePosixPath(member.name)
                if inner.is_absolute() or ".." in inner.parts:
                    raise FrancaError(f"{archive}: not unpacked: {member.name} is outside of the tar")
                if not member.isfile() and not member.isdir():
                    raise FrancaError(f"{archive}: not unpacked: {member.name} is a link or a device")
                if member.isdir() or inner.suffix not in SUFFIXES:
                    continue
                found.append(member.name)
                if len(found) > 1:
                    raise FrancaError(f"{archive}: several checkpoints: {', '.join(found)}; unpack it and give one")
                _extract(tar, member, path)
            # gzip's checksum is at the end, behind what tarfile reads.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        fix = "download it again" if len(files) == 1 else "give all parts in order, or download them again"
        raise FrancaError(f"{archive}: not a complete gzip-compressed tar ({error}); {fix}") from None
    if not found:
        raise FrancaError(f"{archive}: contains no checkpoint ({', '.join(SUFFIXES)}); give another file")
    return path, f"{archive}: {found[0]}"


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Extract a member to `path`. Raises FrancaError if the disk has not enough space."""
    free = shutil.disk_usage(path.parent).free
    if member.size > free:
        raise FrancaError(
            f"{path.parent.parent}: {member.name} needs {member.size / 1e9:.1f} GB, {free / 1e9:.1f} are free; set"
            " TMPDIR to another folder"
        )
    source = tar.extractfile(member)
    assert source is not None
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
