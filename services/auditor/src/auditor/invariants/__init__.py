"""What must always be true, as SQL over all schemas. Each query returns the rows that break it, or none.

The queries look at what is stored and use no code of the services. They are the independent proof, so they repeat
rules of the services on purpose. Those that compare services leave rows alone that are younger than ``:tolerance``
seconds where a message may still be under way; where the order of causes allows no such moment (credits are captured
only after a file is stored), there is no tolerance.
"""

from typing import Final

from auditor.domain import Invariant
from auditor.invariants.archives import ARCHIVES
from auditor.invariants.deadlines import DEADLINES
from auditor.invariants.ledger import LEDGER
from auditor.invariants.messages import MESSAGES
from auditor.invariants.money import MONEY
from auditor.invariants.orders import ORDERS
from auditor.invariants.views import VIEWS

INVARIANTS: Final[tuple[Invariant, ...]] = (*LEDGER, *ORDERS, *MONEY, *DEADLINES, *VIEWS, *MESSAGES, *ARCHIVES)
