"""`Bark` holds the four models and turns texts into Clips."""

import contextlib
import functools
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .analysis import score
from .analysis.score import Scores
from .clip import Clip
from .config import BarkConfig, CompileConfig, GenerationConfig, LoadOptions, RunOptions
from .decode import sampling, streaming
from .decode.batch import PREFIX_FRAMES, run_stage, synthesize
from .decode.engine import PLAIN, Engine
from .decode.pipeline import Pipeline, ProgressBars, RequestState
from .decode.stages import CoarseStage, FineStage, SemanticStage
from .messages import shortened
from .models.codec import Codec
from .models.fine import FineGPT
from .models.gpt import GPT
from .speed import quantize as quantizing
from .speed.compiled import check_compile, engine_for
from .speed.memory import keep_freed_memory
from .storage import checkpoint, formats, hub
from .text import sentences
from .text.tokenizer import KINDS, Bytes, Tokenizer, check_vocabulary
from .validation import (
    Rows,
    check_text,
    free_memory,
    mono,
    one_a_row,
    pick_device,
    pick_dtype,
    token_rows,
    tokens_to_score,
)
from .voice import Voice, unknown_voice, voice_names

VoiceLike = Voice | str | os.PathLike | Mapping[str, np.ndarray] | None
VoicesLike = VoiceLike | Sequence[VoiceLike]
Seeds = Sequence[int | torch.Generator | None] | None


