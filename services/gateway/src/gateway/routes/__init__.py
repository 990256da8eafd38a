"""The routes of the public API, by what they are about."""
