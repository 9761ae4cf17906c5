"""What is reported about requests: the log, metrics and traces."""
