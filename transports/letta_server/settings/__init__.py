"""What can be set: frozen classes, which the command line and a program fill alike."""
