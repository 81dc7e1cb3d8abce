"""The fine model: bidirectional; predicts codebook k from codebooks 0 to k (spec 3.5)."""

import torch
from torch import Tensor, nn

from ..config import FineConfig
from .gpt import Block, Embedding, cross_entropy


class FineGPT(nn.Module):
    """Predicts codebook k of a whole window; embedding and head share one table."""

    def __init__(self, config: FineConfig):
        super().__init__()
        self.config = config
        D, H = config.n_embd, config.n_head
        self.wtes = nn.ModuleList(Embedding(config.vocab_size, D) for _ in range(config.n_codes_total))
        self.wpe = Embedding(config.block_size, D)
        self.h = nn.ModuleList(Block(D, H, norm_bias=True) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(D)

    def forward(
        self,
        codebook: int,
        codes: Tensor | None = None,
        *,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        targets: Tensor | None = None,
        rows: slice = slice(None),
        vocab: slice = slice(None),
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of `codebook`, 1 to K-1, for the frames in `rows`; and the loss if `targets` are
        given.

        codes: int64 (B, K, T); codebooks 0 to `codebook` are read, `codebook` included (1024 where unknown).
        embeds: (B, T, D) instead, already summed. mask: bool, broadcastable
        to (B, H, T, T), True where attention is allowed. targets: int64 (B, T) of this codebook, -100 for
        none. Raises ValueError for codebook 0 or beyond the last, neither or both inputs, and too many
        frames.
        """
        K, most = self.config.n_codes_total, self.config.block_size
        if not 1 <= codebook < K:
            raise ValueError(f"codebook is {codebook}; the fine model predicts 1 to {K - 1}")
        if (codes is None) == (embeds is None):
            raise ValueError("give either codes or embeds")
        x = self.embed(codebook, codes) if embeds is None else embeds  # (B, T, D)
        if positions is None:
            if x.shape[1] > most:
                raise ValueError(f"{x.shape[1]} frames exceed the model's block_size {most}")
            positions = torch.arange(x.shape[1], device=x.device)
        x = x + self.wpe(positions)
        for block in self.h[:-1]:
            x = block(x, mask)
        if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
            mask = mask[..., rows, :]
        x = self.h[-1](x, mask, rows=rows)
        logits = self.wtes[codebook].attend(self.ln_f(x), vocab)
        return logits, None if targets is None else cross_entropy(logits, targets[:, rows])

    def embed(self, codebook: int, codes: Tensor) -> Tensor:
        """Embeddings of codebooks 0 .. `codebook`, added in this order: (B, K, T) -> (B, T, D)."""
        x = self.wtes[0](codes[:, 0])
        for k in range(1, codebook + 1):
            x = x + self.wtes[k](codes[:, k])
        return x
