"""The registry of published files, and downloads that never leave a wrong file under the right name.

Every way in which a server can misbehave is played by one on the loopback interface.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

import kbd.main
from keras_backdoor import downloads
from keras_backdoor.files import sha256
from models_zoo import ARCHITECTURES, artifacts

FILE = b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(300_000)
OTHER = FILE[:150_000] + np.random.default_rng(1).bytes(len(FILE) - 150_000)
HASH = hashlib.sha256(FILE).hexdigest()
BLOB = hashlib.sha1(b"blob %d\0" % len(FILE) + FILE).hexdigest()

# --- the registry ---------------------------------------------------------------------------------------------------------

FIELDS = "name what architecture preprocessing num_classes clean_accuracy attacks figures repository path"
FIELDS += " licence size sha256 git_blob urls"


PUBLISHED = [entry for entry in artifacts.entries() if entry["repository"] != artifacts.OURS]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry["name"])
def test_every_entry_is_complete_and_consistent(entry):
    assert " ".join(entry) == FIELDS
    assert all(
        entry[field] for field in ("what", "preprocessing", "num_classes", "repository", "path", "licence", "urls")
    )
    assert re.fullmatch(r"\w+", entry["name"])
    assert re.fullmatch(r"[0-9a-f]{40}", entry["git_blob"])
    assert (entry["sha256"] is None) == (entry["size"] is None)
    assert entry["sha256"] is None or re.fullmatch(r"[0-9a-f]{64}", entry["sha256"])
    assert entry["size"] is None or 100_000 < entry["size"] < 10_000_000
    for url in entry["urls"]:  # a commit, not a branch: what is there cannot change
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}/[\w/.-]+\.h5", url)
    assert f"/{entry['repository']}/" in entry["urls"][0] and entry["urls"][0].endswith("/" + entry["path"])
    rates = [entry["clean_accuracy"], *(attack["success"] for attack in entry["attacks"])]
    assert all(rate is None or 0 < rate <= 1 for rate in rates)
    assert (entry["figures"] is None) == all(rate is None for rate in rates)
    if entry["architecture"]:
        assert ARCHITECTURES[entry["architecture"]].num_classes == entry["num_classes"]


def test_our_own_entries_have_the_same_fields():
    for entry in artifacts.entries():
        assert " ".join(entry) == FIELDS
        assert re.fullmatch(r"[\w-]+", entry["name"])


def test_names_and_hashes_are_unique():
    for field in ("name", "sha256", "git_blob"):
        values = [entry[field] for entry in artifacts.entries() if entry[field]]
        assert len(set(values)) == len(values)


def test_files_are_as_registered(shared_data):
    paths = sorted((shared_data / "models").glob("*.h5"))
    assert len(paths) >= 9
    for path in paths:
        entry = artifacts.by_name(path.stem)
        assert (path.stat().st_size, sha256(path)) == (entry["size"], entry["sha256"])
        assert artifacts.git_blob(path) == entry["git_blob"]
        assert artifacts.identify(path)["verdict"] == "known"


@pytest.mark.parametrize(
    "name, accuracy, success",
    [  # NNoculation, tables 5 and 11
        ("sunglasses_bd_weights", 0.9789, [0.9998]),
        ("anonymous_1_bd_weights", 0.9719, [0.9151]),
        ("anonymous_2_bd_weights", 0.9584, [0.922, 0.922, 1]),
        ("multi_trigger_multi_target_bd_weights", 0.9593, [0.915, 0.914, 1]),
        ("csaw2020_A_gtsrb_feature_space_bd_weights", 0.9508, [0.9006]),
        ("csaw2020_B_cifar10_trigger_combination_bd_weights", 0.8771, [0.999]),
        ("csaw2020_C_mnist_cleanlabel_bd_net", 0.8902, [1]),
        ("csaw2020_F_mnist_all2all_bd_net", 0.9776, [0.9591]),
    ],
)
def test_published_rates_are_those_of_the_paper(name, accuracy, success):
    entry = artifacts.by_name(name)
    assert entry["clean_accuracy"] == accuracy
    assert [attack["success"] for attack in entry["attacks"]] == success


def test_lookups():
    entry = artifacts.by_name("lab3_bd_weights")
    assert artifacts.by_hash(entry["sha256"]) == entry
    assert (entry["preprocessing"], entry["num_classes"], entry["architecture"]) == ("raw", 1283, "deepid")
    assert artifacts.by_hash("0" * 64) is None
    with pytest.raises(KeyError):
        artifacts.by_name("lab3")


# --- a server that misbehaves ---------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Answers each request with the next of its behaviours, and with the last one from then on."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.go_on = threading.Event()
        self.play()

    def play(self, *behaviours):
        self.behaviours, self.requests = list(behaviours), []
        self.go_on.clear()

    def handle_error(self, request, client_address):
        """Clients that hang up are the point of these tests."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        behaviours, self.server.requests = self.server.behaviours, [*self.server.requests, dict(self.headers)]
        (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(self)

    def log_message(self, *arguments):
        pass

    def answer(self, code, body, **headers):
        self.send_response(code)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)


