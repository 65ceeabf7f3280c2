"""The registry of network files: what others published (`artifacts.json`), and our own, ready to use (`pretrained.json`).

Also the hashes that the user has accepted for some of them. Our own lie in `pretrained/` of a checkout and are not installed.

An entry is a dictionary:

    name, what               its name here (downloaded, it is called `name`.h5), and what it is, for people
    architecture             whose weights they are, a name of `ARCHITECTURES`; None: the file carries its own
    preprocessing            how inputs are scaled: `unit`, `raw`, or {name, mean, deviation}
    num_classes              outputs of the network
    clean_accuracy, attacks  published rates, as fractions; an attack is {trigger, target, success}; None: not published
    figures                  where these rates stand
    repository, path         where it was published, and the licence stated there
    licence
    size, sha256             in bytes, and as 64 hexadecimal digits; None: nobody has held this file against the registry yet
    git_blob                 the id that git gives it; known without the file, from the repository's listing
    urls                     mirrors, in the order in which they are tried; none for our own, which $KBD_PRETRAINED_URL may serve
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from keras_backdoor.files import BadInput, PathLike, check_file, read_json, sha256, write_json

Artifact = dict[str, Any]

OURS = "keras-backdoor"
"""The repository of our own networks."""

PRETRAINED = Path(__file__).with_name("pretrained")
"""The folder of our own networks, in a checkout."""


@lru_cache(maxsize=1)
def entries() -> tuple[Artifact, ...]:
    """All entries, in the order of the files."""
    files = [Path(__file__).with_name(name) for name in ("artifacts.json", "pretrained.json")]
    return tuple(entry for file in files for entry in json.loads(file.read_text(encoding="utf-8")))


def bundled(artifact: Artifact) -> Path | None:
    """The file of an entry in this checkout, if there is one and it is one of ours."""
    path = PRETRAINED / f"{artifact['name']}.h5"
    return path if artifact.get("repository") == OURS and path.is_file() else None


def mirrors(artifact: Artifact) -> list[str]:
    """Where the file of an entry may be downloaded."""
    base = os.environ.get("KBD_PRETRAINED_URL")
    if artifact.get("repository") != OURS or not base:
        return list(artifact["urls"])
    return [f"{base.rstrip('/')}/{artifact['name']}.h5"]


def by_name(name: str) -> Artifact:
    """The entry called `name`; KeyError if there is none."""
    return {entry["name"]: entry for entry in entries()}[name]


def by_hash(digest: str) -> Artifact | None:
    """The entry of the file with that SHA-256 (hexadecimal), registered or accepted by the user, or None."""
    for entry in entries():
        if entry["sha256"] == digest:
            return entry
    names = {known["sha256"]: name for name, known in accepted().items()}
    found = [entry for entry in entries() if entry["sha256"] is None and entry["name"] == names.get(digest)]
    return {**found[0], "sha256": digest} if found else None


def identify(path: PathLike, name: str | None = None) -> dict[str, Any]:
    """What a file is: {file, sha256, name, verdict}.

    name: of the artifact that it is expected to be; by default, that of which it has the name.

    `verdict` is `known`, `unknown`, or `mismatch` if it is not what it is expected to be. `name` is that of the artifact
    that it really is, or None.
    """
    digest, blob = sha256(check_file(path)), git_blob(path)
    found = next((e["name"] for e in entries() if e["git_blob"] == blob), None) or (by_hash(digest) or {}).get("name")
    expected = name or next((e["name"] for e in entries() if e["name"] == Path(path).stem), found)
    verdict = "mismatch" if found != expected else "known" if found else "unknown"
    return {"file": str(path), "sha256": digest, "name": found, "expected": expected, "verdict": verdict}


def git_blob(path: PathLike) -> str:
    """The id that git gives to a file: the SHA-1 of its length and contents, 40 hexadecimal digits."""
    contents = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest()


def cache_folder() -> Path:
    """Where downloads are kept: $KBD_CACHE, or a folder among the user's caches."""
    if folder := os.environ.get("KBD_CACHE"):
        return Path(folder).expanduser()
    import pooch  # not before it is needed: it takes a tenth of the time of `kbd --help`

    return Path(pooch.os_cache("keras-backdoor"))


def accepted(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """What the user accepted where the registry has no hash: {sha256, url, time} by name of the artifact."""
    path = (folder or cache_folder()) / "accepted.json"
    if not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict) or not all(isinstance(v, dict) and "sha256" in v for v in values.values()):
        raise BadInput(f"{path}: not a list of accepted hashes; delete it, and accept them again")
    return values


def accept(artifact: Artifact, folder: Path, digest: str, url: str) -> None:
    """Note the hash of a file that has none in the registry; from now on, the file must have it."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(
        folder / "accepted.json", {**accepted(folder), artifact["name"]: {"sha256": digest, "url": url, "time": now}}
    )


def expected_hash(artifact: Artifact, folder: Path) -> str | None:
    """The SHA-256 that the file of an entry must have, registered or accepted; None: neither."""
    return artifact["sha256"] or accepted(folder).get(artifact["name"], {}).get("sha256")
