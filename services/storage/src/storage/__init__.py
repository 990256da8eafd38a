"""The only writer of the video library."""
