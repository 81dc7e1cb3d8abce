"""The residual vector quantiser in training (Défossez et al., 2022, section 3.2). Codebook entries are
exponential moving averages of the vectors assigned to them; unused entries are replaced by random vectors.

Axes: N vectors, K codebooks, V entries a codebook, D dimension.
"""

import torch
from torch import Tensor, nn

DECAY = 0.99  # of the moving averages
DEAD = 0.02  # an entry with less than this share of the mean count is dead


class ResidualQuantizer(nn.Module):
    """Codebooks (K, V, D), and their moving averages: sums (K, V, D) and counts (K, V), 0 before training.

    n_first: the first codebook encodes only the last n_first dimensions, the others encode the rest. 0: all
    codebooks encode all dimensions.
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
        """(N, D) -> codes int64 (K, N): each codebook's nearest entry to the residual of those before."""
        residual, codes = vectors, []
        for book, sees in zip(self.codebooks, self.sees, strict=True):
            codes.append(nearest(residual * sees, book))
            residual = residual - book[codes[-1]]
        return torch.stack(codes)

    @torch.no_grad()
    def learn(self, vectors: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """Update on vectors (N, D). Return the mean squared error after each codebook (K,), and the number of
        replaced entries.

        generator: on the CPU, so that results are the same on every device.
        """
        whole, errors, revived = vectors, [], 0
        for book, sums, counts, sees in zip(self.codebooks, self.sums, self.counts, self.sees, strict=True):
            residual = whole * sees
            if not counts.any():  # first step: initialise entries with vectors of the batch
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
