"""``python -m local_platform``: see ``commands``."""

import sys

if __name__ == "__main__":
    try:
        # Imported here, so that Ctrl-C while it loads ends quietly too.
        from local_platform.commands import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
