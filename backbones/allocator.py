"""How this process' memory is kept between one computation and the next. No torch here."""

import ctypes
import os
from contextlib import suppress

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # as glibc's malloc.h numbers them
CHOSEN = ("MALLOC_", "GLIBC_TUNABLES")
"""beginnings of the environment's variables by which a user has chosen already"""


def keep_freed_memory() -> bool:
    """Keep what is freed for what is asked for next, instead of giving it back to the system.

    glibc gives large blocks back and fetches them again, page by page, in every step. From here on until the process
    ends, its memory stays at the highest it was. Whether it is so: not where the system's library is another, or where
    the environment says what malloc shall do.
    """
    if any(name.startswith(CHOSEN) for name in os.environ):
        return False
    with suppress(AttributeError, OSError, ValueError):
        if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            library = ctypes.CDLL(None)
            return bool(library.mallopt(MMAP_MAX, 0) and library.mallopt(TRIM_THRESHOLD, -1))
    return False
