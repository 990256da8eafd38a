"""Dashboards and alert rules of Reelhouse, written in Python and generated: ``python -m deploy.observability``."""
