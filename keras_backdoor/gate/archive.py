""".keras archives from strangers: three members of bounded size, and not a byte besides."""

from __future__ import annotations

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
_LOCAL_HEADER, _CENTRAL_HEADER, _END = 30, 46, 22
_ENCRYPTED = 1


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
    size = path.stat().st_size
    accounted = _END + len(archive.comment)
    for info in infos:
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Stop("malformed", info.filename, "is encrypted or packed in a way that Keras does not use")
        if info.file_size > min(MOST_BYTES, max(UNFOLDED_FLOOR, MOST_UNFOLDING * info.compress_size)):
            raise Stop("bomb", info.filename, f"claims {info.file_size:,} bytes in {info.compress_size:,}")
        length = len(info.filename.encode())
        # Either of the two headers may have an extra field; zip64 makes it 20 or 28 bytes.
        accounted += _LOCAL_HEADER + _CENTRAL_HEADER + 2 * length + info.compress_size + 2 * len(info.extra)
    if archive.comment or not -64 * len(infos) <= size - accounted <= 64 * len(infos):
        raise Stop("polyglot", "", f"has {size - accounted:,} bytes that belong to no member")
    first = min(info.header_offset for info in infos)
    if first != 0:
        raise Stop("polyglot", "", f"has {first:,} bytes before its first member")
    return {info.filename: info for info in infos}


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    if info.file_size > most:
        raise Stop("bomb", info.filename, f"is {info.file_size:,} bytes long, expected at most {most:,}")
    return archive.read(info)
