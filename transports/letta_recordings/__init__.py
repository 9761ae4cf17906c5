"""Recordings of turns on disk: a folder of them, samples, and views.

The package itself only imports the folder: the views need rich, and the in-process transports only record.
"""

from .folder import RecordingFolder

__all__ = ["RecordingFolder"]
