"""Process plumbing shared by every service."""
