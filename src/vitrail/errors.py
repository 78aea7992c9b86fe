"""What a user can do wrong, as exceptions whose message is one line that says what to do."""


class VitrailError(Exception):
    """Base of everything that Vitrail raises on purpose."""


class UsageError(VitrailError):
    """An argument is out of its range, or contradicts another one."""


class PictureError(VitrailError):
    """A picture cannot be read, is of a kind that cannot be coded, or is too large."""


class FormatError(VitrailError):
    """A `.vtl` file is damaged, truncated, of another format, or newer than this reader."""


class ModelError(VitrailError):
    """A model or its weights are unknown, unreadable, or not the ones that a file needs."""
