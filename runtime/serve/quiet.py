"""Libraries that warn and log of odd headers do it in words that hold what stands in them: here they say nothing."""

from __future__ import annotations

import logging
import warnings

TALKATIVE = ("highdicom", "pydicom", "pynetdicom", "waitress")


def quiet_libraries() -> None:
    """Silence warnings and logs of this process; what concerns the user is told by the service itself."""
    warnings.simplefilter("ignore")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
