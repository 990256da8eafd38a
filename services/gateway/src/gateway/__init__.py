"""The only public API for the frontend."""
