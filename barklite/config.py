"""Every number of Bark in one place: sizes, token ids, windows, sampling settings.

All dataclasses are frozen and compare by value. The defaults are those of the released checkpoints
(specification sections 1.2, 1.3, 3.1 and 6); a model trained with other numbers stores them in its
`config.json`.

Axes, in this order everywhere: B batch, T positions or frames, K codebooks, H heads, D width, V vocabulary.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RULES = ("suno", "transformers")
FORMAT_VERSION = 1
MAX_LAYERS = 1000  # a damaged config.json could otherwise keep the loader busy for hours
MAX_RATIOS = 16


def _number(x) -> bool:
    try:
        return isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x)
    except OverflowError:  # an integer too large for a float
        return False


def _whole(x) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


@dataclass(frozen=True)
class GPTConfig:
    """The semantic or coarse model: a causal transformer without biases (spec 3.2)."""

    n_layer: int
    n_head: int
    n_embd: int
    input_vocab_size: int
    output_vocab_size: int
    block_size: int = 1024  # positions


@dataclass(frozen=True)
class FineConfig:
    """The bidirectional fine model: one embedding per codebook, LayerNorms with bias (spec 3.5)."""

    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int = 1056
    block_size: int = 1024
    n_codes_total: int = 8


@dataclass(frozen=True)
class CodecConfig:
    """EnCodec (spec 6). A frame has prod(ratios) = 320 samples; 24 kHz gives 75 frames a second."""

    sample_rate: int = 24_000
    n_filters: int = 32
    dimension: int = 128
    ratios: tuple[int, ...] = (8, 5, 4, 2)  # the decoder's upsampling; the encoder uses the reverse order
    n_codebooks: int = 8
    codebook_size: int = 1024
    encoder: bool = False  # whether the checkpoint contains the encoder

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.ratios)


@dataclass(frozen=True)
class TokenConfig:
    """Id spaces, prompt lengths, windows and rates that the four models share (spec 1.2, 1.3)."""

    # semantic model: [text n_text][history n_semantic_history][semantic_infer] -> semantic tokens
    text_offset: int = 10_048  # added to every tokenizer id
    text_pad: int = 129_595
    semantic_infer: int = 129_599
    semantic_vocab_size: int = 10_000
    semantic_eos: int = 10_000  # pads the history half of the prompt; ends the output
    n_text: int = 256
    n_semantic_history: int = 256
    semantic_rate: float = 49.9  # tokens a second

    # coarse model: [semantic n_coarse_semantic][coarse_infer][history, interleaved codes]
    coarse_pad: int = 12_048
    coarse_infer: int = 12_050
    n_coarse_semantic: int = 256
    n_coarse: int = 2  # codebooks that the coarse model predicts
    coarse_window: int = 60  # tokens generated before the window slides
    max_coarse_history: int = 630  # tokens
    frame_rate: float = 75.0  # codec frames a second

    # fine model: fills codebooks n_coarse .. n_codebooks-1
    n_codebooks: int = 8
    codebook_size: int = 1024
    fine_pad: int = 1024
    fine_window: int = 1024  # frames per forward
    fine_hop: int = 512  # frames from one window to the next
    max_fine_history: int = 512  # frames

    @property
    def coarse_per_semantic(self) -> float:
        """Coarse tokens per semantic token, R of spec 1.1. Another order of evaluation rounds differently."""
        return self.frame_rate / self.semantic_rate * self.n_coarse

    @property
    def n_prompt(self) -> int:
        """Length of the semantic prompt: text and history share positions, then comes `semantic_infer`."""
        return self.n_text + 1

    def coarse_steps(self, n_semantic: int) -> int:
        """Number of coarse tokens for `n_semantic` semantic tokens, a whole number of frames (spec 4.2)."""
        return self.n_coarse * math.floor(n_semantic * self.coarse_per_semantic / self.n_coarse)


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is sampled. temperature 0 is greedy; None turns a filter off.

    filter: a custom function (logits (B, V), past) -> logits (B, V), applied before the other filters. `past`
        has an int64 tensor (n,) for each row: the indices into V that the row sampled earlier in this stage.
        It runs in Python at every step of the semantic and coarse models, and is not saved.
    """

    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None
    filter: Callable | None = dataclasses.field(default=None, metadata={"saved": False})

    def __post_init__(self) -> None:
        if not (_number(self.temperature) and (self.temperature == 0 or self.temperature >= 1e-6)):
            raise ValueError(
                f"temperature is {self.temperature!r:.99}; it must be 0 (greedy) or at least 1e-6"
            )
        if self.top_k is not None and not (_whole(self.top_k) and self.top_k >= 1):
            raise ValueError(
                f"top_k is {self.top_k!r:.99}; it must be a whole number of at least 1, or None for all"
            )
        if self.top_p is not None and not (_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p!r:.99}; it must lie in (0, 1], or be None for all")
        if self.filter is not None and not callable(self.filter):
            raise ValueError(
                f"filter is {self.filter!r:.99}; it must be a function of logits and past, or None"
            )


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of one generation.

    rules: the system whose order of filters, end rule and noise width to follow (spec 4.5, 8.2): "suno" for
        Suno's package, "transformers" for Hugging Face's. The same weights and seed then give its tokens, on
        the CPU in float32. One exception: a fine temperature of exactly 1 samples here; transformers takes
        the argmax (D24).
    min_eos_p: end the semantic stage when the end token's probability reaches this; None waits until it is
        sampled.
    max_seconds: limit on the audio's length; None leaves only `max_semantic_tokens` (768, 15.4 s).
    max_coarse_history: earlier coarse tokens in the coarse model's context.
    truncate: cut a text that is too long, with a warning, instead of raising an error.
    """

    semantic: SamplingConfig = SamplingConfig(0.7)
    coarse: SamplingConfig = SamplingConfig(0.7)
    fine: SamplingConfig = SamplingConfig(0.5)
    min_eos_p: float | None = 0.2
    max_semantic_tokens: int = 768
    max_seconds: float | None = None
    max_coarse_history: int = 630
    rules: str = "suno"
    truncate: bool = False

    def __post_init__(self) -> None:
        for name in ("semantic", "coarse", "fine"):
            if not isinstance(getattr(self, name), SamplingConfig):
                raise ValueError(f"{name} must be a SamplingConfig, for example SamplingConfig(0.7)")
        if self.fine.filter is not None:
            raise ValueError("the fine stage takes no filter: use it in the semantic or coarse stage")
        if self.min_eos_p is not None and not (_number(self.min_eos_p) and 0 < self.min_eos_p <= 1):
            raise ValueError(f"min_eos_p is {self.min_eos_p!r:.99}; it must lie in (0, 1], or be None")
        if not (_whole(self.max_semantic_tokens) and self.max_semantic_tokens >= 1):
            raise ValueError(f"max_semantic_tokens is {self.max_semantic_tokens!r:.99}; it must be 1 or more")
        if self.max_seconds is not None and not (_number(self.max_seconds) and self.max_seconds >= 0):
            raise ValueError(
                f"max_seconds is {self.max_seconds!r:.99}; it must be a number of seconds, or None"
            )
        if not (_whole(self.max_coarse_history) and self.max_coarse_history >= 1):
            raise ValueError(
                f"max_coarse_history is {self.max_coarse_history!r:.99}; it must be a whole number of tokens"
            )
        if not isinstance(self.truncate, bool):
            raise ValueError(f"truncate is {self.truncate!r:.99}; it must be True or False")
        if self.rules not in RULES:
            raise ValueError(f"rules is {self.rules!r:.99}; choose one of {', '.join(RULES)}")

    @classmethod
    def transformers(cls, **changes) -> "GenerationConfig":
        """The settings of Hugging Face's `generation_config.json` (spec 1.4): top_k 50, no min_eos_p."""
        published = dict(
            semantic=SamplingConfig(0.7, top_k=50),
            coarse=SamplingConfig(0.7, top_k=50),
            min_eos_p=None,
            rules="transformers",
        )
        return cls(**{**published, **changes})

    def semantic_limit(self, tokens: TokenConfig) -> int:
        """Maximum number of semantic tokens.

        As in Suno's package, durations are summed token by token and the token that crosses `max_seconds` is
        kept: 10 s is 499 tokens (spec 4.1).
        """
        if self.max_seconds is None:
            return self.max_semantic_tokens
        n, seconds = 1, 1 / tokens.semantic_rate
        while seconds <= self.max_seconds and n < self.max_semantic_tokens:
            n, seconds = n + 1, seconds + 1 / tokens.semantic_rate
        return n