@dataclass(frozen=True)
class Request:
    """One text to speak, for `Bark.generate_many`: the arguments are those of `generate`."""

    text: str
    voice: VoiceLike = None
    seed: int | None = None

    @classmethod
    def of(cls, given: "Request | str | Mapping") -> "Request":
        """Make a Request from a text or from a mapping with these entries. ValueError for anything else."""
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

    `semantic`, `coarse`, `fine` and `codec` are plain modules. `tokenizer.encode(text)` returns ids before
    Bark's offset is added. `engine` runs the decoding steps. Axes: K codebooks, T frames. Docstrings quote
    the numbers of Suno's models (8 codebooks, 75 frames a second, 320 samples a frame); `config` has those of
    this model.
    """

    semantic: GPT
    coarse: GPT
    fine: FineGPT
    codec: Codec
    engine: Engine

    def __init__(
        self,
        config: BarkConfig,
        tokenizer: Tokenizer,
        models: Mapping[str, nn.Module],
        device: torch.device | str = "cpu",
        offload: bool = False,
        compile: bool | CompileConfig = False,
    ):
        """Combine loaded parts. `models` has the keys "semantic", "coarse", "fine" and "codec"."""
        check_vocabulary(tokenizer, config.tokens)
        self.config = config
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.offload = offload and self.device.type != "cpu"
        for name in checkpoint.MODELS:
            setattr(self, name, models[name].to("cpu" if self.offload else self.device))
            if self.offload and self.device.type == "cuda":  # pinned memory copies faster
                for tensor in (*models[name].parameters(), *models[name].buffers()):
                    tensor.data = tensor.data.pin_memory()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.engine = (
            engine_for(self.semantic, self.coarse, self.fine, self.device, compile) if compile else PLAIN
        )
        self._checkpoint: formats.Checkpoint | None = None
        self._voice_hub = partial(hub.fetch_voice, hub.VOICES_REPO, None)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike | None = None, **options: Any) -> "Bark":
        """Load a checkpoint.

        name_or_path: a Hub id ("suno/bark-small", "suno/bark"), or a directory in barklite's, Hugging Face's
            or Suno's layout. None loads the built-in model: small, English, trained on synthetic speech; it
            needs no network.
        options: the fields of `LoadOptions`: device, dtype, compile, quantize, offload, revision,
            local_files_only, encoder.

        Raises FileNotFoundError or ValueError that names the missing or bad file, OSError if the Hub cannot
        be reached.
        """
        load = LoadOptions(**options)
        device, dtype = _checked(load)
        if load.revision is not None and (name_or_path is None or Path(name_or_path).is_dir()):
            raise ValueError("a revision belongs to a Hub id, but none is given")
        if name_or_path is None:
            opened, repo = formats.open_built_in(load.encoder), None
        else:
            opened, repo = hub.find(
                os.fspath(name_or_path), load.revision, load.local_files_only, load.encoder
            )
        place, models = "cpu" if load.offload or load.quantize else device, {}
        for name in checkpoint.MODELS:
            wanted = torch.float32 if name == "codec" else dtype
            models[name] = checkpoint.load_model(opened, name, place, wanted)
            if name != "codec":
                mapped = opened.state(name) if load.quantize and device.type == "cpu" else {}
                quantizing.shrink(models[name], load.quantize, device, mapped.get("wte.weight"))
        bark = cls(opened.config, opened.tokenizer, models, device, load.offload, load.compile)
        bark._checkpoint = opened
        source = (repo, load.revision) if repo else (hub.VOICES_REPO, None)
        bark._voice_hub = partial(hub.fetch_voice, *source, local_files_only=load.local_files_only)
        return bark

    @classmethod
    def from_config(
        cls, config: BarkConfig, seed: int = 0, *, tokenizer: Tokenizer | None = None, **options: Any
    ) -> "Bark":
        """Build a Bark with random weights, for experiments. The same config and seed give the same weights.

        tokenizer: None encodes UTF-8 bytes, which needs no vocabulary. options: device, dtype, compile,
        quantize, offload of `LoadOptions`.
        """
        if not isinstance(config, BarkConfig):
            raise ValueError("config must be a BarkConfig, for example BarkConfig.small()")
        load = LoadOptions.of(options, "device", "dtype", "compile", "quantize", "offload")
        tokenizer = tokenizer or Bytes()
        kind = next((kind for kind, made in KINDS.items() if isinstance(tokenizer, made)), None)
        if kind is None:
            given = type(tokenizer).__name__
            raise ValueError(f"tokenizer must be one of barklite.text.tokenizer's, not {given}")
        device, dtype = _checked(load)
        generator, models = sampling.generator(seed), {}
        for name in checkpoint.MODELS:
            models[name] = checkpoint.random_model(config, name, generator)
            if name != "codec":
                models[name].to(dtype)
                quantizing.shrink(models[name], load.quantize, device)
        return cls(replace(config, tokenizer=kind), tokenizer, models, device, load.offload, load.compile)

    def save_pretrained(self, directory: str | os.PathLike, *, force: bool = False) -> None:
        """Write a checkpoint directory in barklite's layout; `from_pretrained` restores it bit for bit.

        The write is atomic. FileExistsError if the directory is not empty, unless it is a barklite checkpoint
        and `force` is set. ValueError for models that a checkpoint cannot hold: quantized ones, which no
        longer have the original weights, and those with tensors that `config` does not describe, as adapters
        have.
        """
        if quantizing.is_quantized(self.semantic):
            raise ValueError("quantized weights cannot be saved: save a Bark loaded without quantize")
        for name in checkpoint.MODELS:
            state = getattr(self, name).state_dict()
            expected = checkpoint.blueprint(self.config, name).state_dict()
            checkpoint.check_tensors(f"the {name} model cannot be saved as a checkpoint", state, expected)
        opened = self._checkpoint
        held = {name: opened.voice(name) for name in opened.voices} if opened else {}
        with checkpoint.new_directory(directory, force) as unfinished:
            for name in checkpoint.MODELS:
                checkpoint.write_model(unfinished, name, getattr(self, name).state_dict())
            checkpoint.write_rest(unfinished, self.config, self.tokenizer, held)

    @property
    def sample_rate(self) -> int:
        """Samples a second of the codec's audio."""
        return getattr(self.codec.config, "sample_rate", self.config.codec.sample_rate)

    @property
    def voices(self) -> list[str]:
        """Valid names for `voice`: the checkpoint's own, and Suno's if the model uses Bark's token ids."""
        return voice_names(self._own_voices, self.config.tokens)

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
        **options: Any,
    ) -> Clip:
        """Speak one text.

        voice: one of `Bark.voices`, the path of an `.npz`, a Voice, or a mapping with the three arrays; None
            lets the model choose.
        seed: 0 to 2**32 - 1; None draws a random one, stored in the clip.
        config: None uses the checkpoint's.
        options: progress and retries of `RunOptions`.

        ValueError for a text that is empty, not Unicode or over 256 tokens, and for a bad voice or setting.
        """
        if not isinstance(text, str):
            raise ValueError(f"generate takes one text, not {type(text).__name__}; see generate_batch")
        run, config = RunOptions.of(options, "progress", "retries"), self.settings(config)
        state = self.state(0, Request(text, voice, seed), config)
        with self.pipeline(config, 1, run) as pipeline:
            pipeline.submit(state)
            while pipeline.busy:
                pipeline.step()
        return self._clips([state])[0]

    def generate_batch(
        self,
        texts: Sequence[str],
        voices: VoicesLike = None,
        seeds: Sequence[int | None] | None = None,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> list[Clip]:
        """Speak several texts as a batch, each with its own voice and seed. Rows do not affect each other.

        voices: one for all, or a list with a voice or None for each text. seeds: one for each text. options:
        progress, batch_size and retries of `RunOptions`. Everything else is as in `generate`.
        """
        run, config = RunOptions.of(options, "progress", "batch_size", "retries"), self.settings(config)
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError("texts must be a list of strings")
        voices, seeds = self._voices(voices, len(texts)), one_a_row(seeds, len(texts), "seeds")
        requests = [Request(*row) for row in zip(texts, voices, seeds, strict=True)]
        states = [self.state(i, one, config) for i, one in enumerate(requests)]
        size = min(self.batch_size(run.batch_size, config), max(1, len(states)))
        for state in self.pipeline(config, size, run).run(states):
            if state.error is not None:
                raise state.error
        return self._clips(states)

    def generate_many(
        self,
        requests: Iterable[Request | str | Mapping],
        *,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Clip | Exception]]:
        """Speak any number of texts. Yield (index, Clip) as each clip is ready, not in the requests' order.

        requests: Requests, texts, or mappings with "text" and optionally "voice" and "seed". They are read
            lazily, at most two batches ahead, so memory does not grow with their number. A request that fails
            yields (index, ValueError or OSError); the others continue.
        options: progress (a bar that counts clips), batch_size and retries of `RunOptions`.

        A clip does not depend on the batch size or on other rows (with weights of 16 bits or less, rounding
        can change tokens). Bad settings raise ValueError immediately.
        """
        if isinstance(requests, (str, Request, Mapping)) or not isinstance(requests, Iterable):
            raise ValueError(f"requests must be an iterable of Request or str, not {type(requests).__name__}")
        run, config = RunOptions.of(options, "progress", "batch_size", "retries"), self.settings(config)
        size = self.batch_size(run.batch_size, config)
        return self._many(requests, self.pipeline(config, size, replace(run, progress=False)), config, run)

    def _many(self, requests, pipeline: Pipeline, config, run) -> Iterator[tuple[int, Clip | Exception]]:
        from tqdm import tqdm

        cached = functools.lru_cache(64)(self.find_voice)  # by name or path

        def find(voice: VoiceLike) -> Voice | None:
            return cached(voice) if isinstance(voice, (str, os.PathLike)) else self.find_voice(voice)

        def states() -> Iterator[RequestState]:
            for i, request in enumerate(requests):
                try:
                    yield self.state(i, Request.of(request), config, find)
                except (ValueError, OSError) as error:
                    yield RequestState(i, "", error=error)

        total = len(requests) if isinstance(requests, Sized) else None
        hidden = None if run.progress is None else not run.progress
        with tqdm(total=total, desc="clips", leave=False, disable=hidden, smoothing=0) as bar:
            for state in pipeline.run(states()):
                bar.update()
                yield state.index, self.clip(state) if state.error is None else state.error

    def stream(
        self,
        text: str,
        voice: VoiceLike = None,
        seed: int | None = None,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> Iterator[Clip]:
        """Speak a text of any length. Yield one Clip per sentence, in order, each as soon as it is ready.

        voice: None continues with the voice of the first clip.
        seed: of the first sentence; sentence i uses seed + i.
        options: progress, batch_size, retries and pause of `RunOptions`. The first sentence runs alone, for a
            short delay. Every clip but the last ends with a pause, so concatenating their audio gives the
            whole text.

        A clip's `first_audio` is the seconds from the first `next()` until the clip was ready. Bad input
        raises ValueError in this call, not at the first clip.
        """
        run = RunOptions.of(options, "progress", "batch_size", "retries", "pause")
        silence = self._silence(run.pause)
        return self._stream(self._sentences(text, voice, seed, config, run), silence)

    def _stream(self, spoken, silence: np.ndarray) -> Iterator[Clip]:
        since = time.perf_counter()
        for state, more in spoken:
            yield self.clip(state, silence if more else None, since)

    def stream_audio(
        self,
        text: str,
        voice: VoiceLike = None,
        seed: int | None = None,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """Yield the audio of `stream` in pieces, float32 (n,), each decoded when it is asked for.

        Concatenated, the pieces equal the audio of `stream` up to rounding. The arguments are those of
        `stream`, and `RunOptions.piece`.
        """
        run = RunOptions.of(options)
        silence = self._silence(run.pause)
        if run.piece == 0:
            raise ValueError("piece is 0; it must be a number of seconds")
        frames = max(PREFIX_FRAMES, round(run.piece * self.sample_rate / self.codec.config.hop))
        return self._pieces(self._sentences(text, voice, seed, config, run, audio=False), frames, silence)

    def _pieces(self, spoken, frames: int, silence: np.ndarray) -> Iterator[np.ndarray]:
        for state, more in spoken:
            pieces = streaming.decode_in_pieces(self.codec, state.codes, frames)
            while True:
                with self._resident("codec"):  # off the device while the caller plays the piece
                    audio = next(pieces, None)
                if audio is None:
                    break
                yield audio.float().cpu().numpy()
            if more and len(silence):
                yield silence

    def _sentences(
        self, text, voice, seed, config, run: RunOptions, audio: bool = True
    ) -> Iterator[tuple[RequestState, bool]]:
        """Return an iterator of (finished state, whether more follow). Bad input raises here."""
        config, voice = self.settings(config), self.find_voice(voice)
        pieces = self.sentences(text, config)
        seed = sampling.new_seed() if seed is None else sampling.check_seed(seed)

        def start(i: int, voice: Voice | None) -> RequestState:
            own = (seed + i) % (sampling.MAX_SEED + 1)
            return RequestState(i, *pieces[i], voice, own, sampling.generator(own, self.device))

        size = min(self.batch_size(run.batch_size, config), len(pieces))
        quiet = replace(run, progress=False)
        alone, rest = (self.pipeline(config, n, quiet, audio, fine_batch_size=1) for n in (1, size))
        spoken = streaming.in_order(
            alone, rest, start, len(pieces), voice, lambda state: self.clip(state).voice()
        )
        return streaming.with_progress(spoken, [len(piece) for piece, _ in pieces], run.progress)

    def _silence(self, seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * self.sample_rate), dtype=np.float32)

    # --- requests -------------------------------------------------------------------------------------------

    def sentences(self, text: str, config: GenerationConfig | None = None) -> list[tuple[str, list[int]]]:
        """Split a text into the sentences that `stream` speaks, each with its tokenizer ids. ValueError if
        there are none.
        """
        config, limit = self.settings(config), self.config.tokens.n_text
        check_text(text)
        pieces = sentences.split(text, lambda piece: len(self._encode(piece, config)) <= limit)
        pieces = [(piece, ids) for piece in pieces if (ids := self._encode(piece, config))]
        if not pieces:
            raise ValueError("the text is empty to this model: its tokenizer finds no word in it")
        if any(len(ids) > limit for _, ids in pieces):
            raise ValueError(f"a single character of the text has more than {limit} tokens")
        return pieces

    def state(
        self, index: Any, request: Request, config: GenerationConfig | None = None, find=None
    ) -> RequestState:
        """Check a request and return the state to submit to a `pipeline`. Errors as in `generate`.

        find: a replacement for `find_voice`, for example one that caches.
        """
        ids = self.token_ids(request.text, config)
        seed = sampling.new_seed() if request.seed is None else sampling.check_seed(request.seed)
        generator = sampling.generator(seed, self.device)
        return RequestState(
            index, request.text, ids, (find or self.find_voice)(request.voice), seed, generator
        )

    def _clips(self, states: Sequence[RequestState]) -> list[Clip]:
        """Return the clips of finished requests. Raises the first error among them."""
        for state in states:
            if state.error is not None:
                raise state.error
            if len(state.semantic) == 0:
                warnings.warn(
                    f"the model ended {shortened(state.text)} at once: try another seed", stacklevel=3
                )
        return [self.clip(state) for state in states]

    def clip(
        self, state: RequestState, silence: np.ndarray | None = None, since: float | None = None
    ) -> Clip:
        """Make the Clip of a finished state.

        silence: appended to the audio. since: `time.perf_counter()` when the audio was asked for.
        """
        audio = np.zeros(0, np.float32) if state.audio is None else state.audio.numpy()
        return Clip(
            audio=audio if silence is None else np.concatenate((audio, silence)),
            sample_rate=self.sample_rate,
            semantic=state.semantic.cpu().numpy(),
            codes=state.codes.cpu().numpy(),
            text=state.text,
            seed=state.seed,
            finish_reason=state.finish_reason,
            timings=state.timings,
            first_audio=None if since is None else time.perf_counter() - since,
            eos_p=np.array(state.eos_p, dtype=np.float32),
            tokens=self.config.tokens,
        )

    def batch_size(self, given: int | None = None, config: GenerationConfig | None = None) -> int:
        """Return the number of rows to run together: `given`, or 8 on a CPU and 32 elsewhere, fewer if their
        KV caches do not fit into half of the free memory.
        """
        if given is not None:
            return given
        most, free = 8 if self.device.type == "cpu" else 32, free_memory(self.device)
        if free is None:
            return most
        config, t = self.settings(config), self.config.tokens
        stages = SemanticStage(self.semantic, config, t), CoarseStage(self.coarse, config, t)
        row = sum(self.engine.cache_bytes(stage.model, stage.max_length) for stage in stages)
        return max(1, min(most, free // 2 // row))

    def pipeline(
        self,
        config: GenerationConfig,
        size: int,
        run: RunOptions | None = None,
        audio: bool = True,
        fine_batch_size: int | None = None,
    ) -> Pipeline:
        """Make a Pipeline: `submit` a `state` for each request, `step`, and turn finished states into Clips
        with `clip`.

        config: from `settings`. The other arguments are those of Pipeline.
        """
        run = RunOptions() if run is None else run
        if fine_batch_size is None:  # larger batches use a GPU better, but clips wait for each other
            on_cpu = self.device.type == "cpu"
            fine_batch_size = 1 if on_cpu else size if self.offload else max(1, size // 4)
        return Pipeline(
            self._resident,
            self.engine,
            config,
            self.config.tokens,
            size,
            fine_batch_size=fine_batch_size,
            stage_major=self.offload,
            retries=run.retries,
            bars=ProgressBars(run.progress),
            audio=audio,
        )

    # --- the stages -----------------------------------------------------------------------------------------

    def text_to_semantic(
        self,
        texts: Sequence[str],
        voices: VoicesLike = None,
        seeds: Seeds = None,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """Texts -> semantic tokens, a list of int64 (N_i,) on the model's device, 49.9 a second (spec 4.1).

        voices, seeds: one for each row. A seed may be a torch.Generator, which the stage advances: pass the
        same generators to all three stages to get the result of `generate`. options: progress and batch_size
        of `RunOptions`.
        """
        config = self.settings(config)
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError("texts must be a list of strings")
        ids = [self.token_ids(text, config) for text in texts]
        made = self._run_stage(SemanticStage, ids, voices, seeds, config, options)
        return [tokens for tokens, _ in made]

    def semantic_to_coarse(
        self,
        rows: Rows,
        voices: VoicesLike = None,
        seeds: Seeds = None,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """Semantic tokens (N_i,) -> codes of the first two codebooks, a list of int64 (2, T_i) (spec 4.2).

        The other arguments are as in `text_to_semantic`.
        """
        rows = token_rows(rows, "semantic row", None, self.config.tokens.semantic_vocab_size, self.device)
        return self._run_stage(CoarseStage, rows, voices, seeds, self.settings(config), options)

    def coarse_to_fine(
        self,
        rows: Rows,
        voices: VoicesLike = None,
        seeds: Seeds = None,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """Codes (k, T_i) of the first k codebooks, usually 2 -> codes of all, int64 (8, T_i) (spec 4.3).

        The other arguments are as in `text_to_semantic`.
        """
        t = self.config.tokens
        rows = token_rows(rows, "coarse row", range(1, t.n_codebooks), t.codebook_size, self.device)
        return self._run_stage(FineStage, rows, voices, seeds, self.settings(config), options)

    @torch.no_grad()
    def _run_stage(self, kind: type, rows: Sequence, voices, seeds, config, options: Mapping) -> list:
        """Run one stage over rows of any length, each with its own voice and generator."""
        run, n = RunOptions.of(options, "progress", "batch_size"), len(rows)
        voices, generators = self._voices(voices, n), self._generators(one_a_row(seeds, n, "seeds"))
        size = min(self.batch_size(run.batch_size, config), max(1, n))
        with ProgressBars(run.progress) as bars, self._resident(kind.name) as model:
            stage = kind(model, config, self.config.tokens)
            bars.expect(kind.name, sum(map(stage.work, rows, voices)))
            report = partial(bars.update, kind.name)
            given = list(zip(rows, voices, generators, strict=True))
            return [stage.result(one) for one in run_stage(stage, given, size, self.engine, report)]

    def decode(self, rows: Rows) -> list[Tensor]:
        """Codes (k, T_i) of the first k codebooks -> audio at 24 kHz, a list of float32 (320 T_i,)."""
        t = self.config.tokens
        rows = token_rows(rows, "codes row", range(1, t.n_codebooks + 1), t.codebook_size, self.device)
        with self._resident("codec") as codec:
            return synthesize(codec, rows, self.engine)

    @torch.no_grad()
    def encode(
        self, audio: np.ndarray | Tensor | str | os.PathLike, sample_rate: int | None = None
    ) -> Tensor:
        """A recording -> codes, int64 (8, T), 75 frames a second, the inverse of `decode` (spec 6.4).

        audio: (samples,), floats in [-1, 1] or PCM integers, at `sample_rate` (None: the codec's 24 kHz); or
            the path of a WAV file of any rate, whose channels are averaged.

        ValueError for bad audio, or if the codec was loaded without its encoder
        (`from_pretrained(..., encoder=True)` loads it).
        """
        sound = mono(audio, sample_rate, self.sample_rate)
        with self._resident("codec") as codec:
            weight = codec.codebooks
            given = sound.to(weight.device, weight.dtype)[None]
            return codec.encode(given, self.config.tokens.n_codebooks)[0]

    @torch.no_grad()
    def score(
        self,
        clip: "Clip | tuple[Tensor | np.ndarray | None, Tensor | np.ndarray | None]",
        text: str | None = None,
        voice: VoiceLike = None,
        config: GenerationConfig | None = None,
    ) -> Scores:
        """Return the log-probability of each token of a clip given the tokens before it, the text and voice.

        clip: a Clip, or (semantic, codes): (N,) and (8, T), or (2, T) to skip the fine stage. With codes None
            only the semantic stage is scored; with semantic None only the fine stage.
        text: None uses the clip's. voice: the one it was spoken with; a clip does not store it.
        config: only `max_coarse_history` and `rules` matter; sampling settings do not.

        ValueError for tokens outside the models' ranges, or lengths that do not match.
        """
        if isinstance(clip, Clip):
            clip, text = (clip.semantic, clip.codes), clip.text if text is None else text
        config, voice = self.settings(config), self.find_voice(voice)
        semantic, codes = tokens_to_score(clip, self.config, self.device)
        if semantic is not None and text is None:
            raise ValueError("the text is missing: semantic tokens are scored given a text")
        ids = None if semantic is None else self.token_ids(text, config)
        return score.score(self._resident, ids, semantic, codes, voice, config, self.config.tokens)

    @contextlib.contextmanager
    def _resident(self, name: str) -> Iterator[nn.Module]:
        """Context manager that yields a model on the device. With offload, its weights are there only inside
        the `with` block.
        """
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

    # --- checked input --------------------------------------------------------------------------------------

    def settings(self, config: GenerationConfig | None = None) -> GenerationConfig:
        """Return `config`, or the checkpoint's, with lengths fitted to these models.

        ValueError if it asks for more than they can do.
        """
        config = self.config.generation if config is None else config
        if not isinstance(config, GenerationConfig):
            raise ValueError(f"config must be a GenerationConfig, not {type(config).__name__}")
        return self.config.fitted(config)

    def _encode(self, text: str, config: GenerationConfig) -> list[int]:
        if config.rules == "suno":
            text = re.sub(r"\s+", " ", text).strip()  # transformers does not normalise white space (D1)
        return self.tokenizer.encode(text)

    def token_ids(self, text: str, config: GenerationConfig | None = None) -> list[int]:
        """Return the tokenizer ids of a text, at most n_text. ValueError for a text that cannot be spoken."""
        config = self.settings(config)
        check_text(text)
        ids, limit = self._encode(text, config), self.config.tokens.n_text
        if not ids:
            raise ValueError(
                f"the text {shortened(text)} is empty to this model: its tokenizer finds no word in it"
            )
        if len(ids) > limit and not config.truncate:
            raise ValueError(
                f"the text {shortened(text)} has {len(ids)} tokens, and the model reads {limit}: "
                "use stream(), which splits it into sentences (on the command line: -i FILE), "
                "or GenerationConfig(truncate=True)"
            )
        if len(ids) > limit:
            lost = round((len(ids) - limit) / len(ids) * 100, 1)
            warnings.warn(f"the text {shortened(text)} is too long: its last {lost} % are cut", stacklevel=4)
        return ids[:limit]

    def _voices(self, given: VoicesLike, n: int) -> list[Voice | None]:
        if given is None or isinstance(given, (Voice, str, os.PathLike, Mapping)):
            return [self.find_voice(given)] * n
        return [self.find_voice(voice) for voice in one_a_row(given, n, "voices")]

    def find_voice(self, voice: VoiceLike) -> Voice | None:
        """Return the Voice for a name, a path or arrays, checked against this model; None for None."""
        tokens = self.config.tokens
        if voice is None:
            return None
        if isinstance(voice, Voice):
            return voice if voice.tokens == tokens else replace(voice, tokens=tokens)
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
        raise unknown_voice(name, self._own_voices, tokens)

    def _generators(self, seeds: Sequence[int | torch.Generator | None]) -> list[torch.Generator]:
        """Return one generator for each row, on the models' device."""
        given = [seed for seed in seeds if isinstance(seed, torch.Generator)]
        if len({id(generator) for generator in given}) < len(given):
            raise ValueError("two rows have the same generator: pass a different one for each row")
        return [
            seed
            if isinstance(seed, torch.Generator)
            else sampling.generator(sampling.new_seed() if seed is None else seed, self.device)
            for seed in seeds
        ]


def _checked(load: LoadOptions) -> tuple[torch.device, torch.dtype | None]:
    """Check loading options and return (device, dtype). ValueError for what this machine does not support."""
    device, dtype = pick_device(load.device), pick_dtype(load.dtype)
    check_compile(load.compile, device)
    quantizing.check_format(load.quantize, device)
    return device, dtype
