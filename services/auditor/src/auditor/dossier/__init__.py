"""Everything that the services hold about one id, for the operator: ``show <id>``.

``identities`` says what an id is, ``sections`` what to ask about it, ``reading`` asks, ``rendering`` prints.
"""

from auditor.dossier.reading import Chapter, Dossier, Section, dossier
from auditor.dossier.rendering import render_dossier

__all__ = ["Chapter", "Dossier", "Section", "dossier", "render_dossier"]
