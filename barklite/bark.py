"""`Bark`: owns the four models, their device, dtype and offload. Texts in, Clips out."""

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint, generate, hub, layouts, sampling, sentences
from . import quantize as quantizing
from .clip import Clip
from .codec import Codec
from .compile import check_compile, engine_for
from .config import BarkConfig, GenerationConfig, TokenConfig
from .fine import FineGPT
from .gpt import GPT
from .inputs import Rows, check_text, one_a_row, pick_device, pick_dtype, shortened, token_rows
from .tokenizer import KINDS, Bytes, Tokenizer, check_vocabulary
from .voice import Voice, unknown, voices

VoiceLike = Voice | str | os.PathLike | Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class Request:
    """One text to speak, for `Bark.generate_many`: the arguments are those of `generate`."""

    text: str
    voice: VoiceLike = None
    seed: int | None = None


class Bark:
    """Text to speech, music and sound effects. Make one with `from_pretrained` or `from_config`.

    `semantic`, `coarse`, `fine` and `codec` are plain modules, `tokenizer.encode(text)` gives ids before
    Bark's offset, `config` is the BarkConfig. Axes: K codebooks, T frames.
    """

    semantic: GPT
    coarse: GPT
    fine: FineGPT
    codec: Codec

    def __init__(
        self,
        config: BarkConfig,
        tokenizer: Tokenizer,
        models: Mapping[str, nn.Module],
        device: torch.device | str = "cpu",
        offload: bool = False,
        compile: bool = False,
    ):
        """Put together what is loaded. `models` has "semantic", "coarse", "fine" and "codec"."""
        check_vocabulary(tokenizer, config.tokens)
        self.config = config
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.offload = offload and self.device.type != "cpu"
        for name in checkpoint.MODELS:
            setattr(self, name, models[name].to("cpu" if self.offload else self.device))
            if self.offload and self.device.type == "cuda":  # pages that stay where they are copy faster
                for tensor in (*models[name].parameters(), *models[name].buffers()):
                    tensor.data = tensor.data.pin_memory()
        self.engine = engine_for(self.semantic, self.coarse, self.device) if compile else generate.PLAIN
        self._checkpoint: layouts.Checkpoint | None = None
        self._voice_hub = partial(hub.fetch_voice, hub.VOICES_REPO, None)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        compile: bool = False,
        quantize: str | None = None,
        offload: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> "Bark":
        """Load a checkpoint.

        name_or_path: a Hub id ("suno/bark-small", "suno/bark"), or a directory in barklite's, Hugging Face's
            or Suno's layout. None is the built-in model, which has random weights, makes noise and says so on
            stderr.
        device: None takes CUDA, else MPS, else the CPU.
        dtype: of the three token models' weights, None keeps the file's; the codec stays as stored, float32.
            On a CPU what is computed between the products is float32 always.
        compile: on the CPU and on CUDA, make the steps ready now, for speed: seconds to a minute the first
            time on a machine, less from then on. The CPU needs a C++ compiler (g++ or clang++) for it.
        quantize: "int8" or, on the CPU, "int4": smaller weights of the token models, which change the tokens.
        offload: keep the models on the CPU and move each to `device` for its stage.
        revision, local_files_only: for a Hub id.

        Raises FileNotFoundError or ValueError naming the file that is wrong, OSError if the Hub cannot be
        reached.
        """
        device, dtype = pick_device(device), pick_dtype(dtype)
        check_compile(compile, device)
        quantizing.check_format(quantize, device)
        if revision is not None and (name_or_path is None or Path(name_or_path).is_dir()):
            raise ValueError("a revision belongs to a Hub id, and none is given")
        if name_or_path is None:
            note = "barklite: no model named; the built-in one has random weights and only makes noise"
            print(f"{note} (try suno/bark-small)", file=sys.stderr)
            options = dict(device=device, dtype=dtype, compile=compile, quantize=quantize, offload=offload)
            return cls.from_config(BarkConfig.tiny(), **options)
        opened, repo = hub.find(os.fspath(name_or_path), revision, local_files_only)
        place, models = "cpu" if offload or quantize else device, {}
        for name in checkpoint.MODELS:
            models[name] = checkpoint.load_model(opened, name, place, None if name == "codec" else dtype)
            if name != "codec":
                mapped = (
                    opened.state(name) if quantize and device.type == "cpu" else {}
                )  # nothing is read yet
                quantizing.shrink(models[name], quantize, device, mapped.get("wte.weight"))
        bark = cls(opened.config, opened.tokenizer, models, device, offload, compile)
        bark._checkpoint = opened
        source = (repo, revision) if repo else (hub.VOICES_REPO, None)
        bark._voice_hub = partial(hub.fetch_voice, *source, local_files_only=local_files_only)
        return bark

    @classmethod
    def from_config(
        cls,
        config: BarkConfig,
        seed: int = 0,
        *,
        tokenizer: Tokenizer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        compile: bool = False,
        quantize: str | None = None,
        offload: bool = False,
    ) -> "Bark":
        """Random weights, for experiments: the same for the same config and seed. Needs no files.

        tokenizer: None reads UTF-8 bytes, since there is no vocabulary. The rest as in `from_pretrained`.
        """
        if not isinstance(config, BarkConfig):
            raise ValueError("config must be a BarkConfig, for example BarkConfig.small()")
        tokenizer = tokenizer or Bytes()
        kind = next((kind for kind, made in KINDS.items() if isinstance(tokenizer, made)), None)
        if kind is None:
            raise ValueError(f"tokenizer must be one of barklite.tokenizer's, not {type(tokenizer).__name__}")
        device, dtype = pick_device(device), pick_dtype(dtype)
        check_compile(compile, device)
        quantizing.check_format(quantize, device)
        generator, models = sampling.generator(seed), {}
        for name in checkpoint.MODELS:
            models[name] = checkpoint.random_model(config, name, generator)
            if name != "codec":
                models[name].to(dtype)
                quantizing.shrink(models[name], quantize, device)
        return cls(replace(config, tokenizer=kind), tokenizer, models, device, offload, compile)

    def save_pretrained(self, directory: str | os.PathLike, *, force: bool = False) -> None:
        """Write barklite's own checkpoint directory, whole or not at all; `from_pretrained` reads it back bit
        for bit.

        FileExistsError if the directory is not empty, unless it is a barklite checkpoint and `force` is set.
        ValueError for quantized models: they no longer have the weights that a checkpoint holds.
        """
        if quantizing.is_quantized(self.semantic):
            raise ValueError("quantized weights cannot be saved: save a Bark loaded without quantize")
        opened = self._checkpoint
        held = {name: opened.voice(name) for name in opened.voices} if opened else {}
        with checkpoint.new_directory(directory, force) as unfinished:
            for name in checkpoint.MODELS:
                checkpoint.write_model(unfinished, name, getattr(self, name).state_dict())
            checkpoint.write_rest(unfinished, self.config, self.tokenizer, held)

    # --- texts to clips -------------------------------------------------------------------------------------

    def generate(
        self,
        text: str,
        voice: VoiceLike = None,
        seed: int | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
    ) -> Clip:
        """Speak one text.

        voice: a name ("v2/en_speaker_6"), the path of an `.npz`, a Voice, or a mapping with the three arrays;
            None lets the model choose.
        seed: 0 to 2**32 - 1; None draws one, which the clip reports.
        config: None takes the checkpoint's.
        progress: bars on stderr; None: only on a terminal.

        ValueError, in words, for a text that is empty, not Unicode or over 256 tokens, and for a bad voice or
        setting.
        """
        if not isinstance(text, str):
            raise ValueError(f"generate takes one text, not {type(text).__name__}; see generate_batch")
        return self.generate_batch([text], [voice], [seed], config, progress)[0]

    def generate_batch(
        self,
        texts: Sequence[str],
        voices: VoiceLike | Sequence[VoiceLike] = None,
        seeds: Sequence[int | None] | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
    ) -> list[Clip]:
        """Speak several texts, each with its own voice and seed; a clip does not depend on its neighbours.

        voices: one for all, or a list with one (or None) a text. seeds: one a text. The rest as in
        `generate`.
        """
        config = self._settings(config)
        ids = self._ids(texts, config)
        voices = self._voices(voices, len(ids))
        seeds = one_a_row(seeds, len(ids), "seeds")
        seeds = [sampling.new_seed() if seed is None else sampling.check_seed(seed) for seed in seeds]
        generators = self._generators(seeds)

        timings: list[dict[str, float]] = [{} for _ in ids]
        spoken = self._semantic(ids, voices, generators, config, progress, timings)
        semantic = [tokens for tokens, _ in spoken]
        for text, tokens in zip(texts, semantic, strict=True):
            if len(tokens) == 0:
                warnings.warn(f"the model ended {shortened(text)} at once: try another seed", stacklevel=3)
        coarse = self._coarse(semantic, voices, generators, config, progress, timings)
        codes = self._fine(coarse, voices, generators, config, progress, timings)
        audio = self._decode(codes, timings)
        return [
            Clip(
                audio=audio[i].cpu().numpy(),
                sample_rate=self.config.codec.sample_rate,
                semantic=semantic[i].cpu().numpy(),
                codes=codes[i].cpu().numpy(),
                text=texts[i],
                seed=seeds[i],
                finish_reason=spoken[i][1],
                timings=timings[i],
                tokens=self.config.tokens,
            )
            for i in range(len(ids))
        ]

    def generate_many(
        self,
        requests: Iterable[Request | str],
        *,
        batch_size: int | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
        retries: int = 0,
    ) -> Iterator[tuple[int, Clip | Exception]]:
        """Speak any number of texts: (index, Clip) of each as it is ready, in no certain order.

        requests: read as they are needed, so a generator of a million is fine. A request that fails gives
        (index, its ValueError or OSError), and the rest go on.
        """
        for i, request in enumerate(requests):
            request = Request(request) if isinstance(request, str) else request
            try:
                yield i, self.generate(request.text, request.voice, request.seed, config, progress)
            except (ValueError, OSError) as error:
                yield i, error

    def stream(
        self,
        text: str,
        voice: VoiceLike = None,
        seed: int | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
    ) -> Iterator[Clip]:
        """Speak a text of any length: a Clip a sentence, as soon as it is ready.

        Without a `voice` the first clip's own is kept throughout. Sentence i is drawn with seed + i. Bad
        input raises ValueError here and now, not at the first clip.
        """
        config = self._settings(config)
        check_text(text)
        voice = self._voice(voice)
        seed = sampling.new_seed() if seed is None else sampling.check_seed(seed)
        pieces = sentences.split(
            text, lambda piece: len(self._encode(piece, config)) <= self.config.tokens.n_text
        )
        pieces = [piece for piece in pieces if self._encode(piece, config)]  # a lone mark has nothing to say
        if not pieces:
            raise ValueError("the text is empty: there is nothing to speak")
        return self._stream(pieces, voice, seed, config, progress)

    def _stream(self, pieces: list[str], voice: Voice | None, seed: int, config, progress) -> Iterator[Clip]:
        for i, piece in enumerate(pieces):
            clip = self.generate(piece, voice, (seed + i) % (sampling.MAX_SEED + 1), config, progress)
            yield clip
            if voice is None and i + 1 < len(pieces):
                with contextlib.suppress(ValueError):  # too short to be a voice; the next one may be
                    voice = clip.voice()

    # --- the stages -----------------------------------------------------------------------------------------

    def text_to_semantic(
        self,
        texts: Sequence[str],
        voices: VoiceLike | Sequence[VoiceLike] = None,
        seeds: Sequence[int | torch.Generator | None] | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
    ) -> list[Tensor]:
        """Texts -> semantic tokens, a list of int64 (N_i,) on the model's device, 49.9 a second (spec 4.1).

        voices, seeds: one a row. A seed may be a torch.Generator, whose noise is then continued: hand the
        same generators to the three stages and they give what `generate` gives.
        """
        config = self._settings(config)
        ids = self._ids(texts, config)
        voices, generators = (
            self._voices(voices, len(ids)),
            self._generators(one_a_row(seeds, len(ids), "seeds")),
        )
        return [tokens for tokens, _ in self._semantic(ids, voices, generators, config, progress)]

    def semantic_to_coarse(
        self,
        rows: Rows,
        voices: VoiceLike | Sequence[VoiceLike] = None,
        seeds: Sequence[int | torch.Generator | None] | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
    ) -> list[Tensor]:
        """Semantic tokens (N_i,) -> codes of the first two codebooks, a list of int64 (2, T_i) (spec 4.2)."""
        config, t = self._settings(config), self.config.tokens
        rows = token_rows(rows, "semantic row", None, t.semantic_vocab_size, self.device)
        voices, generators = (
            self._voices(voices, len(rows)),
            self._generators(one_a_row(seeds, len(rows), "seeds")),
        )
        return self._coarse(rows, voices, generators, config, progress)

    def coarse_to_fine(
        self,
        rows: Rows,
        voices: VoiceLike | Sequence[VoiceLike] = None,
        seeds: Sequence[int | torch.Generator | None] | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
    ) -> list[Tensor]:
        """Codes of the first k codebooks (k, T_i), k < 8, usually 2 -> all, int64 (8, T_i) (spec 4.3)."""
        config, t = self._settings(config), self.config.tokens
        rows = token_rows(rows, "coarse row", range(1, t.n_codebooks), t.codebook_size, self.device)
        voices, generators = (
            self._voices(voices, len(rows)),
            self._generators(one_a_row(seeds, len(rows), "seeds")),
        )
        return self._fine(rows, voices, generators, config, progress)

    def decode(self, rows: Rows) -> list[Tensor]:
        """Codes (k, T_i) of the first k codebooks -> audio at 24 kHz, a list of float32 (320 T_i,)."""
        t = self.config.tokens
        return self._decode(
            token_rows(rows, "codes row", range(1, t.n_codebooks + 1), t.codebook_size, self.device)
        )

    # --- how rows go through a stage ------------------------------------------------------------------------

    def _semantic(self, ids, voices, generators, config, progress, timings=None) -> list[tuple[Tensor, str]]:
        t = self.config.tokens
        total = config.semantic_limit(t) * len(ids)
        stage = partial(generate.text_to_semantic, config=config, tokens=t, engine=self.engine)
        return self._each("semantic", stage, (ids, voices, generators), total, progress, timings)

    def _coarse(self, rows, voices, generators, config, progress, timings=None) -> list[Tensor]:
        t = self.config.tokens
        total = sum(t.coarse_steps(len(row)) for row in rows)
        stage = partial(generate.semantic_to_coarse, config=config, tokens=t, engine=self.engine)
        return self._each("coarse", stage, (rows, voices, generators), total, progress, timings)

    def _fine(self, rows, voices, generators, config, progress, timings=None) -> list[Tensor]:
        t = self.config.tokens
        seen = [0 if voice is None else min(voice.fine.shape[1], t.max_fine_history) for voice in voices]
        passes = [
            len(generate.fine_windows(row.shape[1], n, t)) * (t.n_codebooks - len(row))
            for row, n in zip(rows, seen, strict=True)
        ]
        stage = partial(generate.coarse_to_fine, config=config, tokens=t, engine=self.engine)
        return self._each("fine", stage, (rows, voices, generators), sum(passes), progress, timings)

    def _decode(self, rows, timings=None) -> list[Tensor]:
        @torch.no_grad()
        def stage(codec: Codec, codes: Tensor, tick: Callable) -> Tensor:
            return self.engine.decode_audio(codec, codes[None])[0].float()

        return self._each("codec", stage, (rows,), 0, False, timings)

    def _each(self, name: str, stage: Callable, columns: tuple, total: int, progress, timings) -> list:
        """`stage` of every row, its model on the device, a bar on stderr; seconds go into `timings`."""
        from tqdm import tqdm

        results, hidden = [], None if progress is None else not progress
        with self._resident(name) as model, tqdm(total=total, desc=name, leave=False, disable=hidden) as bar:
            for i, row in enumerate(zip(*columns, strict=True)):
                start = time.perf_counter()
                results.append(stage(model, *row, tick=bar.update))
                if timings is not None:
                    if self.device.type != "cpu":
                        torch.accelerator.synchronize(self.device)
                    timings[i][name] = time.perf_counter() - start
        return results

    @contextlib.contextmanager
    def _resident(self, name: str) -> Iterator[nn.Module]:
        """A stage's model on the device. With offload its weights stay on the CPU: a copy comes and goes."""
        model = getattr(self, name)
        if not self.offload:
            yield model
            return
        kept = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]
        try:
            for tensor, data in kept:
                tensor.data = data.to(self.device, non_blocking=True)
            yield model
        finally:
            for tensor, data in kept:
                tensor.data = data

    # --- what callers give, checked -------------------------------------------------------------------------

    def _settings(self, config: GenerationConfig | None) -> GenerationConfig:
        config = self.config.generation if config is None else config
        if not isinstance(config, GenerationConfig):
            raise ValueError(f"config must be a GenerationConfig, not {type(config).__name__}")
        self.config.check(config)
        return config

    def _encode(self, text: str, config: GenerationConfig) -> list[int]:
        if config.rules == "suno":
            text = re.sub(r"\s+", " ", text).strip()  # transformers leaves white space to the tokenizer (D1)
        return self.tokenizer.encode(text)

    def _ids(self, texts: Sequence[str], config: GenerationConfig) -> list[list[int]]:
        """Ids of each text, at most 256; ValueError for a text that cannot be spoken."""
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError("texts must be a list of strings")
        limit, rows = self.config.tokens.n_text, []
        for text in texts:
            check_text(text)
            ids = self._encode(text, config)
            if not ids:
                raise ValueError(f"the text {shortened(text)} is empty: there is nothing to speak")
            if len(ids) > limit and not config.truncate:
                raise ValueError(
                    f"the text {shortened(text)} has {len(ids)} tokens, and the model reads {limit}: "
                    "use stream(), which splits it into sentences (on the command line: -i FILE), "
                    "or GenerationConfig(truncate=True)"
                )
            if len(ids) > limit:
                lost = round((len(ids) - limit) / len(ids) * 100, 1)
                warnings.warn(
                    f"the text {shortened(text)} is too long: its last {lost} % are cut", stacklevel=4
                )
            rows.append(ids[:limit])
        return rows

    def _voices(self, given: VoiceLike | Sequence[VoiceLike], n: int) -> list[Voice | None]:
        if given is None or isinstance(given, (Voice, str, os.PathLike, Mapping)):
            return [self._voice(given)] * n
        return [self._voice(voice) for voice in one_a_row(given, n, "voices")]

    def _voice(self, voice: VoiceLike) -> Voice | None:
        tokens = self.config.tokens
        if voice is None:
            return None
        if isinstance(voice, Voice):
            return replace(voice, tokens=tokens)  # checked against this model
        if isinstance(voice, Mapping):
            return Voice.from_arrays(voice, tokens=tokens)
        if not isinstance(voice, (str, os.PathLike)):
            raise ValueError(f"a voice is a name, a path, a Voice or arrays, not {type(voice).__name__}")
        name = os.fspath(voice)
        if name.endswith(".npz"):
            return Voice.load(name, tokens)
        held = self._checkpoint.voices if self._checkpoint else []
        released = voices() if tokens == TokenConfig() else []  # Suno's voices speak Bark's ids only
        if name in held:
            return self._checkpoint.voice(name)
        if name in released:
            return self._voice_hub(name, tokens)
        raise unknown(name, [*held, *released])

    def _generators(self, seeds: Sequence[int | torch.Generator | None]) -> list[torch.Generator]:
        """A row's own source of noise, on the device where the models compute."""
        return [
            seed
            if isinstance(seed, torch.Generator)
            else sampling.generator(sampling.new_seed() if seed is None else seed, self.device)
            for seed in seeds
        ]
