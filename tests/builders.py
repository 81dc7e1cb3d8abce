"""Checkpoints in the layouts in which Bark is published, made from random weights: every oddity of spec 3.7
to 6.5.

The names are written out here a second time, from the specification, so that a slip in `weights_convert`
shows. `write_suno` and `write_huggingface` take any BarkConfig: tiny for tests, the released sizes to measure
time and memory.
"""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from barklite import Bark, BarkConfig, Voice
from barklite.config import FineConfig, GPTConfig

HUGGINGFACE = (  # barklite's names to Hugging Face's, whole dotted parts only
    ("wtes", "input_embeds_layers"),
    ("wte", "input_embeds_layer"),
    ("wpe", "position_embeds_layer"),
    ("h", "layers"),
    ("ln_1", "layernorm_1"),
    ("ln_2", "layernorm_2"),
    ("ln_f", "layernorm_final"),
    ("c_attn", "att_proj"),
    ("c_fc", "in_proj"),
    ("c_proj", "out_proj"),
)


@lru_cache
def vocabulary() -> list[str]:
    """A WordPiece vocabulary of the released length: BERT's special ids, letters, digits, signs, a few
    words.
    """
    special = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = [chr(c) for c in range(33, 127)] + ["♪", "—"]
    known = special + signs + [f"##{s}" for s in signs if s.isalnum()] + ["Hello", "hell", "##ing", "world"]
    return known + [f"[unused{i}]" for i in range(len(known), 119_547)]


def voice(name: str, n: int = 120, seed: int = 0) -> Voice:
    """A voice of random tokens in the released ranges and proportions."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1024, (8, n * 750 // 499))
    return Voice(random.integers(0, 10_000, n), codes[:2], codes, name)


def suno_state(name: str, model: torch.nn.Module, oddities: bool = True) -> dict[str, torch.Tensor]:
    """One token model's `model` entry: compiled prefix, mask buffers, heads that are tables."""
    state = {
        key if key.startswith("lm_head") else f"transformer.{key}": tensor
        for key, tensor in model.state_dict().items()
    }
    if name == "fine":
        state |= {f"lm_heads.{j}.weight": state[f"transformer.wtes.{j + 1}.weight"] for j in range(7)}
    elif oddities:
        mask = torch.ones(1, 1, 8, 8).tril()
        state |= {f"transformer.h.{i}.attn.bias": mask for i in range(model.config.n_layer)}
    return {f"_orig_mod.{key}": tensor for key, tensor in state.items()} if oddities else state


def suno_file(name: str, model: torch.nn.Module) -> dict:
    """What `torch.save` got: the model, Adam's moments, a numpy scalar, and more to ignore."""
    config = model.config
    args = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "block_size")}
    args |= {"bias": False, "dropout": 0.0}
    if name == "semantic":
        args |= {"input_vocab_size": config.input_vocab_size, "output_vocab_size": config.output_vocab_size}
    else:  # the older spelling, of both at once
        args["vocab_size"] = config.vocab_size if name == "fine" else config.input_vocab_size
    if name == "fine":
        args |= {"n_codes_total": 8, "n_codes_given": 1}
    moments = {
        i: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        for i, p in enumerate(p.detach() for p in model.parameters())
    }
    return {
        "model": suno_state(name, model),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]},
        "model_args": args,
        "iter_num": 7,
        "best_val_loss": np.float64(2.5),
        "config": {"dataset": "speech"},
    }


def codec_state(bark: Bark, huggingface: bool, weight_norm: str = "old") -> dict[str, torch.Tensor]:
    """The whole EnCodec, 32 codebooks, weight norm unfolded. The encoder is random."""
    full = Bark.from_config(codec_with_encoder(bark.config), seed=1).codec
    own = full.state_dict() | {f"decoder.{k}": t for k, t in bark.codec.decoder.state_dict().items()}
    g_name, v_name = {
        "old": ("weight_g", "weight_v"),
        "new": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    }[weight_norm]
    state = {}
    for key, tensor in own.items():
        if key == "codebooks":
            continue
        side, layer, *parts = key.split(".")
        *part, leaf = parts
        stem = f"{side}.{'layers' if huggingface else 'model'}.{layer}"
        if "_l" in leaf:
            state[f"{stem}.lstm.{leaf}"] = tensor
            continue
        up = side == "decoder" and not part and int(layer) in (3, 6, 9, 12)
        wrapper = "conv" if huggingface else "convtr.convtr" if up else "conv.conv"
        stem = ".".join([stem, *part, wrapper])
        if leaf == "bias":
            state[f"{stem}.bias"] = tensor
        else:
            state[f"{stem}.{g_name}"] = tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
            state[f"{stem}.{v_name}"] = 2 * tensor
    books = torch.cat((bark.codec.codebooks.data[:8], full.codebooks.data[8:]))
    for q, book in enumerate(books):
        stem = f"quantizer.layers.{q}.codebook" if huggingface else f"quantizer.vq.layers.{q}._codebook"
        state |= {f"{stem}.inited": torch.ones(1), f"{stem}.cluster_size": torch.ones(len(book))}
        state |= {f"{stem}.embed": book, f"{stem}.embed_avg": book}
    return {key: tensor.detach().clone() for key, tensor in state.items()}


