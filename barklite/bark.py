"""`Bark`: owns the four models, their device, dtype and offload. Texts in, Clips out."""

import contextlib
import numbers
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .analysis import score
from .analysis.score import Scores
from .clip import Clip
from .config import BarkConfig, GenerationConfig
from .decode import generate, sampling, stream
from .decode.engine import PLAIN
from .decode.pipeline import PREFIX_FRAMES, Bars, Job, Pipeline, decode_audio
from .decode.slots import Slots, passes, through
from .models.codec import Codec
from .models.fine import FineGPT
from .models.gpt import GPT
from .speed import quantize as quantizing
from .speed.compiled import check_compile, engine_for
from .storage import checkpoint, hub
from .storage import formats as layouts
from .text import sentences
from .text.tokenizer import KINDS, Bytes, Tokenizer, check_vocabulary
from .validation import (
    Rows,
    check_text,
    free_memory,
    is_seconds,
    mono,
    one_a_row,
    pick_device,
    pick_dtype,
    shortened,
    token_rows,
    tokens_to_score,
)
from .voice import Voice, known, unknown

VoiceLike = Voice | str | os.PathLike | Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class Request:
    """One text to speak, for `Bark.generate_many`: the arguments are those of `generate`."""

    text: str
    voice: VoiceLike = None
    seed: int | None = None

    @classmethod
    def of(cls, given: "Request | str | Mapping") -> "Request":
        """A text alone, or a mapping with these entries, as a Request. ValueError for anything else."""
        if isinstance(given, Request):
            return given
        given = {"text": given} if isinstance(given, str) else given
        if not isinstance(given, Mapping) or "text" not in given:
            raise ValueError(f"a request is a Request, a text or a mapping with a text, not {given!r:.60}")
        if unknown := [key for key in given if key not in ("text", "voice", "seed")]:
            raise ValueError(f"a request has text, voice and seed, but no {unknown[0]!r}")
        return cls(**given)


