"""Settings: frozen classes for the command line and for programs."""