def codec_with_encoder(config: BarkConfig) -> BarkConfig:
    from dataclasses import replace

    return replace(BarkConfig.tiny(), codec=replace(config.codec, encoder=True, n_codebooks=32))


def write_suno(path: Path, bark: Bark, size: str = "large") -> Path:
    """Suno's three files, the EnCodec file and the vocabulary."""
    path.mkdir(parents=True, exist_ok=True)
    suffix = "_2" if size == "large" else ""
    for name, file in (("semantic", "text"), ("coarse", "coarse"), ("fine", "fine")):
        torch.save(suno_file(name, getattr(bark, name)), path / f"{file}{suffix}.pt")
    torch.save(codec_state(bark, huggingface=False), path / "encodec_24khz-d7cc33bc.th")
    (path / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    return path


def huggingface_state(bark: Bark, weight_norm: str = "old", tied: bool = True) -> dict[str, torch.Tensor]:
    """The joint state dict, with boolean mask buffers; `tied` heads share storage with their tables."""
    state = {}
    names = dict(HUGGINGFACE)
    for prefix, name in (
        ("semantic", "semantic"),
        ("coarse_acoustics", "coarse"),
        ("fine_acoustics", "fine"),
    ):
        for key, tensor in getattr(bark, name).state_dict().items():
            state[f"{prefix}." + ".".join(names.get(part, part) for part in key.split("."))] = tensor
    for j in range(7 if tied else 0):
        state[f"fine_acoustics.lm_heads.{j}.weight"] = state[
            f"fine_acoustics.input_embeds_layers.{j + 1}.weight"
        ]
    for prefix, model in (("semantic", bark.semantic), ("coarse_acoustics", bark.coarse)):
        for i in range(model.config.n_layer):
            state[f"{prefix}.layers.{i}.attn.bias"] = torch.ones(1, 1, 1024, 1024, dtype=torch.bool).tril()
    return state | {f"codec_model.{k}": t for k, t in codec_state(bark, True, weight_norm).items()}


def huggingface_config(config: BarkConfig) -> dict:
    def size(model) -> dict:
        return {
            "num_layers": model.n_layer, "num_heads": model.n_head, "hidden_size": model.n_embd,
            "bias": False,
            "block_size": model.block_size, "dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
        }  # fmt: skip

    vocab = lambda m: {"input_vocab_size": m.input_vocab_size, "output_vocab_size": m.output_vocab_size}  # noqa: E731
    codec = config.codec
    return {
        "architectures": ["BarkModel"],
        "model_type": "bark",
        "semantic_config": {"model_type": "semantic", **size(config.semantic), **vocab(config.semantic)},
        "coarse_acoustics_config": {
            "model_type": "coarse_acoustics", **size(config.coarse), **vocab(config.coarse),
        },
        "fine_acoustics_config": {
            "model_type": "fine_acoustics", **size(config.fine), "input_vocab_size": 1056,
            "output_vocab_size": 1056,
            "n_codes_total": 8, "n_codes_given": 1,
        },
        "codec_config": {
            "model_type": "encodec", "sampling_rate": 24_000, "num_filters": codec.n_filters,
            "hidden_size": codec.dimension, "codebook_dim": codec.dimension, "codebook_size": 1024,
            "upsampling_ratios": list(codec.ratios), "norm_type": "weight_norm", "use_causal_conv": True,
        },
    }  # fmt: skip


def generation_config() -> dict:
    """The published file's entries that describe the model, and some of the many that do not."""
    return {
        "model_type": "bark", "sample_rate": 24_000, "codebook_size": 1024,
        "semantic_config": {
            "model_type": "semantic", "do_sample": True, "temperature": 0.7, "top_k": 50,
            "max_new_tokens": 768,
            "eos_token_id": 10_000, "semantic_pad_token": 10_000, "text_encoding_offset": 10_048,
            "text_pad_token": 129_595, "semantic_infer_token": 129_599, "semantic_vocab_size": 10_000,
            "max_input_semantic_length": 256, "semantic_rate_hz": 49.9, "max_length": 20,
        },
        "coarse_acoustics_config": {
            "model_type": "coarse_acoustics", "do_sample": True, "temperature": 0.7, "eos_token_id": None,
            "coarse_semantic_pad_token": 12_048, "coarse_rate_hz": 75, "n_coarse_codebooks": 2,
            "coarse_infer_token": 12_050, "max_coarse_input_length": 256, "max_coarse_history": 630,
            "sliding_window_len": 60,
        },
        "fine_acoustics_config": {
            "model_type": "fine_acoustics", "temperature": 0.5, "max_fine_history_length": 512,
            "max_fine_input_length": 1024, "n_fine_codebooks": 8,
        },
    }  # fmt: skip


def write_huggingface(
    path: Path, bark: Bark, weights: str = "bin", weight_norm: str = "old", vocab: str = "txt", voices=()
) -> Path:
    """The files of suno/bark-small. weights: "bin", "safetensors" or "shards"; vocab: "txt" or "json"."""
    path.mkdir(parents=True, exist_ok=True)
    if weights == "bin":
        torch.save(huggingface_state(bark, weight_norm), path / "pytorch_model.bin")
    else:
        state = huggingface_state(bark, weight_norm, tied=False)
        state = {key: tensor.detach().contiguous() for key, tensor in state.items()}
        if weights == "safetensors":
            save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        else:
            keys, shards = sorted(state), {}
            for i, part in enumerate((keys[::2], keys[1::2]), 1):
                shard = f"model-0000{i}-of-00002.safetensors"
                save_file({key: state[key] for key in part}, path / shard, metadata={"format": "pt"})
                shards |= dict.fromkeys(part, shard)
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (path / "config.json").write_text(json.dumps(huggingface_config(bark.config)))
    (path / "generation_config.json").write_text(json.dumps(generation_config()))
    if vocab == "txt":
        (path / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    ids = {token: i for i, token in enumerate(vocabulary())}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": ids}}))
    index = {"repo_or_path": "suno/bark-small"}
    for one in voices:
        index[one.name] = {}
        for array, values in (
            ("semantic_prompt", one.semantic),
            ("coarse_prompt", one.coarse),
            ("fine_prompt", one.fine.astype(np.int32)),
        ):
            file = path / "speaker_embeddings" / f"{one.name}_{array}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, values)
            index[one.name][array] = file.relative_to(path).as_posix()
    (path / "speaker_embeddings_path.json").write_text(json.dumps(index))
    return path


def oracle():
    """transformers' BarkModel at tiny size with weights large enough to make the logits differ."""
    import transformers

    size = dict(num_layers=2, num_heads=2, hidden_size=16, bias=False, block_size=1024)
    config = transformers.BarkConfig(
        semantic_config=dict(input_vocab_size=129_600, output_vocab_size=10_048, **size),
        coarse_acoustics_config=dict(input_vocab_size=12_096, output_vocab_size=12_096, **size),
        fine_acoustics_config=dict(input_vocab_size=1056, output_vocab_size=1056, **size),
        codec_config=transformers.EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16).to_dict(),
    )
    torch.manual_seed(0)
    model = transformers.BarkModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "codec_model" not in name:
                parameter.normal_(std=0.3)
        for layer in model.codec_model.quantizer.layers:
            layer.codebook.embed.normal_()
    return model


def wide(**options) -> Bark:
    """Two layers of width 64 in all token models, so that int4 has groups of 32."""
    size = dict(n_layer=2, n_head=2, n_embd=64)
    config = replace(
        BarkConfig.tiny(),
        semantic=GPTConfig(input_vocab_size=129_600, output_vocab_size=10_048, **size),
        coarse=GPTConfig(input_vocab_size=12_096, output_vocab_size=12_096, **size),
        fine=FineConfig(**size),
    )
    return Bark.from_config(config, seed=2, device="cpu", **options)