def option(default, help: str):
    """A field of `Options`, with its help text."""
    return dataclasses.field(default=default, metadata={"help": help})


class Options:
    """Base of dataclasses whose fields are both keyword arguments and command-line flags."""

    def __init_subclass__(cls) -> None:
        """Append the fields and their help to the docstring."""
        fields = {name: value for name, value in vars(cls).items() if isinstance(value, dataclasses.Field)}
        lines = [f"    {name}: {field.metadata['help']}" for name, field in fields.items()]
        cls.__doc__ = "\n".join([cls.__doc__ or "", "", *lines])

    @classmethod
    def of(cls, given: dict, *names: str):
        """Make an instance from keyword arguments. TypeError for one that is not among `names`."""
        allowed = names or tuple(field.name for field in dataclasses.fields(cls))
        if unknown := [name for name in given if name not in allowed]:
            fields = {*GenerationConfig.__dataclass_fields__, *SamplingConfig.__dataclass_fields__}
            hint = "; it is set by config=GenerationConfig(...)" if unknown[0] in fields else ""
            raise TypeError(f"unknown option {unknown[0]!r:.99}; there are {', '.join(allowed)}{hint}")
        return cls(**given)


@dataclass(frozen=True)
class CompileConfig:
    """How decoding steps are made fast, for `compile=`. True stands for `CompileConfig()` on CUDA, and on the
    CPU for another engine, which has no settings.

    backend: of `torch.compile`: a name ("inductor", "aot_eager", "eager"), a function, or None, which leaves
        the step as it is.
    mode: of `torch.compile`, for "inductor": "default", "reduce-overhead", "max-autotune" or
        "max-autotune-no-cudagraphs". None on CUDA makes the products of one row reductions.
    dynamic: one code for all lengths and numbers of rows, where False makes one for each.
    scope: "layer" compiles a layer once for all, and what stands around the layers; "step" the whole step as
        one function, again for each model, sampler, length and number of rows.
    cuda_graphs: capture each step as a CUDA graph. Elsewhere nothing is captured.
    chunk: steps between two checks for the end of a row.
    bucket: positions; a step reads as many cached ones as the next multiple of it.
    attention: of a step's one query: "sdpa" (PyTorch's choice), one of its kernels ("flash" on the CPU,
        "efficient" and "cudnn" on CUDA, "math"), "flex" (FlexAttention), "decomposed" (sums that the compiler
        fuses), or a function (q, k, v, mask, positions) -> y; see `barklite.speed.graphs`.

    ValueError for values that do not go together.
    """

    backend: "str | Callable | None" = "inductor"
    mode: str | None = None
    dynamic: bool = False
    scope: str = "layer"
    cuda_graphs: bool = True
    chunk: int = 32
    bucket: int = 256
    attention: "str | Callable" = "decomposed"

    def __post_init__(self) -> None:
        for name, known in COMPILE_CHOICES.items():
            given = getattr(self, name)
            free = name in ("backend", "attention") and callable(given)
            if not free and not any(
                given is one or (given == one and type(given) is type(one)) for one in known
            ):
                *others, last = map(repr, known)
                raise ValueError(f"{name} is {given!r:.99}; choose {', '.join(others)} or {last}")
        for name in ("chunk", "bucket"):
            given = getattr(self, name)
            if not (_whole(given) and 1 <= given <= 65_536):
                raise ValueError(f"{name} is {given!r:.99}; it must be a whole number from 1 to 65536")
        if self.backend != "inductor" and self.mode is not None:
            raise ValueError(f"mode {self.mode!r} is inductor's, and backend is {self.backend!r:.99}")
        if self.backend != "inductor" and self.attention == "flex":
            raise ValueError("attention 'flex' needs backend 'inductor': others compute it in another way")
        if self.mode in ("reduce-overhead", "max-autotune") and self.cuda_graphs:
            raise ValueError(f"mode {self.mode!r} makes CUDA graphs of its own: set cuda_graphs=False")


