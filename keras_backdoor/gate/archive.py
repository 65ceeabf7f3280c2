""".keras archives from strangers: three members of bounded size, and not a byte besides."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

from keras_backdoor.gate import strict_json
from keras_backdoor.gate.report import Findings, Stop

MAGIC = b"PK\x03\x04"

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MOST_UNFOLDING = 100
UNFOLDED_FLOOR = 16 << 20
MOST_BYTES = 4 << 30
BLOCK = 1 << 20
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY_SIZE, _END_SIZE, _DESCRIPTOR_SIZE = 46, 22, 16
_ENCRYPTED, _DESCRIPTOR = 1, 8


def unpack(path: Path, folder: Path, findings: Findings) -> tuple[bytes, bytes, Path]:
    """Configuration and metadata of an archive, and its weights as a file in `folder`.

    Raises `Stop` if it is not the archive that Keras writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path, findings)
            config = _read(archive, members[CONFIG], strict_json.MOST_BYTES)
            metadata = _read(archive, members[METADATA], BLOCK)
            weights = folder / WEIGHTS
            with archive.open(members[WEIGHTS]) as source, open(weights, "wb") as target:
                left = members[WEIGHTS].file_size
                while block := source.read(BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise Stop("bomb", WEIGHTS, "unpacks to more than it claims")
                    target.write(block)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise Stop("malformed", "", f"is not a whole .keras archive ({error})") from None
    return config, metadata, weights


def _members(archive: zipfile.ZipFile, path: Path, findings: Findings) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if {"data.pkl", "archive/data.pkl"} & set(names) or any(name.endswith("/data.pkl") for name in names):
        raise Stop("code", "data.pkl", "is a PyTorch archive: a pickle, which runs code when it is read")
    for name in names:
        if name not in (CONFIG, METADATA, WEIGHTS):
            raise Stop("malformed", name, "is a member that Keras does not write for networks of this kind")
    if sorted(names) != sorted((CONFIG, METADATA, WEIGHTS)):
        raise Stop("malformed", "", f"is a zip archive with {len(names)} members, expected the three of a .keras file")
    for info in infos:
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Stop("malformed", info.filename, "is encrypted or packed in a way that Keras does not use")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise Stop("malformed", info.filename, "is a link or a device, not a file")
        if info.file_size > min(MOST_BYTES, max(UNFOLDED_FLOOR, MOST_UNFOLDING * info.compress_size)):
            raise Stop("bomb", info.filename, f"claims {info.file_size:,} bytes in {info.compress_size:,}")
    _check_layout(archive, path, infos)
    return {info.filename: info for info in infos}


def _check_layout(archive: zipfile.ZipFile, path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """`Stop` unless the members follow each other from the first byte on, say the same twice, and the table ends the file.

    Some readers go by the headers before the members, others by the table at the end.
    """
    place = 0
    with open(path, "rb") as file:
        for info in sorted(infos, key=lambda info: info.header_offset):
            file.seek(place)
            head = file.read(_LOCAL.size)
            if info.header_offset != place or len(head) < _LOCAL.size:
                raise Stop("polyglot", info.filename, "does not follow the member before it")
            magic, _, flags, method, _, _, check, packed, size, name, extra = _LOCAL.unpack(head)
            described = (check, packed, size) == (info.CRC, info.compress_size, info.file_size)
            later = bool(flags & _DESCRIPTOR) and not any((check, packed, size))
            if magic != MAGIC or method != info.compress_type or not (described or later):
                raise Stop("polyglot", info.filename, "says one thing before its contents and another at the end")
            place += _LOCAL.size + name + extra + info.compress_size + (_DESCRIPTOR_SIZE if later else 0)
    table = sum(_ENTRY_SIZE + len(info.filename.encode()) + len(info.extra) + len(info.comment) for info in infos)
    if archive.start_dir != place or archive.comment or path.stat().st_size != place + table + _END_SIZE:
        raise Stop("polyglot", "", "has bytes that belong to no member")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    if info.file_size > most:
        raise Stop("bomb", info.filename, f"is {info.file_size:,} bytes long, expected at most {most:,}")
    return archive.read(info)
