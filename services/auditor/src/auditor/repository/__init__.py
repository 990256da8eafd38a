"""The SQL of the auditor's own tables, and of billing's seals. ``invariants`` and ``dossier`` read all schemas."""
