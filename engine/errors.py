"""Mistakes of the model or the settings, told to the person at the terminal in one readable message.

EngineError
├── ModelError          the checkpoint, or the folder or Hub id that should hold it
└── ConfigurationError  settings that do not fit together, the model or the machine

RankError               a rank process is lost: this engine cannot go on, and a new one may

Anything else that is raised is a fault of ours and keeps its traceback.
"""

from __future__ import annotations


class EngineError(Exception):
    """An expected failure: ``str()`` of it is meant to be read, and no traceback would help."""


class ModelError(EngineError):
    """The model cannot be found, downloaded or loaded as it is."""


class ConfigurationError(EngineError):
    """The settings cannot be met."""


class RankError(Exception):
    """A rank has died, failed or is stuck. ``str()`` of it says which, and why."""
