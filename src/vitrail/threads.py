"""How many threads compute."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread: many small operations starve when threads wait for a busy core at each of them."""
    with _LOCK:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
