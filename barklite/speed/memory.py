"""Memory that the C library keeps for the next tensors."""

import functools

import torch


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MB that tensors have freed, instead of returning it to the system at once.

    Returned memory comes back with a page fault every 4 kB, which cost a quarter of the fine model's time on
    a CPU. malloc learns from the largest block that it has seen freed, up to 32 MB (mallopt(3),
    M_MMAP_THRESHOLD); this one is never written, so it takes no memory. Other allocators ignore it.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
