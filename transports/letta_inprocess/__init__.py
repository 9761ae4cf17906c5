"""What the in-process transports for httpx and httpx2 share: neither library is imported here.

`_drive` carries a cycle's commands out with whatever client it is given, since both libraries' clients have the
same methods; `_transports` are the transports without their library. Nothing is imported with the package
itself: each user takes what it needs.
"""
