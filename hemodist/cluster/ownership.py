"""Which driver a run's folder belongs to: the one that was started last. Only its ranks write into the folder.

A driver leaves a random token in the folder and gives it to its ranks. A rank that does not find the token sees another
folder, since the path leads elsewhere on its node. A rank that finds a newer one has been overtaken by a second driver.
"""

from __future__ import annotations

import functools
import json
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from hemodist.errors import ConfigError, UserError
from hemodist.storage.retries import WAITS
from hemodist.storage.store import Store, StoreError
from hemodist.world import World

FILE = ".driver.json"


class OvertakenError(UserError):
    """Another driver has gone on with what this one was writing."""


@dataclass(frozen=True)
class Claim:
    """What a driver leaves in the folder that it takes.

    Attributes:
        token: random, another one for each driver; the same after the driver has started its workers again.
        since: when the driver took the folder, in seconds since 1970 by its own clock.
        host: the machine that the driver runs on.
    """

    token: str
    since: float
    host: str

    def __str__(self) -> str:
        """Where and since when, for a sentence."""
        return f"since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M:%S} UTC on {self.host}"


@dataclass(frozen=True)
class Claimed:
    """A folder that a driver has taken, as its ranks know it.

    Attributes:
        uri: of the folder.
        claim: what the driver has left there.
    """

    uri: str
    claim: Claim

    @functools.cached_property
    def _store(self) -> Store:
        """Opened once, by the rank, with the settings of its own node."""
        return Store.open(self.uri)

    def check_all_see_it(self, world: World) -> None:
        """Check on every rank, together, that its node sees the driver's claim.

        Raises:
            ConfigError: on some node the folder is not the driver's.
            OvertakenError: it is, and another driver has taken it over.
        """
        seen: list[tuple[str, Claim | None]] = world.gather((socket.gethostname(), self._seen()))
        others = [other for _, other in seen if other is not None and other.token != self.claim.token]
        for other in others:
            if other.since > self.claim.since:
                raise self._overtaken(other)
        blind = sorted({node for node, other in seen if other is None or other.token != self.claim.token})
        if not blind:
            return
        found = f" (there, a driver wrote {others[0]})" if others else ""
        remedy = "give --output s3://... or a folder that all nodes share, such as NFS"
        if "://" in self.uri:
            remedy = "give all nodes the same endpoint, AWS_ENDPOINT_URL"
        raise ConfigError(
            f"{self.uri} on node {', '.join(blind)} is not the folder that the driver on {self.claim.host} wrote to"
            f"{found}: {remedy}"
        )

    def check(self) -> None:
        """Check that the folder is still this driver's; one small request.

        Raises:
            OvertakenError: another driver has taken it over.
            StoreError: the folder cannot be read.
        """
        other = _read(self._store)
        if other is not None and other.token != self.claim.token:
            raise self._overtaken(other)

    def _seen(self) -> Claim | None:
        """The claim that this node sees."""
        for wait in WAITS if self._store.is_local else ():
            seen = _read(self._store)
            if seen is not None and seen.token == self.claim.token:
                return seen
            # A client of NFS may remember for a while what was there; listing the folder makes it ask the server.
            time.sleep(wait)
            self._store.list_all(recursive=False)
        return _read(self._store)

    def _overtaken(self, other: Claim) -> OvertakenError:
        return OvertakenError(
            f"another driver has gone on with {self.uri} {other}; this one ends and leaves it to that one"
        )


def claim(uri: str) -> Claimed:
    """Take a folder for this driver, whoever had it before.

    Raises:
        StoreError: the folder cannot be written.
    """
    store = Store.open(uri)
    mine = Claim(uuid.uuid4().hex, time.time(), socket.gethostname())
    store.write(FILE, (json.dumps(asdict(mine)) + "\n").encode())
    return Claimed(store.uri, mine)


def _read(store: Store) -> Claim | None:
    """The claim in a folder; None where there is none, or none that can be read."""
    try:
        return Claim(**json.loads(store.read(FILE)))
    except (ValueError, TypeError):
        return None
    except StoreError:
        if store.size(FILE) is not None:
            raise
        return None
