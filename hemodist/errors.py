"""The one base class of errors that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """Something about the input, the configuration or the machine is wrong.

    The text says what is wrong, the numbers, and the remedy; jobs print it without a traceback and exit with code 2.

    Attributes:
        transient: another attempt, or another node, may succeed; workers are then started again before giving up.
    """

    transient = False


class ConfigError(UserError):
    """A run's configuration cannot work; raised before anything is started."""
