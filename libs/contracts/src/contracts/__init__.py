"""Every message on the wire: subjects, streams and typed payloads. Depends on no other member."""
