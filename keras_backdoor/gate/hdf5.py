"""HDF5 from strangers: only what Keras writes, and nothing that lies outside the file or unfolds beyond measure.

Runs in the process that the gate sets aside for this (`sandbox`): libhdf5 is written in C, and damaged files have crashed it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5t, h5z

from keras_backdoor.gate.report import Findings, Stop

MAGIC = b"\x89HDF\r\n\x1a\n"
HEAD = 128

MOST_OBJECTS = 50_000
DEEPEST = 32
MOST_ATTRIBUTES = 1_000
MOST_ATTRIBUTE_BYTES = 8 << 20
MOST_NAMES = 20_000
UNFOLDED_FLOOR = 16 << 20
MOST_UNFOLDING = 100
MOST_CHUNKS = 100_000
MOST_CHUNK_BYTES = 64 << 20
MOST_LZF_CHUNK_BYTES = 1 << 20
"""LZF stretches up to 88-fold, and only libhdf5 can undo it; its chunks must be small."""
MOST_BYTES = 4 << 30
SLAB = 16 << 20

FILTERS = {h5z.FILTER_DEFLATE: "gzip", h5z.FILTER_SHUFFLE: "shuffle", h5z.FILTER_LZF: "lzf"}
NUMBERS = (h5t.INTEGER, h5t.FLOAT)
_WIDTHS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
NUMBER_TYPES = [h5t.py_create(np.dtype(order + width)) for order in "<>" for width in _WIDTHS]
_UNDEFINED = (1 << 64) - 1


def check_container(head: bytes, size: int, name: str) -> None:
    """`Stop` unless a file of `size` bytes that begins with `head` is one HDF5 file from its first byte to its last.

    head: its first `HEAD` bytes. name: of the file, for people.
    """
    version = head[8] if len(head) == HEAD else -1
    if not head.startswith(MAGIC) or version not in (0, 1, 2, 3):
        raise Stop("malformed", name, "is not a whole HDF5 file")
    place = {0: 24, 1: 28, 2: 12, 3: 12}[version]
    widths = head[13:15] if version < 2 else head[9:11]
    if widths != b"\x08\x08":
        raise Stop("malformed", name, "has addresses of an unusual width")
    base, second, end, fourth = struct.unpack_from("<4Q", head, place)
    # In old files the fourth address is that of a driver, which could spread the data over other files.
    if base != 0 or (version < 2 and (second != _UNDEFINED or fourth != _UNDEFINED)):
        raise Stop("file-access", name, "asks for a driver or an offset of its own")
    if end > size:
        raise Stop("malformed", name, f"is not a whole HDF5 file, it ends after {size:,} of {end:,} bytes")
    if end < size:
        raise Stop("polyglot", name, f"has {size - end} more bytes after its end")


def walk(file: h5py.File, findings: Findings) -> dict[str, h5py.Dataset]:
    """All data sets by their path, each checked.

    Raises `Stop` where the structure cannot be followed; what is merely forbidden becomes a finding.
    """
    found: dict[str, h5py.Dataset] = {}
    seen: set[Any] = set()
    waiting = [("/", file["/"], 0)]
    total = 0
    while waiting:
        where, item, depth = waiting.pop()
        address = h5o.get_info(item.id).addr
        if address in seen:
            raise Stop("malformed", where, "is reached by two names")
        seen.add(address)
        if len(seen) > MOST_OBJECTS or depth > DEEPEST:
            raise Stop("bomb", where, f"more than {MOST_OBJECTS:,} objects, or nested deeper than {DEEPEST}")
        _check_attributes(item.id, where)
        if isinstance(item, h5py.Dataset):
            total += _check_data(item, where, findings)
            if total > min(MOST_BYTES, max(4 * UNFOLDED_FLOOR, MOST_UNFOLDING * file.id.get_filesize())):
                raise Stop("bomb", where, f"unfolds, with those before it, to {total:,} bytes")
            found[where.strip("/")] = item
        elif isinstance(item, h5py.Group):
            if item.id.get_num_objs() > MOST_OBJECTS:
                raise Stop("bomb", where, f"holds {item.id.get_num_objs():,} objects")
            for name in item.id:
                inner = f"{where.rstrip('/')}/{name.decode('utf-8', 'backslashreplace')}"
                if item.id.links.get_info(name).type == h5l.TYPE_HARD:
                    waiting.append((inner, item[name], depth + 1))
                else:
                    _note_link(item.id, name, inner, findings)
        else:
            findings.add("malformed", where, "is a named type, which Keras does not write")
    return found


def _note_link(group: h5g.GroupID, name: bytes, where: str, findings: Findings) -> None:
    kind = group.links.get_info(name).type
    if kind == h5l.TYPE_EXTERNAL:
        target = b":".join(group.links.get_val(name)).decode("utf-8", "replace")
        findings.add("file-access", where, f"is a link into the file {target!r}")
    elif kind == h5l.TYPE_SOFT:
        target = group.links.get_val(name).decode("utf-8", "replace")
        findings.add("malformed", where, f"is a link to {target!r}, which Keras does not write")
    else:
        findings.add("malformed", where, "is a link of a kind that Keras does not write")


def _check_data(data: h5py.Dataset, where: str, findings: Findings) -> int:
    """Its size in memory, in bytes; 0 if it is not to be read."""
    properties = data.id.get_create_plist()
    if properties.get_external_count():
        name = properties.get_external(0)[0].decode("utf-8", "replace")
        findings.add("file-access", where, f"takes its values from another file, {name!r}")
        return 0
    if properties.get_layout() == h5d.VIRTUAL:
        findings.add("file-access", where, "takes its values from another file or data set (virtual)")
        return 0
    if not any(data.id.get_type().equal(number) for number in NUMBER_TYPES):
        findings.add("malformed", where, "holds something else than plain numbers")
        return 0
    filters = [properties.get_filter(place)[0] for place in range(properties.get_nfilters())]
    if set(filters) - FILTERS.keys() or len(set(filters)) < len(filters):
        findings.add("malformed", where, f"is packed in a way that is not known ({', '.join(map(str, filters))})")
        return 0
    size, stored = math.prod(data.shape or (0,)) * data.dtype.itemsize, data.id.get_storage_size()
    if size > max(UNFOLDED_FLOOR, MOST_UNFOLDING * stored):
        raise Stop("bomb", where, f"claims {size:,} bytes and stores {stored:,}")
    if filters:
        _check_chunks(data, filters, where)
    return size


def _check_chunks(data: h5py.Dataset, filters: list[int], where: str) -> None:
    """Unpack every chunk with a limit: libhdf5 itself would unpack whatever a chunk says, however large."""
    size = math.prod(data.chunks or (0,)) * data.dtype.itemsize
    count = data.id.get_num_chunks()
    if count > MOST_CHUNKS or size > MOST_CHUNK_BYTES or (
        h5z.FILTER_LZF in filters and size > MOST_LZF_CHUNK_BYTES
    ):  # fmt: skip
        raise Stop("bomb", where, f"{count:,} packed chunks of {size:,} bytes")
    for place in range(count):
        chunk = data.id.get_chunk_info(place)
        if chunk.size > size + size // 8 + 1024:
            raise Stop("bomb", where, f"a chunk of {size:,} bytes is stored in {chunk.size:,}")
        if filters[-1] != h5z.FILTER_DEFLATE:
            continue
        mask, packed = data.id.read_direct_chunk(chunk.chunk_offset)
        if not mask and _unpacked(packed, size) > size:
            raise Stop("bomb", where, f"a chunk unpacks to more than the {size:,} bytes that it claims")


def _unpacked(packed: bytes, most: int) -> int:
    """How long `packed` is when unpacked, counted up to one more than `most`."""
    try:
        return len(zlib.decompressobj().decompress(packed, most + 1))
    except zlib.error:
        return 0  # libhdf5 will say so when it is read


def _check_attributes(item: Any, where: str) -> None:
    count = h5a.get_num_attrs(item)
    if count > MOST_ATTRIBUTES:
        raise Stop("bomb", where, f"has {count:,} attributes")
    for place in range(count):
        attribute = h5a.open(item, index=place)
        kind, length = attribute.get_type(), math.prod(attribute.shape)
        text = kind.get_class() == h5t.STRING
        at = f"{where}@{attribute.name.decode('utf-8', 'replace')}"
        if not text and kind.get_class() not in NUMBERS:
            raise Stop("malformed", at, "an attribute that is neither text nor numbers")
        if length > MOST_NAMES or length * kind.get_size() > MOST_ATTRIBUTE_BYTES:
            raise Stop("bomb", at, f"an attribute of {length:,} values")


def text(item: h5py.HLObject, name: str, where: str) -> str | None:
    """A text attribute, or None."""
    if name not in item.attrs:
        return None
    value = item.attrs[name]
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if not isinstance(value, (str, bytes)):
        raise Stop("malformed", where, f"the attribute {name} is not a text")
    try:
        return value if isinstance(value, str) else bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise Stop("malformed", where, f"the attribute {name} is not a text") from None


def names(item: h5py.HLObject, name: str) -> list[str] | None:
    """A list of names, which Keras spreads over `name0`, `name1`, … if it is long; or None."""
    parts = [name] if name in item.attrs else []
    while parts[:1] != [name] and f"{name}{len(parts)}" in item.attrs:
        parts.append(f"{name}{len(parts)}")
    if not parts:
        return None
    values = [value for part in parts for value in np.asarray(item.attrs[part]).ravel().tolist()]
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]


def slabs(data: h5py.Dataset) -> Iterator[np.ndarray]:
    """The values, in C order, in arrays of about 16 MiB."""
    if not data.shape:
        yield np.asarray(data[()])
        return
    lead = next((place for place, size in enumerate(data.shape) if size != 1), len(data.shape) - 1)
    rows = max(1, SLAB // max(1, data.dtype.itemsize * math.prod(data.shape[lead + 1 :])))
    for start in range(0, data.shape[lead], rows):
        yield data[(0,) * lead + (slice(start, start + rows),)]
