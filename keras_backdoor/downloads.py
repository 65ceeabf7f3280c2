"""Download published files, networks and data sets: verified before they get their name, and continued where they stopped.

pooch names the cache folder and no more: its downloads follow redirects anywhere, take any size, start afresh after each
interruption, know one address, and are not verified where no hash is known.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from http.client import responses as STATUS
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from keras_backdoor import __version__
from keras_backdoor.files import TEMPORARY, BadInput, PathLike, atomic, read_json, sha256, write_json
from keras_backdoor.progress import Progress, silent
from models_zoo.artifacts import Artifact, accept, bundled, cache_folder, expected_hash, git_blob, mirrors

if TYPE_CHECKING:  # importing them takes time, which a file in the cache does not cost
    from requests import Response, Session

HOSTS = ("raw.githubusercontent.com", "media.githubusercontent.com", "objects.githubusercontent.com", "github.com")
"""Where a mirror may redirect to, besides itself."""

LARGEST = 1 << 30
"""Bytes; the limit for a file whose size is not registered."""

MAGIC = (b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b\x08")
"""How these files begin: HDF5, the zip of .keras and .npz files, and the gzip of .tar.gz."""

ATTEMPTS = 3
"""Requests to one mirror, as long as another may do better than the one before."""

Timeouts = tuple[float, float]
"""Seconds: to connect, and for the next KiB to arrive."""


class _Refused(Exception):
    """Why a request failed. discard: what is stored of the file is of no use."""

    def __init__(self, why: str, discard: bool = False) -> None:
        super().__init__(why)
        self.discard = discard


def fetch(
    artifact: Artifact,
    folder: PathLike | None = None,
    offline: bool = False,
    accept_hash: bool = False,
    timeouts: Timeouts = (10.0, 30.0),
    progress: Progress = silent,
) -> Path:
    """The file of an entry of the registry, in the cache; downloaded if it is not there, and verified in either case.

    artifact: of `models_zoo.artifacts`, or of `datasets.sources`, which names its `file` and further `redirects`.
    folder: the cache, by default `cache_folder()`.
    offline: do without the network.
    accept_hash: where no hash is registered, take the file that comes, and require its hash from then on.

    Raises `BadInput` with what each mirror did wrong; the file is in the cache whole and verified, or not at all.
    """
    here = bundled(artifact)
    if here and _is_right(here, artifact["sha256"]):
        return here
    folder = Path(folder or cache_folder())
    name = artifact["name"]
    path = folder / artifact.get("file", f"{name}.h5")
    try:
        if _is_right(path, expected_hash(artifact, folder)):
            return path
        if offline and not path.exists():
            raise BadInput(f"{name}: not in the cache {folder}, and --offline forbids to download it")
        if not mirrors(artifact):
            raise BadInput(
                f"{name}: lies in models_zoo/pretrained of a checkout of this project, which this installation is not; "
                "KBD_PRETRAINED_URL may name the address of that folder"
            )
        if not accept_hash and expected_hash(artifact, folder) is None:
            raise BadInput(f"{name}: its SHA-256 is not known; --accept-hash takes what comes, and notes the hash")
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not _is_right(path, expected_hash(artifact, folder)):
                path.unlink(missing_ok=True)
                if offline:
                    raise BadInput(f"{path}: was damaged, and is removed; it comes again without --offline")
                _download(artifact, path, timeouts, progress)
    except OSError as error:
        raise BadInput(f"{folder}: cannot serve as the cache ({error.strerror}); KBD_CACHE may name another") from None
    return path


def export(paths: list[Path], output: PathLike) -> list[Path]:
    """Copy files from the cache to `output`: a file, or a folder if it is one or they are several. The copies."""
    to_folder = len(paths) > 1 or os.path.isdir(output) or str(output).endswith("/")
    targets = [Path(output) / path.name if to_folder else Path(output) for path in paths]
    try:
        for path, target in zip(paths, targets):
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic(target) as temporary:
                shutil.copyfile(path, temporary)
    except OSError as error:
        raise BadInput(f"{output}: cannot be written ({error.strerror})") from None
    return targets


def _is_right(path: Path, expected: str | None) -> bool:
    return expected is not None and path.is_file() and sha256(path) == expected


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One download at a time in a cache: another process waits. Without locks (Windows, some network disks) it does not."""
    with open(folder / ".lock", "w") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(artifact: Artifact, path: Path, timeouts: Timeouts, progress: Progress) -> None:
    """Try the mirrors in turn until `path` is there."""
    partial = path.with_name(f"{TEMPORARY}{path.name}")
    expected = expected_hash(artifact, path.parent)
    reasons: dict[str, list[str]] = {}
    for url in mirrors(artifact):
        try:
            digest = _from_mirror(url, artifact, expected, partial, timeouts, progress)
        except _Refused as reason:
            reasons.setdefault(str(reason), []).append("/".join(url.split("/")[2:5]))
            continue
        if expected is None:
            accept(artifact, path.parent, digest, url)
        os.replace(partial, path)
        _note(partial).unlink(missing_ok=True)
        return
    right = f"{artifact['size'] or 'a file of any number of'} bytes"
    right += f" with SHA-256 {expected[:12]}…" if expected else ""
    tried = "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in reasons.items())
    raise BadInput(f"{artifact['name']}: no mirror gave {right}; {tried}")


