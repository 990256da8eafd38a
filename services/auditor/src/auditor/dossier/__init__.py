"""Everything that the services know about one id, for the operator: ``show <id>``.

``identities`` says what an id is, ``sections`` what to ask about it, ``reading`` asks, ``rendering`` shows.
"""

from auditor.dossier.reading import Chapter, Dossier, Section, read_dossier
from auditor.dossier.rendering import render_dossier, render_files, render_unread_files

__all__ = ["Chapter", "Dossier", "Section", "read_dossier", "render_dossier", "render_files", "render_unread_files"]
