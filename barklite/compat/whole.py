"""transformers' `BarkModel`: the three token models and the codec."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from barklite.config import CodecConfig, TokenConfig
from barklite.storage import checkpoint
from weights_convert import huggingface

from .configuration import BarkConfig
from .generation import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)
from .modeling import BarkCoarseModel, BarkFineModel, BarkSemanticModel, rows_of
from .modules import EncodecModel
from .pretrained import BarkPreTrainedModel, Source, accelerator
from .settings import by_stage, coarse_settings, fine_settings, plain
from .stages import noise_of, padded, synthesize


class BarkModel(BarkPreTrainedModel):
    """Text to audio: three token models, and `codec_model`, which is barklite's and stays float32."""

    def __init__(self, config: BarkConfig):
        super().__init__(config)
        self.semantic = BarkSemanticModel(config.semantic_config)
        self.coarse_acoustics = BarkCoarseModel(config.coarse_acoustics_config)
        self.fine_acoustics = BarkFineModel(config.fine_acoustics_config)
        codec, device = config.codec_config, torch.get_default_device()
        self._build_codec(huggingface.convert_codec_config(codec.to_dict(), codec.num_quantizers))
        if device.type != "meta":
            checkpoint.initialise(self.codec_model.to_empty(device=device))
        self.generation_config = BarkGenerationConfig()
        self.set_attn_implementation(config._attn_implementation)

    def _build_codec(self, config: CodecConfig, encoder: bool = True) -> None:
        with torch.device("meta"):
            self.codec_model = EncodecModel(replace(config, encoder=encoder))

    def _fill(self, source: Source, dtype: torch.dtype | None) -> None:
        for model in (self.semantic, self.coarse_acoustics, self.fine_acoustics):
            model._fill(source, dtype)
        if source.opened is not None:
            codec = source.opened.config.codec
            self._build_codec(codec, codec.encoder)
        state, origin = source.codec(self.codec_model.config)
        self.codec_model.fill(state, origin)
        self.generation_config = source.generation_config()

    def forward(self, *args, **kwargs):
        raise NotImplementedError("a whole Bark has no forward: use generate, or one of its models")

    def _save(self, directory: Path, state: Mapping[str, Tensor]) -> None:
        if self.codec_model.encoder is None:
            raise ValueError(
                "the codec was loaded without its encoder, which transformers needs: load Hugging Face's or "
                "Suno's files, or convert them with `barklite convert --encoder`"
            )
        self.generation_config.save_pretrained(directory)
        super()._save(directory, state)

    def enable_cpu_offload(self, accelerator_id: int | None = 0, **kwargs) -> None:
        """Keep the models on the CPU, and move each to the accelerator for its stage. Warns without one."""
        device = accelerator()
        if device is None:
            warnings.warn("there is no accelerator here: the models stay on the CPU", stacklevel=2)
            return
        self.to("cpu")
        for model in self._models():
            model._runs_on = torch.device(device.type, accelerator_id or 0)

    @torch.no_grad()
    def codec_decode(self, fine_output: Tensor, output_lengths: Sequence[int] | None = None) -> Tensor | list:
        """Codes (B, 8, T) -> audio at 24 kHz, (B, 320 T), or with lengths in frames a list of (320 n,).

        Frames of 1024, after the end of a row, are silent.
        """
        lengths = output_lengths
        if lengths is None:
            lengths = (fine_output[:, 0] < self.codec_model.config.codebook_size).sum(1).tolist()
        rows = [codes[:, : int(n)].to(self.device) for codes, n in zip(fine_output, lengths, strict=True)]
        with self._ready(self.codec_model):
            audio = synthesize(self.codec_model, rows)
        if output_lengths is not None:
            return audio
        hop = self.codec_model.config.hop
        return padded([*audio, torch.zeros(hop * fine_output.shape[2], device=self.device)], 0.0)[:-1]

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        history_prompt: Mapping | None = None,
        return_output_lengths: bool | None = None,
        **kwargs,
    ) -> Tensor | tuple[Tensor, list[int]]:
        """Tokenizer ids (B, up to 256) -> audio, float32 (B, samples) at 24 kHz, zeros after a row's end.

        history_prompt: a voice for all rows. return_output_lengths: return (audio, samples of each row).
        attention_mask: (B, up to 256). min_eos_p: of the semantic stage. Generation settings apply to all
        stages, or with the prefix `semantic_`, `coarse_` or `fine_` to one. A single row draws its noise from
        PyTorch's default generator, as in transformers; several rows draw one seed each from it, and give the
        same results as alone with those seeds. ValueError for an unknown or unsupported setting.
        """
        rows, g = rows_of(input_ids, "input_ids"), self.generation_config
        semantic_config = BarkSemanticGenerationConfig(**plain(g.semantic_config))
        coarse_config = BarkCoarseGenerationConfig(**plain(g.coarse_acoustics_config))
        fine_config = BarkFineGenerationConfig(**plain(g.fine_acoustics_config))
        semantic, coarse, fine = by_stage(kwargs)
        coarse_settings(coarse, coarse_config, TokenConfig())  # raises before the semantic stage runs
        fine_settings(fine, fine_config)
        shared = dict(history_prompt=history_prompt, semantic_generation_config=semantic_config)
        shared |= dict(_noise=noise_of(len(rows), self.device))
        tokens = self.semantic.generate(rows, **shared, **semantic)
        shared |= dict(coarse_generation_config=coarse_config, codebook_size=g.codebook_size)
        ids, lengths = self.coarse_acoustics.generate(tokens, return_output_lengths=True, **shared, **coarse)
        codes = self.fine_acoustics.generate(ids, fine_generation_config=fine_config, **shared, **fine)
        audio = self.codec_decode(codes, [int(n) // coarse_config.n_coarse_codebooks for n in lengths])
        sound = padded(audio, 0.0)
        return (sound, [len(row) for row in audio]) if return_output_lengths else sound


AutoModel = AutoModelForTextToWaveform = BarkModel  # the only one


def infer_device() -> str:
    """Return the accelerator's name, or "cpu"."""
    return getattr(accelerator(), "type", "cpu")
