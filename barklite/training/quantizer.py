"""The residual vector quantiser while it learns (Défossez et al., 2022, section 3.2): codebooks follow the
exponential moving average of what is assigned to them, and entries that nothing is assigned to are revived.

Axes: N vectors, K codebooks, V entries a codebook, D dimension.
"""

import torch
from torch import Tensor, nn

DECAY = 0.99  # of the moving averages
DEAD = 0.02  # an entry with less than this share of an even one's vectors is dead


class ResidualQuantizer(nn.Module):
    """codebooks (K, V, D), and the moving averages that they come from: sums (K, V, D) and counts (K, V),
    which are 0 where nothing was learned.

    n_first: the first codebook is of the last so many numbers of a vector alone, the others are of the rest;
    0: all are of everything.
    """

    def __init__(self, n_codebooks: int, codebook_size: int, dimension: int, n_first: int = 0):
        super().__init__()
        shape = (n_codebooks, codebook_size, dimension)
        self.register_buffer("codebooks", torch.zeros(shape))
        self.register_buffer("sums", torch.zeros(shape))
        self.register_buffer("counts", torch.zeros(shape[:2]))
        sees = torch.ones(n_codebooks, dimension)
        if n_first:
            sees[0, :-n_first] = 0
            sees[1:, -n_first:] = 0
        self.register_buffer("sees", sees, persistent=False)

    def encode(self, vectors: Tensor) -> Tensor:
        """(N, D) -> codes int64 (K, N): each codebook names the entry nearest to what the others left."""
        residual, codes = vectors, []
        for book, sees in zip(self.codebooks, self.sees, strict=True):
            codes.append(nearest(residual * sees, book))
            residual = residual - book[codes[-1]]
        return torch.stack(codes)

    @torch.no_grad()
    def learn(self, vectors: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """One step on (N, D): the mean squared error after each codebook (K,), and how many entries revived.

        generator: on the CPU, whatever the vectors are on, so that its numbers are the same everywhere.
        """
        whole, errors, revived = vectors, [], 0
        for book, sums, counts, sees in zip(self.codebooks, self.sums, self.counts, self.sees, strict=True):
            residual = whole * sees
            if not counts.any():  # the first step: entries are vectors drawn from the batch
                picked = torch.randperm(len(residual), generator=generator)[: len(book)]
                picked = picked.repeat(-(-len(book) // len(picked)))[: len(book)]
                book.copy_(residual[picked])
                sums.copy_(book)
                counts.fill_(1.0)
            codes = nearest(residual, book)
            found = torch.bincount(codes, minlength=len(book)).to(counts.dtype)
            counts.lerp_(found, 1 - DECAY)
            sums.lerp_(torch.zeros_like(sums).index_add_(0, codes, residual), 1 - DECAY)
            dead = counts < DEAD * len(residual) / len(book)
            if n := int(dead.sum()):
                replacement = residual[torch.randint(len(residual), (n,), generator=generator)]
                even = float(counts.mean())
                counts[dead], sums[dead] = even, replacement * even
                revived += n
            book.copy_(sums / counts[:, None])
            whole = whole - book[codes]
            errors.append(whole.square().mean())
        return torch.stack(errors), revived


def nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """(N, D), (V, D) -> the index of the nearest entry, (N,)."""
    return (book.square().sum(-1) - 2 * vectors @ book.T).argmin(-1)