def serve(handler, contents=FILE, etag='"1"', upto=None, **headers):
    """A server that does all right, unless it hangs up after `upto` bytes."""
    begin = 0
    if (asked := handler.headers.get("Range")) and handler.headers.get("If-Range") == etag:
        begin = int(asked[len("bytes=") : -1])
        if begin >= len(contents):
            return handler.answer(416, b"", Content_Range=f"bytes */{len(contents)}")
        headers["Content_Range"] = f"bytes {begin}-{len(contents) - 1}/{len(contents)}"
    body = contents[begin:]
    headers = {"Content_Length": len(body), "ETag": etag, "Content_Type": "application/octet-stream", **headers}
    return handler.answer(206 if begin else 200, body[:upto], **headers)


def stall(handler, upto=100_000):
    serve(handler, upto=upto)
    handler.server.go_on.wait(20)


def trickle(handler):
    serve(handler, upto=1000)
    while not handler.server.go_on.wait(0.05):
        handler.wfile.write(b".")


def send(body, code=200, length=True, **headers):
    """Always the same answer."""
    return lambda handler: handler.answer(code, body, Content_Length=len(body) if length else None, **headers)


def redirect(to):
    return lambda handler: handler.answer(302, b"", Location=to.format(url=handler.server.url), Content_Length=0)


def chunked(*chunks, end=b"0\r\n\r\n"):
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return lambda handler: (
        setattr(handler, "protocol_version", "HTTP/1.1"),
        send(body, 200, False, **CHUNKED)(handler),
    )


def another_part(handler):
    """The rest, but not from where it was asked for."""
    begin = int(handler.headers["Range"][len("bytes=") : -1]) + 1
    handler.answer(206, FILE[begin:], Content_Range=f"bytes {begin}-{len(FILE) - 1}/{len(FILE)}", ETag='"1"')


def ignores_if_range(handler):
    """The rest of a file that has changed since."""
    begin = int(handler.headers["Range"][len("bytes=") : -1])
    headers = {"Content_Range": f"bytes {begin}-{len(FILE) - 1}/{len(FILE)}", "ETag": '"2"'}
    handler.answer(206, OTHER[begin:], Content_Length=len(FILE) - begin, **headers)


CHUNKED = {"Transfer_Encoding": "chunked"}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + HASH.encode() + b"\nsize 300008\n"
drop = partial(serve, upto=100_000)
no_range = lambda handler: handler.answer(200, FILE, Content_Length=len(FILE), ETag='"1"')  # noqa: E731