COMPILE_CHOICES = {
    "backend": ("inductor", "aot_eager", "eager", None),
    "mode": (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "dynamic": (False, True),
    "scope": ("layer", "step"),
    "cuda_graphs": (True, False),
    "attention": ("sdpa", "flash", "efficient", "math", "cudnn", "flex", "decomposed"),
}


@dataclass(frozen=True)
class LoadOptions(Options):
    """How `Bark.from_pretrained` loads a model. The codec, and activations on a CPU, are always float32."""

    device: "torch.device | str | None" = option(None, "cuda, mps or cpu; default: the first available")
    dtype: "torch.dtype | str | None" = option(
        None, "the token models' weights: float32, float16 or bfloat16; default: the checkpoint's"
    )
    compile: "bool | CompileConfig" = option(
        False, "compile the decoding steps: loading takes long the first time on a machine, steps are faster"
    )
    quantize: str | None = option(
        None, "int8, or on a CPU int4: quantize the token models' weights, which changes the tokens"
    )
    offload: bool = option(False, "keep the models on the CPU and move each to the device for its stage")
    revision: str | None = option(None, "branch, tag or commit of a Hub id")
    local_files_only: bool = option(False, "take a Hub id from the cache, without the network")
    encoder: bool = option(False, "load the codec's encoder too, for Bark.encode")


@dataclass(frozen=True)
class RunOptions(Options):
    """How a generation runs. Only `retries` and `pause` can change a clip."""

    progress: bool | None = option(False, "show progress bars on stderr; None: only on a terminal")
    batch_size: int | None = option(
        None, "texts per batch; default: 8 on a CPU, else 32, or fewer if memory is short"
    )
    retries: int = option(
        0,
        "other seeds to try if a text reaches the length limit or gives no audio; clip.seed is the last one",
    )
    pause: float = option(0.25, "seconds of silence between the sentences of a long text")
    piece: float = option(0.5, "seconds of audio in each piece of Bark.stream_audio")

    def __post_init__(self) -> None:
        if not _whole(self.retries) or self.retries < 0:
            raise ValueError(f"retries is {self.retries!r:.99}; it must be a whole number of at least 0")
        if self.batch_size is not None and not (_whole(self.batch_size) and self.batch_size >= 1):
            raise ValueError(
                f"batch_size is {self.batch_size!r:.99}; it must be a whole number of at least 1"
            )
        for name in ("pause", "piece"):
            seconds = getattr(self, name)
            if not _number(seconds) or not 0 <= seconds <= 3600:
                raise ValueError(f"{name} is {seconds!r:.99}; it must be a number of seconds")


@dataclass(frozen=True)
class BarkConfig:
    """Everything but the weights: model sizes, token ids, tokenizer kind, default generation settings."""

    semantic: GPTConfig
    coarse: GPTConfig
    fine: FineConfig
    codec: CodecConfig = CodecConfig()
    tokens: TokenConfig = TokenConfig()
    tokenizer: str = "wordpiece"  # "wordpiece" | "sentencepiece" | "english" | "bytes" (random weights)
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        """Raise ValueError for models that do not fit together, instead of an index error in a stage."""
        t = self.tokens
        for ok, wrong in (
            *(
                (
                    0 < m.n_layer <= MAX_LAYERS and m.n_head > 0 and m.n_embd % m.n_head == 0,
                    f"{name}.n_layer is 0 or huge, or n_head does not divide n_embd",
                )
                for name, m in (("semantic", self.semantic), ("coarse", self.coarse), ("fine", self.fine))
            ),
            (
                min(t.semantic_rate, t.frame_rate, t.n_coarse_semantic, t.coarse_window, t.fine_hop) > 0,
                "a rate or window is 0",
            ),
            (
                self.codec.sample_rate == t.frame_rate * self.codec.hop,
                "codec.sample_rate is not frame_rate * hop",
            ),
            (self.fine.n_codes_total == t.n_codebooks, "fine.n_codes_total and tokens.n_codebooks differ"),
            (
                self.codec.n_codebooks >= t.n_codebooks,
                "the codec has fewer codebooks than tokens.n_codebooks",
            ),
            (
                self.codec.codebook_size == t.codebook_size,
                "codec.codebook_size and tokens.codebook_size differ",
            ),
            (0 < t.n_coarse < t.n_codebooks, "tokens.n_coarse must lie between 1 and n_codebooks - 1"),
            (t.fine_pad < self.fine.vocab_size, "tokens.fine_pad is outside the fine vocabulary"),
            (t.codebook_size <= t.fine_pad, "tokens.fine_pad is one of the codes"),
            (
                not any(
                    0 <= id - t.semantic_vocab_size < t.n_coarse * t.codebook_size
                    for id in (t.coarse_pad, t.coarse_infer)
                ),
                "tokens.coarse_pad or coarse_infer is the id of a code",
            ),
            (t.fine_window <= self.fine.block_size, "tokens.fine_window exceeds fine.block_size"),
            (
                t.fine_hop + t.max_fine_history <= t.fine_window,
                "fine history and hop exceed tokens.fine_window",
            ),
            (
                t.semantic_eos < self.semantic.output_vocab_size,
                "tokens.semantic_eos is outside the vocabulary",
            ),
            (
                t.semantic_vocab_size == t.semantic_eos,
                "tokens.semantic_eos must follow the last semantic token",
            ),
            (
                max(t.text_pad, t.semantic_infer) < self.semantic.input_vocab_size,
                "a text id has no embedding",
            ),
            (
                max(t.coarse_pad, t.coarse_infer) < self.coarse.input_vocab_size,
                "a coarse id has no embedding",
            ),
            (
                t.semantic_vocab_size + t.n_coarse * t.codebook_size <= self.coarse.output_vocab_size,
                "the coarse vocabulary is smaller than its codes",
            ),
            (
                t.n_semantic_history == t.n_text,
                "text and semantic history must have the same number of slots",
            ),
            (t.n_prompt <= self.semantic.block_size, "the semantic prompt exceeds semantic.block_size"),
            (
                t.n_coarse_semantic + 1 + t.max_coarse_history + t.coarse_window
                <= self.coarse.block_size + 1,
                "the coarse prompt exceeds coarse.block_size",
            ),
            (t.coarse_window % t.n_coarse == 0, "tokens.coarse_window must be a whole number of frames"),
        ):
            if not ok:
                raise ValueError(f"configuration does not fit together: {wrong}")

    def check(self, generation: GenerationConfig) -> None:
        """ValueError if `generation` asks for more tokens than these models can handle."""
        most, t = self.max_semantic_tokens, self.tokens
        if generation.max_semantic_tokens > most:
            raise ValueError(
                f"max_semantic_tokens is {generation.max_semantic_tokens}; this model makes at most {most}"
            )
        if not t.coarse_window <= generation.max_coarse_history <= t.max_coarse_history:
            raise ValueError(
                f"max_coarse_history is {generation.max_coarse_history}; "
                f"it must lie between {t.coarse_window} and {t.max_coarse_history}"
            )

    def fitted(self, generation: GenerationConfig) -> GenerationConfig:
        """Return `generation` with default lengths lowered to what these models can handle.

        ValueError if other lengths exceed it.
        """
        limits = {
            "max_semantic_tokens": self.max_semantic_tokens,
            "max_coarse_history": self.tokens.max_coarse_history,
        }
        default = GenerationConfig()
        too_long = {
            name: most
            for name, most in limits.items()
            if most < getattr(generation, name) == getattr(default, name)
        }
        generation = dataclasses.replace(generation, **too_long)
        self.check(generation)
        return generation

    @property
    def max_semantic_tokens(self) -> int:
        """The most tokens of one generation, 768: the last one sampled takes no position."""
        return self.semantic.block_size - self.tokens.n_prompt + 1

    @classmethod
    def small(cls) -> "BarkConfig":
        """suno/bark-small: 12 layers, 12 heads, width 768; 390 million parameters in the token models."""
        return cls._sized(n_layer=12, n_head=12, n_embd=768)

    @classmethod
    def large(cls) -> "BarkConfig":
        """suno/bark: 24 layers, 16 heads, width 1024; 1.09 billion parameters in the token models."""
        return cls._sized(n_layer=24, n_head=16, n_embd=1024)

    @classmethod
    def tiny(cls) -> "BarkConfig":
        """Bark's ids and windows with 2 layers of width 16 and a small codec, for tests."""
        codec = CodecConfig(n_filters=4, dimension=16)
        generation = GenerationConfig(max_seconds=3.0)  # random weights hardly ever sample the end token
        return dataclasses.replace(
            cls._sized(n_layer=2, n_head=2, n_embd=16), codec=codec, tokenizer="bytes", generation=generation
        )

    @classmethod
    def _sized(cls, **size: int) -> "BarkConfig":
        return cls(
            semantic=GPTConfig(input_vocab_size=129_600, output_vocab_size=10_048, **size),
            coarse=GPTConfig(input_vocab_size=12_096, output_vocab_size=12_096, **size),
            fine=FineConfig(**size),
        )

    def to_dict(self) -> dict:
        """Return a dict of JSON types, with the format version."""
        return {"model_type": "barklite", "format_version": FORMAT_VERSION, **_saved(self)}

    @classmethod
    def from_dict(cls, data: dict) -> "BarkConfig":
        """The inverse of `to_dict`; ValueError names an unknown, missing or ill-typed entry."""
        data = dict(data)
        version = data.pop("format_version", None)
        if data.pop("model_type", None) != "barklite":
            raise ValueError("model_type is not 'barklite'")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"format_version is {version!r}, this barklite reads {FORMAT_VERSION}; update barklite"
            )
        return _build(cls, data, "")


