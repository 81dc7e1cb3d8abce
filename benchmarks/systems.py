"""The measured systems: barklite in its formats, and its peers. All do the same work.

A system has a `name`, `build_s` (seconds to create it), `compile_s` (its part spent compiling), and
`job(tokens, rows=1)`, which returns the seconds of "semantic", "coarse", "fine" and "codec", if it has these
stages, and of the "whole" job. Weights are random, at the released sizes, which cost the same time as trained
ones. All systems sample, without a voice, and end no row early.
"""

import importlib.util
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from barklite import Bark, BarkConfig, CompileConfig, GenerationConfig
from barklite.validation import DTYPES

from .ceiling import synchronize

STAGES = ("semantic", "coarse", "fine", "codec")
FORMATS = ("float32", "float16", "bfloat16", "int8", "int4")
TEXT = "x" * 200  # 200 tokens; every prompt is padded to 257 positions


def work(config: BarkConfig, tokens: int) -> dict:
    """Return the work of `tokens` semantic tokens: tokens of each stage, frames, seconds of audio."""
    coarse = config.tokens.coarse_steps(tokens)
    frames = coarse // config.tokens.n_coarse
    audio = frames / config.tokens.frame_rate
    return {"semantic_tokens": tokens, "coarse_tokens": coarse, "frames": frames, "audio_s": audio}


def options_of(format: str) -> dict:
    """Return the options of `Bark.from_config` and `from_pretrained` for a weight format."""
    return {"dtype": format} if format in DTYPES else {"quantize": format}


def label(format: str, compile: bool) -> str:
    """Return a variant's name, such as "barklite int8 compiled"."""
    return f"barklite {format}{' compiled' if compile else ''}"


class Clock:
    """Measures the seconds of each stage."""

    def __init__(self, device: torch.device | str):
        self.device, self.seconds = device, {}
        synchronize(device)
        self.begin = self.last = time.perf_counter()

    def end(self, stage: str) -> None:
        """End `stage`."""
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage], self.last = now - self.last, now

    def total(self) -> dict[str, float]:
        """Return the seconds of all stages, and "whole"."""
        return {**self.seconds, "whole": self.last - self.begin}


