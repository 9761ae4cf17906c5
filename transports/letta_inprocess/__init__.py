"""The shared parts of the in-process transports for httpx and httpx2; neither library is imported here.

`_drive` carries out the commands of a cycle with a client of either library, since both have the same methods.
`_transports` contains the transports without their base classes. The package itself imports nothing.
"""