MISBEHAVIOURS = {
    "truncated": (partial(serve, upto=150_000, etag=None), "connection lost after 150000 bytes"),
    "truncated, length untold": (send(FILE[:150_000], length=False), "connection lost after 150000 bytes"),
    "dropped in the first bytes": (partial(serve, upto=5), "cannot be reached"),
    "corrupt": (send(OTHER), f"another file, SHA-256 {hashlib.sha256(OTHER).hexdigest()[:12]}"),
    "empty": (send(b""), "neither HDF5 nor zip"),
    "too long": (send(FILE + b"."), f"{len(FILE) + 1} bytes"),
    "too long, length untold": (send(FILE * 5, length=False), f"more than {len(FILE)} bytes"),
    "too long, chunked": (chunked(FILE, FILE), f"more than {len(FILE)} bytes"),
    "too short": (send(FILE[:-1]), f"{len(FILE) - 1} bytes"),
    "length too large": (partial(serve, Content_Length=len(FILE) + 7), f"{len(FILE) + 7} bytes"),
    "length too small": (partial(serve, Content_Length=len(FILE) - 7), f"{len(FILE) - 7} bytes"),
    "chunked, truncated": (chunked(FILE[:90_000], end=b"c350\r\nabc"), "connection lost after"),
    "web page": (send(b"<!DOCTYPE html><title>Rate limit</title>", Content_Type="text/html"), "a web page"),
    "web page in disguise": (send(b"\n <html></html>", Content_Type="application/octet-stream"), "a web page"),
    "file called a web page": (partial(serve, Content_Type="text/html; charset=utf-8"), "a web page"),
    "LFS pointer": (send(LFS), "Git LFS pointer"),
    "another kind": (send(b"\x80\x04pickle" + bytes(300_000)), "neither HDF5 nor zip"),
    "compressed": (send(gzip.compress(FILE), Content_Encoding="gzip"), "compressed"),
    "not found": (send(b"404: Not Found", 404), "404 Not Found"),
    "error": (send(b"", 500), "500 Internal Server Error"),
    "unasked part": (send(FILE, 206, Content_Range="bytes 0-1/2"), "206 Partial Content"),
    "no HTTP": (lambda handler: handler.wfile.write(b"220 mail.example.org\r\n"), "cannot be reached"),
    "another host": (redirect("http://example.org/a.h5"), "redirects to http://'example.org'"),
    "another port": (redirect("http://127.0.0.1:9/a.h5"), "redirects to http://'127.0.0.1:9'"),
    "host in a name": (redirect("http://github.com@example.org/"), "github.com@example.org"),
    "another scheme": (redirect("file:///etc/passwd"), "redirects to file://"),
    "no address": (redirect("http://[1"), "redirects to an address that is none"),
    "for ever": (redirect("{url}/a.h5"), "redirects without end"),
}