class Bark:
    """Text to speech, music and sound effects. Make one with `from_pretrained` or `from_config`.

    `semantic`, `coarse`, `fine` and `codec` are plain modules, `tokenizer.encode(text)` gives ids before
    Bark's offset, `config` is the BarkConfig. Axes: K codebooks, T frames. The docstrings have the numbers of
    Suno's models (8 codebooks, 75 frames a second, 320 samples a frame); another model's are in `config`.
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
        self.engine = engine_for(self.semantic, self.coarse, self.device) if compile else PLAIN
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
        encoder: bool = False,
    ) -> "Bark":
        """Load a checkpoint.

        name_or_path: a Hub id ("suno/bark-small", "suno/bark"), or a directory in barklite's, Hugging Face's
            or Suno's layout. None is the model that comes with barklite: small, English, trained on synthetic
            speech; it needs no network.
        device: None takes CUDA, else MPS, else the CPU.
        dtype: of the three token models' weights. None keeps the file's; the built-in model becomes float32,
            for its 16 bits only make it smaller to ship. The codec is float32 always, and on a CPU what is
            computed between the products is too.
        compile: on the CPU and on CUDA, make the steps ready now, for speed: seconds to a minute the first
            time on a machine, less from then on. The CPU needs a C++ compiler (g++ or clang++) for it.
        quantize: "int8" or, on the CPU, "int4": smaller weights of the token models, which change the tokens.
        offload: keep the models on the CPU and move each to `device` for its stage.
        revision, local_files_only: for a Hub id; nothing else is ever fetched.
        encoder: load the codec's encoder too, for `encode`; it is converted with the rest when asked for.

        Raises FileNotFoundError or ValueError naming the file that is missing or wrong, OSError if the Hub
        cannot be reached.
        """
        device, dtype = pick_device(device), pick_dtype(dtype)
        check_compile(compile, device)
        quantizing.check_format(quantize, device)
        if revision is not None and (name_or_path is None or Path(name_or_path).is_dir()):
            raise ValueError("a revision belongs to a Hub id, and none is given")
        if name_or_path is None:
            opened, repo = layouts.open_built_in(encoder), None
            dtype = torch.float32 if dtype is None else dtype
        else:
            opened, repo = hub.find(os.fspath(name_or_path), revision, local_files_only, encoder)
        place, models = "cpu" if offload or quantize else device, {}
        for name in checkpoint.MODELS:
            wanted = torch.float32 if name == "codec" else dtype
            models[name] = checkpoint.load_model(opened, name, place, wanted)
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
            raise ValueError(
                f"tokenizer must be one of barklite.text.tokenizer's, not {type(tokenizer).__name__}"
            )
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

    @property
    def voices(self) -> list[str]:
        """The names that `voice` can have: the checkpoint's own, and Suno's if the model has Bark's ids."""
        return known(self._own_voices, self.config.tokens)

    @property
    def _own_voices(self) -> list[str]:
        return self._checkpoint.voices if self._checkpoint else []

    # --- texts to clips -------------------------------------------------------------------------------------

    def generate(
        self,
        text: str,
        voice: VoiceLike = None,
        seed: int | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
        retries: int = 0,
    ) -> Clip:
        """Speak one text.

        voice: one of `Bark.voices`, the path of an `.npz`, a Voice, or a mapping with the three arrays; None
            lets the model choose.
        seed: 0 to 2**32 - 1; None draws one, which the clip reports.
        config: None takes the checkpoint's.
        progress: bars on stderr; None: only on a terminal.
        retries: how often to try another seed if the text does not end within the length limit, or nothing is
            said. The clip reports the seed that it has.

        ValueError, in words, for a text that is empty, not Unicode or over 256 tokens, and for a bad voice or
        setting.
        """
        if not isinstance(text, str):
            raise ValueError(f"generate takes one text, not {type(text).__name__}; see generate_batch")
        return self.generate_batch([text], [voice], [seed], config, progress, retries=retries)[0]

    def generate_batch(
        self,
        texts: Sequence[str],
        voices: VoiceLike | Sequence[VoiceLike] = None,
        seeds: Sequence[int | None] | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
        *,
        batch_size: int | None = None,
        retries: int = 0,
    ) -> list[Clip]:
        """Speak several texts together, each with its own voice and seed; a clip does not depend on its
        neighbours.

        voices: one for all, or a list with one (or None) a text. seeds: one a text. batch_size: see
        `generate_many`. The rest as in `generate`.
        """
        config = self._settings(config)
        ids = self._ids(texts, config)
        voices = self._voices(voices, len(ids))
        seeds = one_a_row(seeds, len(ids), "seeds")
        seeds = [sampling.new_seed() if seed is None else sampling.check_seed(seed) for seed in seeds]
        jobs = [
            Job(i, *row, sampling.generator(row[-1], self.device))
            for i, row in enumerate(zip(texts, ids, voices, seeds, strict=True))
        ]
        size = min(self._batch_size(batch_size, config), max(1, len(jobs)))
        with Bars(progress) as bars:
            for job in self._pipeline(config, size, retries, bars).run(iter(jobs)):
                if job.error is not None:
                    raise job.error
        for job in jobs:
            if len(job.semantic) == 0:
                warnings.warn(
                    f"the model ended {shortened(job.text)} at once: try another seed", stacklevel=3
                )
        return [self._clip(job) for job in jobs]

    def generate_many(
        self,
        requests: Iterable[Request | str | Mapping],
        *,
        batch_size: int | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
        retries: int = 0,
    ) -> Iterator[tuple[int, Clip | Exception]]:
        """Speak any number of texts: (index, Clip) of each as soon as it is ready, in no certain order.

        requests: each a Request, a text, or a mapping with "text" and perhaps "voice" and "seed"; read as
            they are needed, so memory does not grow with their number. One that cannot be spoken gives
            (index, its ValueError or OSError), and the rest go on. Two batches are read before the first
            clip comes.
        batch_size: how many are spoken at a time; as one ends, the next begins. None is 8 on a CPU, else 32,
            or fewer where memory is short.
        progress: a bar that counts clips. The rest as in `generate`.

        A clip does not depend on the batch size and its neighbours (with weights of 16 bits or less as far as
        rounding goes, which can change tokens). Bad settings raise ValueError at once.
        """
        if isinstance(requests, (str, Request, Mapping)) or not isinstance(requests, Iterable):
            raise ValueError(f"requests must be an iterable of Request or str, not {type(requests).__name__}")
        config = self._settings(config)
        pipeline = self._pipeline(config, self._batch_size(batch_size, config), retries)
        return self._many(requests, pipeline, config, progress)

    def _many(self, requests, pipeline: Pipeline, config, progress) -> Iterator[tuple[int, Clip | Exception]]:
        from tqdm import tqdm

        total = len(requests) if isinstance(requests, Sized) else None
        voices: dict[str, Voice | None] = {}  # of this call, by name

        def jobs() -> Iterator[Job]:
            for i, request in enumerate(requests):
                yield self._job(i, request, config, voices)

        hidden = None if progress is None else not progress
        with tqdm(total=total, desc="clips", leave=False, disable=hidden, smoothing=0) as bar:
            for job in pipeline.run(jobs()):
                bar.update()
                yield job.index, self._clip(job) if job.error is None else job.error

    def _job(self, index: int, request: Request, config: GenerationConfig, voices: dict) -> Job:
        """A request, checked; what is wrong with it is the job's error."""
        try:
            request = Request.of(request)
            (ids,) = self._ids([request.text], config)
            seed = sampling.new_seed() if request.seed is None else sampling.check_seed(request.seed)
            voice = request.voice
            if isinstance(voice, (str, os.PathLike)):
                name = os.fsdecode(voice)
                if name not in voices:
                    if len(voices) >= 64:
                        voices.pop(next(iter(voices)))
                    voices[name] = self._voice(voice)
                voice = voices[name]
            else:
                voice = self._voice(voice)
            return Job(index, request.text, ids, voice, seed, sampling.generator(seed, self.device))
        except (ValueError, OSError) as error:
            return Job(index, getattr(request, "text", ""), error=error)

    def _batch_size(self, given: int | None, config: GenerationConfig) -> int:
        """Rows at a time. None is as many as are worth it and as memory, half of what is free, holds."""
        if given is None:
            most = 8 if self.device.type == "cpu" else 32
            free = free_memory(self.device)
            if free is None:
                return most
            t = self.config.tokens
            lengths = generate.semantic_length(config, t), generate.coarse_length(config, t)
            models = self.semantic, self.coarse
            row = sum(map(self.engine.row_bytes, models, lengths))
            return max(1, min(most, free // 2 // row))
        if not isinstance(given, numbers.Integral) or isinstance(given, bool) or given < 1:
            raise ValueError(f"batch_size is {given!r}; it must be a whole number from 1 on")
        return int(given)

    def _pipeline(
        self, config, size: int, retries: int, bars: Bars | None = None, sound: bool = True, stack=None
    ) -> Pipeline:
        if not isinstance(retries, numbers.Integral) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"retries is {retries!r}; it must be a whole number from 0 on")
        if stack is None:  # clips that wait for each other, where passes with few rows waste a device
            stack = 1 if self.device.type == "cpu" else size if self.offload else max(1, size // 4)
        return Pipeline(
            self._resident,
            self.engine,
            config,
            self.config.tokens,
            size,
            stack=stack,
            in_turn=self.offload,
            retries=int(retries),
            bars=bars,
            sound=sound,
        )

    def _clip(self, job: Job, silence: np.ndarray | None = None, since: float | None = None) -> Clip:
        audio = np.zeros(0, np.float32) if job.audio is None else job.audio.numpy()
        return Clip(
            audio=audio if silence is None else np.concatenate((audio, silence)),
            sample_rate=self.config.codec.sample_rate,
            semantic=job.semantic.cpu().numpy(),
            codes=job.codes.cpu().numpy(),
            text=job.text,
            seed=job.seed,
            finish_reason=job.finish_reason,
            timings=job.timings,
            first_audio=None if since is None else time.perf_counter() - since,
            eos_p=np.array(job.eos_p, dtype=np.float32),
            tokens=self.config.tokens,
        )

    def stream(
        self,
        text: str,
        voice: VoiceLike = None,
        seed: int | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
        *,
        pause: float = 0.25,
        batch_size: int | None = None,
        retries: int = 0,
    ) -> Iterator[Clip]:
        """Speak a text of any length: a Clip a sentence, in their order, each as soon as it is ready.

        voice: None keeps the first clip's own throughout.
        seed: of the first sentence; sentence i has seed + i.
        pause: seconds of silence at the end of every clip but the last: joined, their audio is the whole.
        batch_size: sentences spoken at a time after the first, which is spoken alone, to be heard soon. The
            rest as in `generate` and `generate_many`.

        A clip's `first_audio` is how long after the first was asked for it was ready. Bad input raises
        ValueError here and now, not at the first clip.
        """
        silence = self._silence(pause)
        spoken = self._sentences(text, voice, seed, config, progress, batch_size, retries)
        return self._clips(spoken, silence)

    def _clips(self, spoken, silence: np.ndarray) -> Iterator[Clip]:
        since = time.perf_counter()
        for job, more in spoken:
            yield self._clip(job, silence if more else None, since)

    def stream_audio(
        self,
        text: str,
        voice: VoiceLike = None,
        seed: int | None = None,
        config: GenerationConfig | None = None,
        progress: bool | None = False,
        *,
        pause: float = 0.25,
        piece: float = 0.5,
        batch_size: int | None = None,
        retries: int = 0,
    ) -> Iterator[np.ndarray]:
        """The sound of `stream` in pieces of `piece` seconds, float32 (n,), decoded one by one.

        Joined, they are what `stream` gives, to rounding. The arguments are those of `stream`.
        """
        silence, codec = self._silence(pause), self.config.codec
        if not is_seconds(piece) or piece == 0:
            raise ValueError(f"piece is {piece!r}; it must be a number of seconds")
        frames = max(PREFIX_FRAMES, round(piece * codec.sample_rate / codec.hop))
        spoken = self._sentences(text, voice, seed, config, progress, batch_size, retries, sound=False)
        return self._pieces(spoken, frames, silence)

    def _pieces(self, spoken, frames: int, silence: np.ndarray) -> Iterator[np.ndarray]:
        for job, more in spoken:
            pieces = stream.decode_in_pieces(self.codec, job.codes, frames)
            while True:
                with self._resident("codec"):  # not while the caller plays
                    sound = next(pieces, None)
                if sound is None:
                    break
                yield sound.float().cpu().numpy()
            if more and len(silence):
                yield silence

    def _sentences(
        self, text, voice, seed, config, progress, batch_size, retries, sound: bool = True
    ) -> Iterator[tuple[Job, bool]]:
        """Jobs that are done, a sentence each, and whether more follow. Bad input raises now."""
        config, voice = self._settings(config), self._voice(voice)
        check_text(text)
        seed = sampling.new_seed() if seed is None else sampling.check_seed(seed)
        limit = self.config.tokens.n_text
        pieces = sentences.split(text, lambda piece: len(self._encode(piece, config)) <= limit)
        pieces = [(piece, ids) for piece in pieces if (ids := self._encode(piece, config))]  # no lone marks
        if not pieces:
            raise ValueError("the text is empty to this model: it reads no word in it")
        if any(len(ids) > limit for _, ids in pieces):
            raise ValueError(f"a single character of the text has more than {limit} tokens")

        def job(i: int, voice: Voice | None) -> Job:
            own = (seed + i) % (sampling.MAX_SEED + 1)
            return Job(i, *pieces[i], voice, own, sampling.generator(own, self.device))

        size = min(self._batch_size(batch_size, config), len(pieces))
        alone, rest = (self._pipeline(config, n, retries, sound=sound, stack=1) for n in (1, size))
        in_order = stream.in_order(alone, rest, job, len(pieces), voice, lambda job: self._clip(job).voice())
        return stream.counted(in_order, [len(piece) for piece, _ in pieces], progress)

    def _silence(self, seconds: float) -> np.ndarray:
        if not is_seconds(seconds):
            raise ValueError(f"pause is {seconds!r}; it must be a number of seconds")
        return np.zeros(round(seconds * self.config.codec.sample_rate), dtype=np.float32)

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
        config, t = self._settings(config), self.config.tokens
        ids = self._ids(texts, config)
        voices, generators = self._each(voices, seeds, len(ids))
        rows = zip(ids, voices, strict=True)
        made = self._decoded(
            "semantic",
            lambda model: (generate.semantic_row(model, *row, config, t) for row in rows),
            generators,
            generate.semantic_length(config, t),
            config.semantic_limit(t) * len(ids),
            config,
            progress,
        )
        return [tokens for tokens, *_ in made]

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
        voices, generators = self._each(voices, seeds, len(rows))
        given = zip(rows, voices, strict=True)
        made = self._decoded(
            "coarse",
            lambda model: (generate.coarse_row(model, *row, config, t) for row in given),
            generators,
            generate.coarse_length(config, t),
            sum(t.coarse_steps(len(row)) for row in rows),
            config,
            progress,
        )
        return [generate.coarse_codes(ids, t) for ids in made]

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
        voices, generators = self._each(voices, seeds, len(rows))
        given, size, made = (
            list(zip(rows, voices, generators, strict=True)),
            self._batch_size(None, config),
            [],
        )
        with Bars(progress) as bars, self._resident("fine") as model:
            bars.expect("fine", sum(generate.fine_passes(row, voice, t) for row, voice, _ in given))
            for i in range(0, len(given), size):
                some = [generate.fine_row(model, *row, config, t) for row in given[i : i + size]]
                made += passes(model, some, t, self.engine, lambda n: bars.tick("fine", n))
        return [done.get() for done in made]

    def decode(self, rows: Rows) -> list[Tensor]:
        """Codes (k, T_i) of the first k codebooks -> audio at 24 kHz, a list of float32 (320 T_i,)."""
        t = self.config.tokens
        rows = token_rows(rows, "codes row", range(1, t.n_codebooks + 1), t.codebook_size, self.device)
        with self._resident("codec") as codec:
            return decode_audio(codec, rows, self.engine)

    @torch.no_grad()
    def encode(
        self, audio: np.ndarray | Tensor | str | os.PathLike, sample_rate: int | None = None
    ) -> Tensor:
        """A recording -> codes, int64 (8, T), 75 frames a second, which `decode` turns into sound (spec 6.4).

        audio: (samples,), floats in [-1, 1] or integers of PCM, at `sample_rate` (None: the codec's 24 kHz);
            or the path of a WAV of any rate, whose channels are averaged.

        Needs the codec's encoder: `from_pretrained(..., encoder=True)`. ValueError without it, or for what is
        no sound.
        """
        sound = mono(audio, sample_rate, self.config.codec.sample_rate)
        with self._resident("codec") as codec:
            weight = codec.codebooks
            return codec.encode(sound.to(weight.device, weight.dtype)[None], self.config.tokens.n_codebooks)[
                0
            ]

    # --- tokens to probabilities ----------------------------------------------------------------------------

    @torch.no_grad()
    def score(
        self,
        clip: "Clip | tuple[Tensor | np.ndarray | None, Tensor | np.ndarray | None]",
        text: str | None = None,
        voice: VoiceLike = None,
        config: GenerationConfig | None = None,
    ) -> Scores:
        """Log-probabilities of a clip's tokens, each given all before it, for a text and a voice.

        clip: a Clip, or (semantic, codes): (N,) and (8, T), or (2, T) to leave the fine stage out. None
            instead of codes scores the semantic stage alone; None instead of semantic the fine stage alone.
        text: None takes the clip's own. voice: the one it was spoken with; a clip does not remember it.
        config: its `max_coarse_history` and `rules` count; sampling settings do not.

        ValueError for tokens outside the models' ranges, or lengths that do not belong together.
        """
        if isinstance(clip, Clip):
            clip, text = (clip.semantic, clip.codes), clip.text if text is None else text
        config, t, voice = self._settings(config), self.config.tokens, self._voice(voice)
        semantic, codes = tokens_to_score(clip, self.config, self.device)
        if semantic is not None and text is None:
            raise ValueError("the text is missing: semantic tokens are scored for one")
        scores: dict = dict.fromkeys(("semantic", "eos", "coarse", "fine"))
        if semantic is not None:
            (ids,) = self._ids([text], config)
            with self._resident("semantic") as model:
                scores["semantic"], eos = score.score_semantic(model, semantic, ids, voice, config, t)
            scores["eos"] = None if eos is None else float(eos)
            if codes is not None:
                with self._resident("coarse") as model:
                    coarse = codes[: t.n_coarse]
                    scores["coarse"] = score.score_coarse(model, coarse, semantic, voice, config, t)
        if codes is not None and len(codes) == t.n_codebooks:
            with self._resident("fine") as model:
                scores["fine"] = score.score_fine(model, codes, voice, config, t)
        numpy = {name: one.cpu().numpy() for name, one in scores.items() if isinstance(one, Tensor)}
        return Scores(**(scores | numpy))

    def _decoded(
        self, name: str, coroutines: Callable, generators, length: int, total: int, config, progress
    ) -> list:
        """What the rows' coroutines return; together they go through the stage `name`."""
        results = [None] * len(generators)
        size = min(self._batch_size(None, config), max(1, len(generators)))
        with Bars(progress) as bars, self._resident(name) as model:
            bars.expect(name, total)
            slots = Slots(name, model, size, length, self.engine, lambda n: bars.tick(name, n))
            try:
                rows = zip(range(len(results)), coroutines(model), generators, strict=True)
                for done in through(slots, rows):
                    results[done.key] = done.get()
            finally:
                slots.close()
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
        return self.config.fitted(config)

    def _encode(self, text: str, config: GenerationConfig) -> list[int]:
        if config.rules == "suno":
            text = re.sub(r"\s+", " ", text).strip()  # transformers leaves white space to the tokenizer (D1)
        return self.tokenizer.encode(text)

    def _ids(self, texts: Sequence[str], config: GenerationConfig) -> list[list[int]]:
        """Ids of each text, at most n_text; ValueError for a text that cannot be spoken."""
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError("texts must be a list of strings")
        limit, rows = self.config.tokens.n_text, []
        for text in texts:
            check_text(text)
            ids = self._encode(text, config)
            if not ids:
                raise ValueError(f"the text {shortened(text)} is empty to this model: it reads no word in it")
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
        name = os.fsdecode(voice)
        if name.endswith(".npz"):
            return Voice.load(name, tokens)
        if name in self._own_voices:
            return Voice.from_arrays(self._checkpoint.voice(name), name, tokens)
        if name in self.voices:
            return Voice.from_arrays(self._voice_hub(name, tokens), name, tokens)
        raise unknown(name, self._own_voices, tokens)

    def _each(self, voices, seeds, n: int) -> tuple[list[Voice | None], list[torch.Generator]]:
        """A voice and a source of noise for each of n rows."""
        return self._voices(voices, n), self._generators(one_a_row(seeds, n, "seeds"))

    def _generators(self, seeds: Sequence[int | torch.Generator | None]) -> list[torch.Generator]:
        """A row's own source of noise, on the device where the models compute."""
        given = [seed for seed in seeds if isinstance(seed, torch.Generator)]
        if len({id(generator) for generator in given}) < len(given):
            raise ValueError("two rows have the same generator: give each row its own")
        return [
            seed
            if isinstance(seed, torch.Generator)
            else sampling.generator(sampling.new_seed() if seed is None else seed, self.device)
            for seed in seeds
        ]
