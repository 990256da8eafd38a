"""What stops a provisioning. The text is for the person at the terminal."""


class ProvisionError(Exception):
    """The provisioning cannot go on."""


class InvalidFile(ProvisionError):
    """The manifest or the lock file says something that cannot be."""


class DownloadFailed(ProvisionError):
    """A file did not come, or came damaged twice."""
