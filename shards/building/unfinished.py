"""What an unfinished data set keeps beside its shards, so that a later run can go on.

`build.json` says what is being built. `records/` holds a record of each finished shard. `.pseudonym-key` holds a fresh
key of the pseudonyms where none was given. All are deleted once the manifest is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hemodist.dataset.typed import typed
from hemodist.errors import ConfigError
from hemodist.storage.local_files import PARTIAL_SUFFIX, partial_path, put_in_place
from hemodist.storage.retries import with_retries
from hemodist.storage.store import Store, StoreError
from shards.packing import record

BUILD = "build.json"
KEY_FILE = ".pseudonym-key"
KEY_VARIABLE = "HEMODIST_PSEUDONYM_KEY"
STALE_SECONDS = 600.0
"""Age in seconds of a half-written file whose writer is surely dead: a shard is written in seconds."""

MIN_KEY_BYTES, MAX_KEY_BYTES = 16, 64
"""Bytes of the pseudonym key: 128 bits at least, and at most what blake2b takes."""


@dataclass(frozen=True)
class Begun:
    """What `build.json` holds: the configuration of the build, and `key_check` of its pseudonym key."""

    config: dict[str, Any]
    key_check: str


def begin(output: Store, described: dict[str, Any], check: str) -> None:
    """Write what is being built, or check that an earlier run has begun the same build.

    Raises:
        ConfigError: another build was begun here, or the folder holds something else.
    """
    wanted = asdict(Begun(described, check))
    foreign = [] if output.size(BUILD) is not None else [name for name, _ in output.list() if name != KEY_FILE]
    if output.size(BUILD) is not None:  # looked at again: another driver may just have begun
        try:
            begun = typed(Begun, output.read(BUILD))
        except ValueError as error:
            raise ConfigError(f"{output.uri}/{BUILD} is damaged: {error}; delete {output.uri} and run again") from error
        compare(output, begun.config, described)
        if begun.key_check != check:
            raise ConfigError(
                f"{output.uri} was begun with another pseudonym key; give that one (--key-file or {KEY_VARIABLE}), "
                "or choose another output"
            )
    elif foreign:
        raise ConfigError(
            f"{output.uri} holds {len(foreign)} files that are no data set ({foreign[0]}, ...); choose an empty folder"
        )
    sweep(output)
    # The same bytes when going on: it shows before any work that the output can be written.
    output.write(BUILD, json.dumps(wanted, sort_keys=True, indent=2).encode())


def sweep(output: Store, age: float = STALE_SECONDS) -> None:
    """Remove half-written files older than `age` seconds. Recent ones stay: their writers may still be at work."""
    if output.is_local:
        before = time.time() - age
        for path in output.local().rglob(f"*{PARTIAL_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()


def compare(output: Store, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ConfigError where a data set was made of another source or configuration, naming the difference."""
    before, after = _flat(earlier), _flat(now)
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if not names:
        return
    listed = "; ".join(f"{name} was {_short(before.get(name))}, is {_short(after.get(name))}" for name in names)
    if all(name.startswith("versions.") for name in names):
        raise ConfigError(
            f"{output.uri} was begun with other code or packages, whose shards may differ: {listed}. "
            "Go on with those, or delete it and run again"
        )
    raise ConfigError(
        f"{output.uri} was made of another source or configuration: {listed}. "
        "Go on with the earlier one, or choose another output"
    )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The versions one by one, so that a difference is not lost in a list of all."""
    given = config.get("versions") or {}
    return {name: value for name, value in config.items() if name != "versions"} | {
        f"versions.{name}": version for name, version in given.items()
    }


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def pseudonym_key(key_file: str | None, output: Store) -> bytes:
    """The secret key of the pseudonyms: from a file, the environment, or an earlier run; otherwise a fresh one.

    A fresh key is kept in the data set until that is finished.

    Raises:
        ConfigError: it is missing or malformed.
    """
    if key_file is not None:
        path = Path(key_file)
        if not path.is_file():
            raise ConfigError(f"the key file {key_file} does not exist")
        return _key(path.read_text(), f"the key file {key_file}")
    if os.environ.get(KEY_VARIABLE):
        return _key(os.environ[KEY_VARIABLE], f"the variable {KEY_VARIABLE}")
    if output.size(KEY_FILE) is not None:
        return _key(output.read(KEY_FILE).decode("ascii", "replace"), f"{output.uri}/{KEY_FILE}")
    fresh = secrets.token_hex(32)
    if output.is_local:
        _create_local(output.local(KEY_FILE), fresh.encode())
    else:
        output.write(KEY_FILE, fresh.encode())
    # What stands there now: another driver may have begun the same build at the same moment.
    return _key(output.read(KEY_FILE).decode("ascii", "replace"), f"{output.uri}/{KEY_FILE}")


def _create_local(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all; one that is there already stays as it is."""
    try:
        with_retries(lambda: _create(path, content))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}; check the path, the rights and the free space") from error


def _create(path: Path, content: bytes) -> None:
    aside = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(aside)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                put_in_place(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _key(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ConfigError(
            f"{where} must hold {2 * MIN_KEY_BYTES} to {2 * MAX_KEY_BYTES} hexadecimal digits; "
            "`openssl rand -hex 32` makes a key"
        )
    return key


def key_check(key: bytes) -> str:
    """A short hash of the key, by which an unfinished data set recognises it; deleted when the data set is finished."""
    return hashlib.blake2b(b"pseudonym key", key=key, digest_size=8).hexdigest()


def clear(output: Store) -> None:
    """Remove what only an unfinished data set needs, and half-written files of killed writers."""
    for name, _ in output.list(record.FOLDER):
        output.delete(name)
    output.delete(KEY_FILE)
    output.delete(BUILD)
    sweep(output, -math.inf)
    if output.is_local:
        with contextlib.suppress(FileNotFoundError):
            output.local(record.FOLDER).rmdir()
