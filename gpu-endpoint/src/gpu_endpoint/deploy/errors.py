"""What stops a deployment. The text is for the person at the terminal."""


class DeployError(Exception):
    """The deployment cannot go on."""


class InvalidDescription(DeployError):
    """The description says something that cannot be."""


class Ambiguous(DeployError):
    """Several things at RunPod have the name, and no id is known."""


class CannotBeChanged(DeployError):
    """RunPod has no way to change this field of a thing that exists."""


class Refused(DeployError):
    """RunPod refused the request."""


class MaybeCreated(DeployError):
    """The answer to a creation was lost. The thing may exist."""