def _from_mirror(
    url: str, artifact: Artifact, expected: str | None, partial: Path, timeouts: Timeouts, progress: Progress
) -> str:
    """Make `partial` the whole and right file of one mirror; its SHA-256."""
    for attempt in itertools.count(1):
        begun, etag = _begun(partial, url)
        try:
            _receive(url, artifact, partial, begun, etag, timeouts, progress)
            digest = sha256(partial)
            if expected is not None and digest != expected:
                raise _Refused(f"another file, SHA-256 {digest[:12]}…", discard=True)
            if expected is None and artifact["git_blob"] and artifact["git_blob"] != git_blob(partial):
                raise _Refused("another file than the repository lists", discard=True)
            return digest
        except _Refused as reason:
            if reason.discard:
                partial.unlink(missing_ok=True)
            now, _ = _begun(partial, url)
            if attempt == ATTEMPTS or not (now > begun or now == 0 < begun):  # neither further, nor afresh
                raise
    raise AssertionError("not reached")


def _note(partial: Path) -> Path:
    """Where it stands which url began `partial`, and with which ETag."""
    return partial.with_name(f"{partial.name}.json")


def _begun(partial: Path, url: str) -> tuple[int, str]:
    """How much of the file `url` gave already, and the ETag by which it knows that version; 0 if it cannot go on there."""
    with contextlib.suppress(BadInput):
        note = read_json(_note(partial))
        if note["url"] == url and note["etag"] and partial.is_file():
            return partial.stat().st_size, note["etag"]
    return 0, ""


