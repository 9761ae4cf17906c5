"""Recordings of turns on disk: a folder of them, samples, and views for a person.

Nothing but the folder is imported with the package itself: the views need rich, and the in-process transports
only record.
"""

from .folder import RecordingFolder

__all__ = ["RecordingFolder"]
