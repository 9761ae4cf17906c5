"""Which connections and requests are let in."""
