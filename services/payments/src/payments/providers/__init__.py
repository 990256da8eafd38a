"""The providers through which credits are bought, behind one small interface."""