def _receive(
    url: str, artifact: Artifact, partial: Path, begun: int, etag: str, timeouts: Timeouts, progress: Progress
) -> None:
    """One request, for what is missing after the `begun` bytes of `partial`, or for all."""
    import requests
    from urllib3.exceptions import HTTPError, IncompleteRead, TimeoutError

    headers = {"Accept-Encoding": "identity", "User-Agent": f"keras-backdoor/{__version__}"}
    if begun:
        headers.update({"Range": f"bytes={begun}-", "If-Range": etag})
    size, limit = 0, artifact["size"] or LARGEST
    hosts = (*HOSTS, *artifact.get("redirects", ()))
    try:
        with requests.Session() as session, _answer(session, url, headers, timeouts, hosts) as response:
            size = begun if _continues(response, begun, etag) else 0
            chunks = _chunks(response, timeouts[1])
            head = b""
            while not size and len(head) < 64 and (chunk := next(chunks, b"")):
                head += chunk
            total = _check(response, None if size else head, size, artifact["size"])
            if not size:
                partial.unlink(missing_ok=True)
                strong = response.headers.get("ETag", "")
                write_json(_note(partial), {"url": url, "etag": strong if strong.startswith('"') else ""})
            with open(partial, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                for chunk in itertools.chain([head], chunks):
                    size += len(chunk)
                    if size > limit:
                        raise _Refused(f"more than {limit} bytes", discard=True)
                    file.write(chunk)
                    progress(f"{artifact['name']} (KiB)", size >> 10, (total or size) >> 10, {})
                file.flush()
                os.fsync(file.fileno())
            if size < (total or 0):
                raise IncompleteRead(size, (total or 0) - size)
    except (requests.ConnectTimeout, requests.ReadTimeout, TimeoutError):
        raise _Refused(f"stalled after {size} bytes") from None
    except (requests.RequestException, HTTPError) as error:
        what = f"connection lost after {size} bytes" if size else "cannot be reached"
        raise _Refused(f"{what} ({type(error).__name__})") from None


def _answer(
    session: Session, url: str, headers: dict[str, str], timeouts: Timeouts, hosts: tuple[str, ...] = HOSTS
) -> Response:
    """The answer to a request, after the redirects that are allowed; `Session.get` would read any body of a redirect."""
    from requests import Request

    for _ in range(5):
        here = urlsplit(url)
        if here.scheme not in ("http", "https"):
            raise _Refused("neither http nor https")
        request = session.prepare_request(Request("GET", url, headers=headers))
        environment = session.merge_environment_settings(url, {}, True, None, None)  # proxies and certificates
        response = session.get_adapter(url).send(request, timeout=timeouts, **environment)
        if not response.is_redirect:
            return response
        response.close()
        try:
            url = urljoin(url, response.headers["Location"])
            there = urlsplit(url)
        except ValueError:
            raise _Refused("redirects to an address that is none") from None
        if there.scheme != here.scheme or there.netloc not in (here.netloc, *hosts):
            raise _Refused(f"redirects to {there.scheme[:9]}://{there.netloc[:60]!r}, which is not trusted")
    raise _Refused("redirects without end")


def _continues(response: Response, begun: int, etag: str) -> bool:
    """Whether an answer is the rest of what was begun, rather than the whole file."""
    code, headers = response.status_code, response.headers
    if code == 200:
        return False
    if code not in (206, 416) or not begun:
        raise _Refused(f"{code} {STATUS.get(code, '')}")
    if headers.get("Content-Range", "").startswith(f"bytes {begun}-") and headers.get("ETag", etag) == etag:
        return True
    raise _Refused("cannot continue what it began", discard=True)


def _check(response: Response, head: bytes | None, size: int, registered: int | None) -> int | None:
    """Refuse an answer before it is stored, for what it says of itself or its first bytes. The length of the whole file."""
    headers = response.headers
    length, chunked = headers.get("Content-Length", ""), headers.get("Transfer-Encoding", "").lower() == "chunked"
    total = size + int(length) if length.isdigit() and not chunked else registered
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Refused("compressed, though not asked for", discard=head is None)
    if head is not None:
        if "html" in headers.get("Content-Type", "").lower() or head.lstrip().startswith(b"<"):
            raise _Refused("a web page")
        if head.startswith(b"version https://git-lfs"):
            raise _Refused("a Git LFS pointer, not the file that it stands for")
        if not head.startswith(MAGIC):
            raise _Refused("neither HDF5 nor zip nor gzip")
    if total is None and not chunked:
        raise _Refused("a file of untold length")
    if total is not None and (total > LARGEST or registered not in (None, total)):
        raise _Refused(f"{total} bytes", discard=head is None)
    return total


def _chunks(response: Response, stall: float) -> Iterator[bytes]:
    """The body as it arrives. Each read may take `stall` seconds, and in as many, at least 1 KiB must come."""
    from urllib3.exceptions import TimeoutError

    since, count = time.monotonic(), 0
    while chunk := response.raw.read1(1 << 16, decode_content=False):
        yield chunk
        count += len(chunk)
        if (now := time.monotonic()) - since > stall:
            if count < 1024:
                raise TimeoutError
            since, count = now, 0
