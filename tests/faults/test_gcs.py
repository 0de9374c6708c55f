"""Reading from Google Cloud Storage, as far as a server of our own on the loopback interface can tell.

No emulator is among the dependencies. What is played here is the part of the JSON API (v1) that reading needs: an
object's description, and its bytes. Listing, writing and credentials are not tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.storage.store import Store
from tests.support.dataset import make_dataset

CODE = """
import sys, zlib
from hemodist.loading.shard_cache import ShardCache
from hemodist.dataset.dataset import DataSet
from hemodist.loading.sample_reader import Reader
dataset = DataSet.open(sys.argv[1])
cache = ShardCache(dataset, sys.argv[2])
reader = Reader(dataset, cache)
print(*(zlib.crc32(reader.read(row)) for row in range(dataset.manifest.samples)))
cache.close()
"""
"""What a rank does, in a process of its own: the client holds Python's lock while it waits for an answer."""


@pytest.fixture
def bucket(tmp_path) -> Iterator[tuple[str, Path, Counter[str]]]:
    """Address of the server, the folder behind the bucket, and how often each object's bytes were sent."""
    folder, sent = make_dataset(tmp_path / "data", samples=48, per_shard=8), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            name = unquote(url.path.rsplit("/o/", 1)[-1]) if "/o/" in url.path else unquote(url.path).split("/", 2)[-1]
            path = folder / name.removeprefix("set/")
            if not path.is_file():
                self.reply(404, b'{"error": {"code": 404, "message": "no such object"}}', "application/json")
            elif "alt=media" in url.query or "/o/" not in url.path:
                sent[path.name] += 1
                self.reply(200, path.read_bytes(), "application/octet-stream")
            else:
                described = {
                    "kind": "storage#object", "name": name, "bucket": "bucket", "generation": "1",
                    "size": str(path.stat().st_size),
                }  # fmt: skip
                self.reply(200, json.dumps(described).encode(), "application/json")

        def reply(self, status: int, content: bytes, kind: str) -> None:
            given = self.headers.get("Range", "")
            if status == 200 and given.startswith("bytes="):
                first, last = given.removeprefix("bytes=").split("-")
                total = len(content)
                content = content[int(first) : int(last) + 1 if last else None]
                status = 206
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{total}")
            self.send_header("Content-Type", kind)
            self.send_header("x-goog-generation", "1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder, sent
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_gcs_uri_is_understood_without_asking_anybody():
    store = Store.open("gs://bucket/some/place")
    assert (store.uri, store.root, store.is_local) == ("gs://bucket/some/place", "bucket/some/place", False)
    assert store.path("shards/000000.tar") == "bucket/some/place/shards/000000.tar"


def test_every_sample_is_read_from_gcs_and_each_shard_once(bucket, tmp_path):
    url, folder, sent = bucket
    read = subprocess.run(
        [sys.executable, "-c", CODE, "gs://anonymous@bucket/set", str(tmp_path / "cache")],
        env={"CLOUD_STORAGE_EMULATOR_ENDPOINT": url, "PATH": ""},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    expected = DataSet.open(str(folder)).column("crc32").tolist()
    assert [int(number) for number in read.stdout.split()] == expected
    assert {name: count for name, count in sent.items() if name.endswith(".tar")} == {
        path.name: 1 for path in folder.glob("shards/*.tar")
    }
