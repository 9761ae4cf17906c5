"""What is raised for a setting that cannot be used."""


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message names it and what was expected."""