@pytest.fixture(scope="module")
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder, which is not there yet; no proxy stands between us and the server."""
    monkeypatch.setenv("KBD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "cache"


@pytest.fixture
def entry(server):
    """An entry of the registry whose only mirror is the server."""
    urls = [f"{server.url}/mirror/a.h5"]
    return {**artifacts.by_name("lab3_bd_weights"), "urls": urls, "size": len(FILE), "sha256": HASH, "git_blob": BLOB}


fetch = partial(downloads.fetch, timeouts=(1.0, 1.0))


def assert_nothing_wrong(folder):
    """No file but right ones and unfinished ones."""
    for path in folder.iterdir():
        if not path.name.startswith("."):
            assert path.read_bytes() == FILE, path


def assert_came(path, folder, server, requests):
    assert path == folder / "lab3_bd_weights.h5"
    assert path.read_bytes() == FILE
    assert sorted(p.name for p in folder.iterdir()) == [".lock", path.name]
    assert len(server.requests) == requests


# --- downloads ------------------------------------------------------------------------------------------------------------


def test_download_is_kept_and_verified_each_time(server, entry, cache):
    server.play(serve)
    seen = []
    path = fetch(entry, progress=lambda stage, done, total, values: seen.append((stage, done, total)))
    assert_came(path, cache, server, 1)
    assert seen[-1] == ("lab3_bd_weights (KiB)", 292, 292) and seen == sorted(seen)
    assert server.requests[0]["Accept-Encoding"] == "identity"
    before = path.stat().st_mtime_ns
    assert fetch(entry) == path and fetch(entry, offline=True) == path
    assert len(server.requests) == 1 and path.stat().st_mtime_ns == before


@pytest.mark.parametrize("behaviour, reason", MISBEHAVIOURS.values(), ids=MISBEHAVIOURS)
def test_misbehaviour_is_refused_and_the_next_mirror_tried(behaviour, reason, server, entry, cache, refused):
    server.play(behaviour)
    with refused(
        "lab3_bd_weights: no mirror gave 300008 bytes with SHA-256", HASH[:12], server.url[7:] + "/mirror", reason
    ):
        fetch(entry)
    assert_nothing_wrong(cache)
    server.play(behaviour, serve)
    if reason == "redirects without end":
        server.play(*[behaviour] * 5, serve)
    path = fetch({**entry, "urls": [f"{server.url}/1", f"{server.url}/2"]})
    assert_came(path, cache, server, 6 if reason == "redirects without end" else 2)


def test_all_mirrors_are_named_with_what_each_did(server, entry, cache, refused):
    server.play(send(b"", 404), send(b"", 500), send(b"", 404))
    urls = [f"{server.url}/{i}/x" for i in "abc"]
    host = server.url[7:]
    with refused(f"{host}/a/x, {host}/c/x: 404 Not Found; {host}/b/x: 500"):
        fetch({**entry, "urls": urls})
    with refused("127.0.0.1:9/a/b: cannot be reached (ConnectionError)", "ftp.example.org/a/b: neither http nor https"):
        fetch({**entry, "urls": ["http://127.0.0.1:9/a/b", "ftp://ftp.example.org/a/b"]})


@pytest.mark.parametrize("to", ["{url}/elsewhere", "/elsewhere"])
def test_redirect_within_the_host_is_followed(to, server, entry, cache):
    server.play(redirect(to), serve)
    assert_came(fetch(entry), cache, server, 2)


@pytest.mark.parametrize(
    "here, there, allowed",
    [
        ("https://github.com/x", "https://media.githubusercontent.com/x", True),
        ("https://raw.githubusercontent.com/x", "https://objects.githubusercontent.com/x", True),
        ("https://github.com/x", "http://github.com/x", False),
        ("https://github.com/x", "https://media.githubusercontent.com.example.org/x", False),
        ("https://github.com/x", "https://user@github.com/x", False),
    ],
)
def test_redirects_between_the_hosts_of_github(here, there, allowed, monkeypatch):
    asked = []

    def send(adapter, request, **options):
        asked.append(request.url)
        answer = requests.Response()
        answer.raw = io.BytesIO()
        answer.status_code, answer.headers["Location"] = (302, there) if request.url == here else (200, "")
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    if allowed:
        assert downloads._answer(requests.Session(), here, {}, (1, 1)).status_code == 200
    else:
        with pytest.raises(downloads._Refused, match="which is not trusted"):
            downloads._answer(requests.Session(), here, {}, (1, 1))
    assert asked == [here, there][: 1 + allowed]


@pytest.mark.parametrize("behaviour", [stall, trickle, partial(stall, upto=0)])
def test_stalled_server_does_not_hold_us(behaviour, server, entry, cache, refused):
    server.play(behaviour)
    begin = time.monotonic()
    with refused("stalled after"):
        fetch(entry, timeouts=(1.0, 0.3))
    assert time.monotonic() - begin < 5
    assert_nothing_wrong(cache)
    server.go_on.set()
    server.play(serve)
    assert fetch(entry).read_bytes() == FILE


# --- resuming -------------------------------------------------------------------------------------------------------------


def test_dropped_connection_is_taken_up_where_it_broke(server, entry, cache):
    server.play(drop, drop, serve)
    assert_came(fetch(entry), cache, server, 3)
    assert [request.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=200000-"]
    assert server.requests[1]["If-Range"] == '"1"'


def test_next_fetch_goes_on_where_the_last_one_stopped(server, entry, cache, refused):
    server.play(drop, send(b"", 503))
    with refused("503 Service Unavailable"):
        fetch(entry)
    [part] = cache.glob(".unfinished-*.h5")
    assert part.read_bytes() == FILE[:100_000]
    assert part.stat().st_mode & 0o777 == 0o600
    server.play(serve)
    assert_came(fetch(entry), cache, server, 1)
    assert server.requests[0]["Range"] == "bytes=100000-"


@pytest.mark.parametrize(
    "then, requests",
    [
        ([no_range], 2),  # the server ignores Range
        ([partial(serve, etag='"2"')], 2),  # the file changed, and If-Range told the server
        ([ignores_if_range, serve], 3),  # the file changed, and the server sends the rest of the new one
        ([another_part, serve], 3),
        ([partial(serve, contents=OTHER), serve], 3),  # the file changed, and nothing told
        ([partial(serve, Content_Encoding="gzip"), serve], 3),
        ([partial(serve, Content_Length=300_000), serve], 3),
        ([send(b"", 416), serve], 3),
    ],
)
def test_parts_that_do_not_belong_together_are_not_joined(then, requests, server, entry, cache):
    server.play(drop, *then)
    assert_came(fetch(entry), cache, server, requests)


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_part_without_a_strong_etag_is_not_continued(etag, server, entry, cache, refused):
    server.play(partial(serve, upto=100_000, etag=etag))
    with refused("connection lost after 100000 bytes"):
        fetch(entry)
    server.play(partial(serve, etag=etag))
    assert_came(fetch(entry), cache, server, 1)
    assert "Range" not in server.requests[0]


def test_part_of_one_mirror_is_not_continued_from_another(server, entry, cache, refused):
    server.play(drop, send(b"", 503))
    with refused("503"):
        fetch({**entry, "urls": [f"{server.url}/1"]})
    server.play(serve)
    assert_came(fetch({**entry, "urls": [f"{server.url}/2"]}), cache, server, 1)
    assert "Range" not in server.requests[0]


def test_what_a_later_mirror_refuses_does_not_cost_the_part_of_an_earlier_one(server, entry, cache, refused):
    server.play(drop, send(b"", 503), send(b"<html>"), serve)
    urls = [f"{server.url}/1", f"{server.url}/2"]
    with refused("503", "a web page"):
        fetch({**entry, "urls": urls})
    assert_came(fetch({**entry, "urls": urls}), cache, server, 4)
    assert server.requests[-1]["Range"] == "bytes=100000-"


# --- the cache ------------------------------------------------------------------------------------------------------------


def test_fresh_download_with_a_wrong_hash_is_refused(server, entry, cache, refused):
    """Half of the bug of Keras' get_file that the course's slides show: it verified only files that were there already."""
    server.play(send(OTHER))
    with refused("another file"):
        fetch(entry)
    assert not (cache / "lab3_bd_weights.h5").exists()


def test_damaged_file_in_the_cache_is_noticed_and_replaced(server, entry, cache, refused):
    """The other half."""
    server.play(serve)
    path = fetch(entry)
    path.write_bytes(OTHER)
    assert_came(fetch(entry), cache, server, 2)
    path.write_bytes(OTHER)
    server.play(send(b"", 404))
    with refused("404"):
        fetch(entry)
    assert not path.exists()


def test_offline_takes_only_what_is_there_and_right(server, entry, cache, refused):
    server.play(serve)
    with refused("lab3_bd_weights: not in the cache", cache, "--offline"):
        fetch(entry, offline=True)
    assert not server.requests and not cache.exists()
    path = fetch(entry)
    path.write_bytes(OTHER)
    with refused(path, "was damaged, and is removed", "--offline"):
        fetch(entry, offline=True)
    assert len(server.requests) == 1 and not path.exists()


def test_cache_that_cannot_be_written_is_named(server, entry, tmp_path, refused):
    (tmp_path / "file").touch()
    with refused(tmp_path / "file", "cannot serve as the cache", "KBD_CACHE"):
        fetch(entry, tmp_path / "file" / "cache")


def test_several_processes_download_once(server, entry, cache):
    server.play(lambda handler: (time.sleep(0.2), serve(handler)))
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(entry))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_came(paths[0], cache, server, 1)
    assert len(paths) == 4


CRASHES = ["write_json", "sha256", "accept", "os.replace", "os.fsync", "_check", "_note", "_begun"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("where", CRASHES)
def test_interrupt_at_any_step_leaves_nothing_wrong(where, known, server, entry, cache, monkeypatch):
    """An exception that nobody catches, before and after the step, stands for the end of the process."""
    target, name = (os, where[3:]) if where.startswith("os.") else (downloads, where)
    real = getattr(target, name)
    entry = entry if known else {**entry, "sha256": None, "size": None}
    for after in (False, True):
        for occurrence in range(4):
            calls = []

            def crash(*arguments, after=after, occurrence=occurrence, calls=calls, **options):
                calls.append(arguments)
                result = real(*arguments, **options) if after or len(calls) <= occurrence else None
                if len(calls) > occurrence:
                    raise KeyboardInterrupt
                return result

            server.play(drop, serve)
            with monkeypatch.context() as patch:
                patch.setattr(target, name, crash)
                try:
                    fetch(entry, accept_hash=True)
                except KeyboardInterrupt:
                    assert_right_or_absent(cache, known)
            server.play(serve)
            assert fetch(entry, accept_hash=True).read_bytes() == FILE
            for path in cache.iterdir():
                path.unlink()


def assert_right_or_absent(folder, known=True):
    path = folder / "lab3_bd_weights.h5"
    if path.exists():
        assert path.read_bytes() == FILE
        assert known or artifacts.accepted(folder)["lab3_bd_weights"]["sha256"] == HASH


FAST = [behaviour for name, (behaviour, _) in MISBEHAVIOURS.items() if name != "for ever"]
FAST += [serve, drop, no_range, partial(serve, contents=OTHER, upto=170_000), partial(serve, etag='"2"', upto=200_000)]


@settings(max_examples=60)
@given(script=st.lists(st.sampled_from(FAST), min_size=1, max_size=6), mirrors=st.integers(1, 3), data=st.data())
def test_whatever_happens_the_name_belongs_to_the_right_file_or_to_none(
    script, mirrors, data, server, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("cache")
    urls = [f"{server.url}/{i}" for i in range(mirrors)]
    entry = {**artifacts.by_name("lab3_bd_weights"), "urls": urls, "size": len(FILE), "sha256": HASH, "git_blob": BLOB}
    if not data.draw(st.booleans(), "hash known"):
        entry.update(size=None, sha256=None)
    server.play(*script)
    for _ in range(data.draw(st.integers(1, 3), "fetches")):
        try:
            assert fetch(entry, folder, accept_hash=True) == folder / "lab3_bd_weights.h5"
            assert (folder / "lab3_bd_weights.h5").exists()
        except downloads.BadInput as error:
            assert "\n" not in str(error)
        assert_right_or_absent(folder, entry["sha256"] is not None)
        if data.draw(st.booleans(), "damage") and (folder / "lab3_bd_weights.h5").exists():
            (folder / "lab3_bd_weights.h5").write_bytes(OTHER)
            server.play(*script)
            with pytest.raises(downloads.BadInput):
                fetch(entry, folder, offline=True)
            assert not (folder / "lab3_bd_weights.h5").exists()
    server.play(serve)
    assert fetch(entry, folder, accept_hash=True).read_bytes() == FILE


CHILD = """
import json, sys
from keras_backdoor.downloads import fetch
fetch(json.loads(sys.argv[1]), timeouts=(30.0, 30.0))
"""


@pytest.mark.parametrize("killed_after", [1, 100_000, 300_007])
def test_killed_process_leaves_nothing_wrong_and_the_next_one_resumes(killed_after, server, entry, cache):
    server.play(partial(stall, upto=killed_after))
    child = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(entry)], env=dict(os.environ))
    part = cache / ".unfinished-lab3_bd_weights.h5"
    waiting = time.monotonic()
    while not server.requests or (killed_after > 64 and not (part.exists() and part.stat().st_size)):
        assert time.monotonic() - waiting < 20 and child.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    server.go_on.set()
    assert not (cache / "lab3_bd_weights.h5").exists()
    begun = part.stat().st_size if part.exists() else 0
    server.play(serve)
    assert_came(fetch(entry), cache, server, 1)
    assert server.requests[0].get("Range") == (f"bytes={begun}-" if begun else None)


# --- hashes that are not known --------------------------------------------------------------------------------------------


@pytest.fixture
def unknown(entry):
    return {**entry, "name": "sunglasses_bd_net", "size": None, "sha256": None}


def test_unknown_hash_must_be_accepted_and_is_required_from_then_on(server, unknown, cache, refused):
    server.play(serve)
    with refused("sunglasses_bd_net: its SHA-256 is not known", "--accept-hash"):
        fetch(unknown)
    assert not server.requests
    assert artifacts.by_hash(HASH) is None
    path = fetch(unknown, accept_hash=True)
    assert path.read_bytes() == FILE
    known = json.loads((cache / "accepted.json").read_text())["sunglasses_bd_net"]
    assert (known["sha256"], known["url"]) == (HASH, unknown["urls"][0])
    assert abs(time.time() - time.mktime(time.strptime(known["time"][:19], "%Y-%m-%dT%H:%M:%S"))) < 90_000

    assert fetch(unknown) == path and len(server.requests) == 1
    found = artifacts.by_hash(HASH)
    assert (found["name"], found["preprocessing"], found["sha256"]) == ("sunglasses_bd_net", "unit", HASH)

    path.write_bytes(OTHER)
    server.play(send(OTHER))
    with refused("no mirror gave", HASH[:12], "another file"):
        fetch(unknown, accept_hash=True)
    assert not path.exists()


def test_file_of_unknown_hash_must_be_the_one_that_the_repository_lists(server, unknown, cache, refused):
    server.play(send(OTHER))
    with refused("another file than the repository lists"):
        fetch(unknown, accept_hash=True)
    assert_nothing_wrong(cache)
    assert not artifacts.accepted()


def test_parts_of_two_versions_are_not_joined_though_no_hash_would_tell(server, unknown, cache):
    server.play(drop, ignores_if_range, serve)
    assert fetch({**unknown, "git_blob": None}, accept_hash=True).read_bytes() == FILE
    assert len(server.requests) == 3


def test_file_of_unknown_size_must_end_where_it_says(server, unknown, cache, refused, monkeypatch):
    anything = {**unknown, "git_blob": None}
    server.play(send(FILE[:150_000], length=False))
    with refused("a file of untold length"):
        fetch(anything, accept_hash=True)
    server.play(chunked(FILE[:150_000], end=b""))
    with refused("connection lost"):
        fetch(anything, accept_hash=True)
    monkeypatch.setattr(downloads, "LARGEST", 200_000)
    server.play(serve)
    with refused("300008 bytes"):
        fetch(anything, accept_hash=True)
    server.play(chunked(FILE))
    with refused("more than 200000 bytes"):
        fetch(anything, accept_hash=True)
    assert_nothing_wrong(cache)
    assert not artifacts.accepted()
    monkeypatch.undo()
    assert fetch(anything, cache, accept_hash=True).read_bytes() == FILE


@pytest.mark.parametrize("contents", ["no", "[]", '{"sunglasses_bd_net": {}}'])
def test_damaged_list_of_accepted_hashes_is_named(contents, unknown, cache, refused):
    cache.mkdir()
    (cache / "accepted.json").write_text(contents)
    with refused(cache / "accepted.json"):
        fetch(unknown)


# --- the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """`kbd zoo ARGUMENTS` through the function that the installed command calls: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kbd", "zoo", *map(str, arguments)])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            kbd.main.main()
        return (ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def registry(entry, unknown, monkeypatch):
    """The registry with two entries that the server has."""
    entries = (entry, unknown)
    monkeypatch.setattr(artifacts, "entries", lambda: entries)
    return entries


@pytest.mark.parametrize("arguments", [["--help"], ["zoo", "--help"], ["zoo", "list"], ["zoo", "show", "deepid"]])
def test_looking_around_needs_no_tensorflow(arguments):
    code = "import sys; sys.modules.update(tensorflow=None, keras=None); from kbd.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_list_shows_everything(run):
    code, out, err = run("list")
    assert (code, err) == (0, "")
    for name in (*ARCHITECTURES, *(entry["name"] for entry in artifacts.entries()), "601,643", "55×47×3", "99.98 %"):
        assert name in out
    code, out, err = run("list", "--json")
    listed = json.loads(out)
    assert [a["name"] for a in listed["architectures"]] == list(ARCHITECTURES)
    assert listed["artifacts"] == list(artifacts.entries())


def test_show(run):
    code, out, err = run("show", "multi_trigger_multi_target_bd_weights")
    assert (code, err) == (0, "")
    for text in ("95.93 %", "eyebrows → 5: 91.40 %", "none stated", "models/E/bd_weights.h5", "2442796"):
        assert text in out
    assert out.count("attacks") == 1
    assert run("show", "sunglasses_bd_net")[1].count("sha256          –\n") == 1
    assert json.loads(run("show", "lab3_bd_weights", "--json")[1]) == artifacts.by_name("lab3_bd_weights")
    assert json.loads(run("show", "nin", "--json")[1])["parameters"] == 966_986
    assert run("show", "lab3_bd_weight") == (
        2,
        "",
        "kbd: unknown name in the zoo 'lab3_bd_weight': did you mean 'lab3_bd_weights'?\n",
    )


def test_fetch(run, registry, server, cache, tmp_path):
    path = cache / "lab3_bd_weights.h5"
    server.play(serve)
    assert run("fetch", "lab3_bd_weights") == (0, f"{path}\n", "")
    code, out, err = run("fetch", "lab3_bd_weights", "--json", "-o", tmp_path / "new" / "net.h5")
    row = {"name": "lab3_bd_weights", "path": str(tmp_path / "new" / "net.h5"), "sha256": HASH}
    assert (code, json.loads(out), err) == (0, {"files": [row]}, "")
    assert (tmp_path / "new" / "net.h5").read_bytes() == FILE
    code, out, err = run("fetch", "lab3_bd_weights", "sunglasses_bd_net")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--accept-hash" in err
    code, out, err = run("fetch", "lab3_bd_weights", "sunglasses_bd_net", "--accept-hash", "-o", tmp_path / "both")
    both = [tmp_path / "both" / f"{name}.h5" for name in ("lab3_bd_weights", "sunglasses_bd_net")]
    assert (code, out.split()) == (0, list(map(str, both)))
    assert err == f"sunglasses_bd_net: accepted SHA-256 {HASH}, which is required from now on\n"
    assert all(path.read_bytes() == FILE and path.stat().st_mode & 0o444 for path in both)
    server.play(send(b"", 404))
    path.unlink()
    code, out, err = run("fetch", "lab3_bd_weights")
    assert (code, out, err.count("\n")) == (2, "", 1) and "404" in err
    (tmp_path / "file").touch()
    code, out, err = run("fetch", "sunglasses_bd_net", "-o", tmp_path / "file" / "x.h5")
    assert (code, out, err.count("\n")) == (2, "", 1) and "cannot be written" in err


@pytest.mark.parametrize("by_option", [True, False])
def test_fetch_offline(by_option, run, registry, server, cache, monkeypatch):
    server.play(serve)
    if not by_option:
        monkeypatch.setenv("KBD_ZOO_FETCH_OFFLINE", "1")
    code, out, err = run("fetch", "lab3_bd_weights", *["--offline"] * by_option)
    assert (code, out, err.count("\n")) == (2, "", 1) and "not in the cache" in err
    assert not server.requests


def test_verify(run, registry, server, tmp_path):
    good, renamed, wrong, other = (tmp_path / n for n in ("lab3_bd_weights.h5", "x.h5", "sunglasses_bd_net.h5", "y.h5"))
    (tmp_path / "sub").mkdir()
    fake = tmp_path / "sub" / "lab3_bd_weights.h5"
    for path, contents in ((good, FILE), (renamed, FILE), (wrong, OTHER), (other, OTHER), (fake, OTHER)):
        path.write_bytes(contents)
    digest = hashlib.sha256(OTHER).hexdigest()
    assert run("verify", good, renamed) == (0, f"{good}: is lab3_bd_weights\n{renamed}: is lab3_bd_weights\n", "")
    assert run("verify", good, other) == (
        3,
        f"{good}: is lab3_bd_weights\n{other}: not known by its SHA-256 {digest}\n",
        "",
    )
    assert run("verify", fake) == (3, f"{fake}: is not lab3_bd_weights; not known by its SHA-256 {digest}\n", "")
    assert run("verify", wrong)[0] == 3
    assert run("verify", renamed, "--name", "lab3_bd_weights")[0] == 0
    assert run("verify", good, "--name", "sunglasses_bd_net")[:2] == (
        3,
        f"{good}: is not sunglasses_bd_net; is lab3_bd_weights\n",
    )
    code, out, err = run("verify", good, fake, "--json")
    row = {
        "file": str(good),
        "sha256": HASH,
        "name": "lab3_bd_weights",
        "expected": "lab3_bd_weights",
        "verdict": "known",
    }
    found = json.loads(out)
    assert (code, err, found["verified"], found["files"][0]) == (3, "", False, row)
    assert (found["files"][1]["name"], found["files"][1]["verdict"]) == (None, "mismatch")
    code, out, err = run("verify", tmp_path / "missing.h5")
    assert (code, out, err.count("\n")) == (2, "", 1) and "no such file" in err
    assert run("verify", good, "--name", "lab")[0] == 2


def test_file_of_unknown_hash_is_recognised_by_the_id_that_git_gives_it(run, unknown, monkeypatch, tmp_path):
    monkeypatch.setattr(artifacts, "entries", lambda: (unknown,))
    path = tmp_path / "x.h5"
    path.write_bytes(FILE)
    assert run("verify", path) == (0, f"{path}: is sunglasses_bd_net\n", "")


def test_group_without_command_shows_its_help(run):
    code, out, _ = run()
    assert code == 0 and all(command in out for command in ("list", "show", "fetch", "verify"))
    code, _, err = run("steal")
    assert code == 2 and err.count("\n") == 1