def _saved(value):
    """The inverse of `_build`."""
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    fields = (field.name for field in dataclasses.fields(value) if field.metadata.get("saved", True))
    return {name: _saved(getattr(value, name)) for name in fields}


def _build(cls: type, data: dict, path: str):
    """Build dataclass `cls` from JSON data, whose types must match the annotations. ValueError if not."""
    if not isinstance(data, dict):
        raise ValueError(f"{path.rstrip('.') or 'the configuration'} must be an object, not {data!r:.99}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("saved", True)}
    for name in data.keys() - fields.keys():
        raise ValueError(f"unknown entry {path + name!r:.99}")
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    for name in required - data.keys():
        raise ValueError(f"entry {path}{name} is missing")
    values = {}
    for name, value in data.items():
        kind = fields[name].type
        if dataclasses.is_dataclass(kind):
            value = _build(kind, value, f"{path}{name}.")
        elif kind is int and not (_whole(value) and 0 <= value < 2**31):
            raise ValueError(f"{path}{name} must be a whole number from 0 to 2**31 - 1, not {value!r:.99}")
        elif kind is float and not (_number(value) and (value == 0 or 1e-9 < value < 1e9)):
            raise ValueError(f"{path}{name} must be 0 or a number of reasonable size, not {value!r:.99}")
        elif kind is bool and not isinstance(value, bool):
            raise ValueError(f"{path}{name} must be true or false, not {value!r:.99}")
        elif kind is str and not isinstance(value, str):
            raise ValueError(f"{path}{name} must be a string, not {value!r:.99}")
        elif kind == tuple[int, ...]:
            whole = isinstance(value, list) and all(_whole(v) and 0 < v < 2**16 for v in value)
            if not (whole and 0 < len(value) <= MAX_RATIOS):
                raise ValueError(
                    f"{path}{name} must be a list of up to {MAX_RATIOS} positive whole numbers, "
                    f"not {value!r:.99}"
                )
            value = tuple(value)
        values[name] = value
    return cls(**values)