class Barklite:
    """barklite in one weight format, compiled or not."""

    def __init__(
        self, config: BarkConfig, format: str, compile: bool | CompileConfig, device: torch.device | str
    ):
        self.name = label(format, bool(compile))
        start = time.perf_counter()
        self.bark = Bark.from_config(config, device=device, compile=compile, **options_of(format))
        synchronize(device)
        self.build_s = time.perf_counter() - start
        self.compile_s = float(getattr(self.bark.engine, "seconds", 0.0))
        self.seed, self.clips = 0, []  # of the last job

    def job(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """Return seconds per stage, summed over rows, and in all for `rows` texts of `tokens` tokens."""
        config = GenerationConfig(max_semantic_tokens=tokens, min_eos_p=None)
        while True:
            seeds = list(range(self.seed, self.seed + rows))
            clock = Clock(self.bark.device)
            clips = self.bark.generate_batch([TEXT] * rows, seeds=seeds, config=config)
            clock.end("whole")
            if all(len(clip.semantic) == tokens for clip in clips):
                stages = {name: sum(clip.timings[name] for clip in clips) for name in STAGES}
                self.clips = clips
                return {**stages, "whole": clock.seconds["whole"]}
            self.seed += rows  # a seed sampled the end (one of 10,001 ids), so it did less work: try others

    def weights_bytes(self) -> int:
        """Return the bytes of all parameters and buffers."""
        return weights_bytes(*(getattr(self.bark, name) for name in STAGES))


def weights_bytes(*modules: torch.nn.Module) -> int:
    """Return the bytes of the parameters and buffers of `modules`, each counted once."""
    held = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    return sum(tensor.nbytes for tensor in held.values())


class Transformers:
    """Hugging Face's implementation; the stages are called one by one."""

    def __init__(self, config: BarkConfig, dtype: str, device: torch.device | str):
        import transformers
        from transformers.models.bark import generation_configuration_bark as settings

        self.name = f"transformers {dtype}"
        self.device, self.codebook_size = torch.device(device), config.tokens.codebook_size
        self.semantic_config = settings.BarkSemanticGenerationConfig()
        self.coarse_config = settings.BarkCoarseGenerationConfig()
        self.fine_config = settings.BarkFineGenerationConfig(temperature=0.5)
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            self.model = transformers.BarkModel(self.configuration(transformers, config)).eval()
        self.model.to(self.device, DTYPES[dtype])
        synchronize(self.device)
        self.build_s, self.compile_s = time.perf_counter() - start, 0.0

    @staticmethod
    def configuration(transformers, config: BarkConfig):
        """Return its configuration with the sizes of `config`."""

        def sizes(model, vocabularies: tuple[int, int]) -> dict:
            return dict(
                input_vocab_size=vocabularies[0],
                output_vocab_size=vocabularies[1],
                num_layers=model.n_layer,
                num_heads=model.n_head,
                hidden_size=model.n_embd,
                block_size=model.block_size,
                bias=False,
            )

        semantic, coarse, fine = config.semantic, config.coarse, config.fine
        codec = transformers.EncodecConfig(
            num_filters=config.codec.n_filters,
            hidden_size=config.codec.dimension,
            codebook_dim=config.codec.dimension,
        )
        return transformers.BarkConfig(
            semantic_config=sizes(semantic, (semantic.input_vocab_size, semantic.output_vocab_size)),
            coarse_acoustics_config=sizes(coarse, (coarse.input_vocab_size, coarse.output_vocab_size)),
            fine_acoustics_config=sizes(fine, (fine.vocab_size, fine.vocab_size)),
            codec_config=codec.to_dict(),
        )

    @torch.no_grad()
    def job(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """Return seconds per stage and in all, for a batch of `rows` texts of `tokens` semantic tokens."""
        ids = torch.randint(5, 1000, (rows, 256), device=self.device)
        drawn = dict(do_sample=True, temperature=0.7, top_k=None)
        known = dict(semantic_generation_config=self.semantic_config, codebook_size=self.codebook_size)
        while True:
            clock = Clock(self.device)
            semantic = self.model.semantic.generate(
                ids,
                semantic_generation_config=self.semantic_config,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                **drawn,
            )
            clock.end("semantic")
            if semantic.shape == (rows, tokens):
                break  # else it sampled the end (one of 10,001 ids), so it did less work: try again
        coarse = self.model.coarse_acoustics.generate(
            semantic, coarse_generation_config=self.coarse_config, **known, **drawn
        )
        clock.end("coarse")
        fine = self.model.fine_acoustics.generate(
            coarse,
            coarse_generation_config=self.coarse_config,
            fine_generation_config=self.fine_config,
            temperature=0.5,
            **known,
        )
        clock.end("fine")
        self.model.codec_decode(fine).cpu()
        clock.end("codec")
        return clock.total()

    def weights_bytes(self) -> int:
        """Return the bytes of all parameters and buffers."""
        return weights_bytes(self.model)


class Suno:
    """Suno's package `bark` with its KV cache. One row, float32."""

    def __init__(self, config: BarkConfig, device: torch.device | str):
        from bark import generation
        from bark.model import GPT, GPTConfig
        from bark.model_fine import FineGPT, FineGPTConfig
        from encodec import EncodecModel

        self.name, self.device = "bark float32", torch.device(device)
        self.generation, self.rate = generation, config.tokens.semantic_rate
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            models = {}
            for key, ours in (("text", config.semantic), ("coarse", config.coarse), ("fine", config.fine)):
                size = dict(n_layer=ours.n_layer, n_head=ours.n_head, n_embd=ours.n_embd)
                size |= dict(block_size=ours.block_size, bias=False, dropout=0.0)
                if key == "fine":
                    vocabulary = dict(input_vocab_size=ours.vocab_size, output_vocab_size=ours.vocab_size)
                    counts = dict(n_codes_total=ours.n_codes_total, n_codes_given=1)
                    models[key] = FineGPT(FineGPTConfig(**size, **vocabulary, **counts))
                else:
                    vocabulary = dict(
                        input_vocab_size=ours.input_vocab_size, output_vocab_size=ours.output_vocab_size
                    )
                    models[key] = GPT(GPTConfig(**size, **vocabulary))
            models["codec"] = EncodecModel.encodec_model_24khz(pretrained=False)
        models["codec"].set_target_bandwidth(6.0)
        self.models = {key: model.eval().to(self.device) for key, model in models.items()}
        self.build_s, self.compile_s = time.perf_counter() - start, 0.0

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Replaces the package's tokenizer, which would be downloaded."""
        return [5 + ord(letter) for letter in text]

    def job(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """Return seconds per stage and in all, for one text of `tokens` semantic tokens."""
        assert rows == 1, "Suno's package speaks one text at a time"
        bark = self.generation
        bark.models.update(self.models, text={"model": self.models["text"], "tokenizer": self})
        limit = (tokens - 0.5) / self.rate  # the token that exceeds the limit is kept
        clock = Clock(self.device)
        semantic = bark.generate_text_semantic(
            TEXT, max_gen_duration_s=limit, allow_early_stop=False, silent=True, use_kv_caching=True
        )
        clock.end("semantic")
        coarse = bark.generate_coarse(semantic, silent=True, use_kv_caching=True)
        clock.end("coarse")
        fine = bark.generate_fine(coarse, silent=True)
        clock.end("fine")
        with torch.no_grad():
            bark.codec_decode(fine)
        clock.end("codec")
        assert len(semantic) == tokens, "Suno's package did not do the same work"
        return clock.total()

    def weights_bytes(self) -> int:
        """Return the bytes of all parameters and buffers."""
        return weights_bytes(*self.models.values())


class BarkCpp:
    """A bark.cpp binary, timed as a whole command including loading.

    The length of its output cannot be set, so it is compared by seconds per second of audio; "audio" is the
    seconds of audio that it wrote.
    """

    def __init__(self, binary: str, model: str):
        self.name, self.binary, self.model = f"bark.cpp {Path(model).name}", binary, model
        self.build_s = self.compile_s = 0.0

    def job(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """Return the seconds of the command, and of the audio that it wrote."""
        from scipy.io import wavfile

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.wav"
            command = [self.binary, "-m", self.model, "-p", "Hello, my name is Bark, and I like to speak."]
            command += ["-o", str(out), "-t", str(torch.get_num_threads()), "-s", "0"]
            clock = Clock("cpu")
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            clock.end("command")
            if done.returncode or not out.is_file():
                raise SystemExit(f"bark.cpp failed: {(done.stderr or done.stdout).strip()[-300:]}")
            rate, audio = wavfile.read(out)
        return {"whole": clock.seconds["command"], "audio": len(audio) / rate}

    def weights_bytes(self) -> int:
        """Return the bytes of the model file."""
        return Path(self.model).stat().st_size


def installed(package: str) -> bool:
    """Whether a peer's package is installed."""
    return importlib.util.find_spec(package) is not None
